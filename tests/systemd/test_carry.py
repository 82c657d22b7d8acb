"""Idle connections of distant clients survive restarts, reloads and recycled workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.delay import DelayingProxy
from tests.support.http import Connect, ask
from tests.support.load import Load
from tests.support.machine import Machine, drop_in, release
from tests.support.operations import SLOW

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND_TRIP = 0.12  #: seconds
IDLE = {"keep-alive, mostly idle": 200}
TIMES = 3

ONE_REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"


def in_the_mailbox(machine: Machine) -> int:
    """Return how many senders wait to be accepted."""
    lines = machine.run("ss", "--no-header", "--unix", "--listening", "src", "/run/app/mailbox").stdout.split()
    return int(lines[2])


def left_workers(machine: Machine) -> int:
    return machine.journal("app").count("Worker exiting")


@pytest.mark.parametrize(("verb", "listener"), [("restart", "tcp"), ("restart", "unix"), ("reload", "tcp")])
def test_no_connection_is_closed(
    machine: Machine, verb: str, listener: str, request: pytest.FixtureRequest, figure: Callable[[str], None]
) -> None:
    connect: Connect = request.getfixturevalue(listener)
    unit = {"tcp": "app", "unix": "app-unix"}[listener]
    machine.systemctl("start", unit)
    with DelayingProxy(connect, ROUND_TRIP) as proxy, Load(proxy.connect, IDLE) as load:
        machine.wait_for(lambda: load.requests > 2 * IDLE["keep-alive, mostly idle"], "the first answers")
        for _ in range(TIMES):
            seen = load.requests
            before = set(machine.workers(unit))
            machine.systemctl(verb, unit)
            machine.wait_for(
                lambda before=before: before.isdisjoint(machine.workers(unit)),  # type: ignore[misc]
                "the old workers to leave",
            )
            machine.wait_for(lambda seen=seen: load.requests > seen + 50, "responses")  # type: ignore[misc]
    assert not load.failures()
    assert load.closed_by_server == 0
    figure(f"{TIMES} times {verb}, {load.requests} requests of 200 clients, 0 failed, 0 connections closed")


def test_no_connection_is_closed_by_recycled_workers(
    machine: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--max-requests 100"\n')
    machine.systemctl("start", "app")
    left = left_workers(machine)
    with DelayingProxy(tcp, ROUND_TRIP) as proxy, Load(proxy.connect, IDLE) as load:
        machine.wait_for(lambda: left_workers(machine) >= left + TIMES, "recycled workers", 120)
    assert not load.failures()
    assert load.closed_by_server == 0
    figure(f"{TIMES} recycled workers, {load.requests} requests of 200 clients, 0 failed, 0 connections closed")


def test_a_stop_leaves_nothing_in_the_mailbox(machine: Machine, tcp: Connect) -> None:
    """systemd would start the service again for a message in it."""
    machine.systemctl("start", "app")
    clients = [tcp() for _ in range(20)]
    for client in clients:
        client.sendall(ONE_REQUEST)
        assert b"200 OK" in client.recv(4096)
    machine.systemctl("restart", "app")
    machine.systemctl("reload", "app")
    machine.systemctl("stop", "app")
    assert in_the_mailbox(machine) == 0
    assert machine.show("app", "ActiveState") == "inactive"
    for client in clients:
        client.close()
    assert machine.show("app", "ActiveState") == "inactive"
    assert ask(tcp)[0] == 200


@pytest.mark.parametrize("verb", ["restart", "stop"])
def test_the_mailbox_when_a_start_is_ended(machine: Machine, tcp: Connect, verb: str) -> None:
    """The master was killed, and its workers have left their connections in the mailbox; then the start of the next one
    is ended. In a restart the one after that reads the mailbox; in a stop nothing may start the service again."""
    drop_in(machine, "app.service", "[Service]\nEnvironment=GUNICORN_CMD_ARGS=--graceful-timeout=2\n")
    machine.systemctl("start", "app")
    client = tcp()
    client.sendall(ONE_REQUEST)
    assert b"200 OK" in client.recv(4096)
    release(machine, SLOW.replace("1.5", "600"))
    machine.run("kill", "-9", machine.show("app", "MainPID"))
    machine.wait_for(lambda: machine.show("app", "StatusText").startswith("Loading"), "the next start", 10)
    client.sendall(ONE_REQUEST)
    assert in_the_mailbox(machine)
    release(machine)
    machine.systemctl(verb, "app")
    if verb == "restart":
        assert b"200 OK" in client.recv(4096)
    assert in_the_mailbox(machine) == 0
    assert machine.show("app", "ActiveState") == ("active" if verb == "restart" else "inactive")
    client.close()


def test_a_message_of_another_user_is_rejected_by_the_mailbox(machine: Machine, tcp: Connect) -> None:
    """Even of root, which may connect, but is not the service's user."""
    machine.systemctl("start", "app")
    machine.run(
        "python3", "-c", "import socket; s = socket.socket(1, socket.SOCK_SEQPACKET); s.connect('/run/app/mailbox')"
    )
    machine.wait_for(
        lambda: "Mailbox: rejected sender: uid 0 is not the service user" in machine.journal("app"), "a refusal"
    )
    assert ask(tcp)[0] == 200
    assert machine.show("app", "NRestarts") == "0"
