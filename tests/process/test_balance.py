"""Workers give each other connections: to one that has fewer, or that has a free thread while a request waits."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.http import exchange
from tests.support.server import CONF, Server, dial, tcp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 20.0
LONG = b"GET /sleep/4 HTTP/1.1\r\nHost: a\r\n\r\n"


def workers_of(clients: list[socket.socket]) -> list[str]:
    """Return which worker has each connection, by its pid."""
    return [str(exchange(client)["pid"]) for client in clients]


def is_even(counts: Counter[str], workers: int) -> bool:
    """Return whether numbers of connections differ by at most a quarter, or by one."""
    most, least = max(counts.values()), min(counts.values())
    return len(counts) == workers and most - least <= max(1, least / 4)


def seconds_until_even(clients: list[socket.socket], workers: int) -> float:
    began = time.monotonic()
    while not is_even(counts := Counter(workers_of(clients)), workers):
        assert time.monotonic() - began < PATIENCE, counts
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize("at_once", [False, True])
def test_connections_are_spread_from_the_start(plain: Path, at_once: bool, figure: Callable[[str], None]) -> None:
    longest = 0.0
    for _ in range(5):
        with tcp() as http, Server(plain, *CONF, "--workers", "2", "app:app", listeners={"http": http}) as server:
            server.wait_until_ready()
            with contextlib.ExitStack() as stack:
                if at_once:
                    clients = [stack.enter_context(dial(http)) for _ in range(16)]
                    with ThreadPoolExecutor(16) as pool:
                        list(pool.map(exchange, clients))
                else:
                    clients = []
                    for _ in range(16):
                        clients.append(stack.enter_context(dial(http)))
                        exchange(clients[-1])
                longest = max(longest, seconds_until_even(clients, 2))
    figure(f"{longest:.2f} s at most")


@pytest.mark.parametrize("number", [16, 64, 256])
def test_connections_are_spread_when_workers_and_clients_come_and_go(
    plain: Path, number: int, figure: Callable[[str], None]
) -> None:
    with (
        tcp() as http,
        Server(plain, *CONF, "--workers", "1", "--keep-alive", "60", "app:app", listeners={"http": http}) as server,
        contextlib.ExitStack() as stack,
    ):
        server.wait_until_ready()
        clients = [stack.enter_context(dial(http)) for _ in range(number)]
        assert len(set(workers_of(clients))) == 1
        server.process.send_signal(signal.SIGTTIN)
        until_new = seconds_until_even(clients, 2)
        owners = workers_of(clients)
        staying = [client for client, owner in zip(clients, owners, strict=True) if owner == owners[0]]
        for client, owner in zip(clients, owners, strict=True):
            if owner != owners[0]:
                client.close()
        until_gone = seconds_until_even(staying, 2)
        figure(f"{until_new:.2f} s after SIGTTIN, with its import; {until_gone:.2f} s after half of them have left")


def test_no_request_waits_while_a_sibling_has_a_free_thread(
    plain: Path, http: socket.socket, figure: Callable[[str], None]
) -> None:
    """One worker of two has requests of 4 s in all its threads; others on its connections are served by the other."""
    arguments = (*CONF, "--workers", "2", "--threads", "2", "--keep-alive", "60")
    with (
        Server(plain, *arguments, "app:app", listeners={"http": http}) as server,
        contextlib.ExitStack() as stack,
    ):
        server.wait_until_ready()
        clients = [stack.enter_context(dial(http)) for _ in range(12)]
        seconds_until_even(clients, 2)
        owners = workers_of(clients)
        theirs = [client for client, owner in zip(clients, owners, strict=True) if owner == owners[0]]
        sleeping, others = theirs[:2], theirs[2:]
        for client in sleeping:
            client.sendall(LONG)
        longest = 0.0
        for _ in range(3):
            for client in others:
                began = time.monotonic()
                exchange(client)
                longest = max(longest, time.monotonic() - began)
        assert not select.select(sleeping, [], [], 0)[0], longest
        for client in sleeping:
            exchange(client, b"")
        figure(f"the longest of {3 * len(others)} requests took {longest * 1000:.1f} ms")


def test_new_connections_go_to_a_free_worker_too(plain: Path, http: socket.socket) -> None:
    """Also if the kernel has woken the one whose threads are busy."""
    arguments = (*CONF, "--workers", "2", "--threads", "1", "--keep-alive", "60")
    with Server(plain, *arguments, "app:app", listeners={"http": http}) as server, contextlib.ExitStack() as stack:
        server.wait_until_ready()
        sleeping = stack.enter_context(dial(http))
        sleeping.sendall(LONG)
        for _ in range(20):
            with dial(http) as client:
                exchange(client)
        assert not select.select([sleeping], [], [], 0)[0]
        exchange(sleeping, b"")


def test_a_reload_without_systemd_closes_no_connection(plain: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    with Server(plain, *CONF, "--workers", "2", "--keep-alive", "60", "--bind", f"{host}:{port}", "app:app") as server:
        server.wait_until_ready()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection((host, port), timeout=10)) for _ in range(8)]
            old = set(workers_of(clients))
            server.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + PATIENCE
            while old & set(workers_of(clients)):
                assert time.monotonic() < deadline, server.log
                time.sleep(0.05)
