"""The client accounts for each request, whatever the server does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.soak.latency import Latency
from tests.unit.soak.test_response import WHOLE

ROOT = Path(__file__).parents[3]
RATE = 200

#: Called with the connection and the number of the request on it; False ends the connection.
Serve = Callable[[socket.socket, int], bool]


@contextmanager
def server(serve: Serve) -> Iterator[int]:
    """Serve each connection in a thread; yield the port."""

    def connection(client: socket.socket) -> None:
        number = 0
        with client, suppress(OSError):
            while client.recv(4096):
                number += 1
                if not serve(client, number):
                    return

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=connection, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def account(port: int, *options: str, seconds: float = 0.7) -> dict[str, Any]:
    """Return the account of one client, with the sums of two phases."""
    arguments = ("127.0.0.1", str(port), f"--rate={RATE}", "--connections=4", *options)
    client = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.client", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write("none\none\n")
    client.stdin.flush()
    first = client.stdout.readline()  # it has started
    time.sleep(seconds)
    client.stdin.write("two\n")
    client.stdin.flush()
    time.sleep(seconds)
    output, _ = client.communicate("stop\n", timeout=60)
    records = [json.loads(line) for line in (first, *output.splitlines())]
    assert [record["phase"] for record in records] == ["none", "one", "two"]
    assert [record["is_last"] for record in records] == [False, False, True]
    assert records[-1]["in_flight"] == records[-1]["waiting"] == 0
    total: dict[str, Any] = {name: sum(r[name] for r in records) for name in ("sent", "answered", "closed", "opened")}
    total["failed"] = [item for record in records for item in record["failed"].items()]
    total["latency"] = Latency.of(record["histogram"] for record in records)
    assert total["sent"] == total["answered"] + sum(number for _, number in total["failed"])
    return total


def send(client: socket.socket, _number: int) -> bool:
    client.sendall(WHOLE)
    return True


def test_a_good_server() -> None:
    with server(send) as port:
        found = account(port)
    assert found["sent"] > RATE / 2
    assert (found["failed"], found["closed"], found["opened"]) == ([], 0, 4)
    assert len(found["latency"]) == found["sent"]


def test_connections_that_are_closed_between_requests() -> None:
    """The response arrives whole, with or without an announcement: no request fails, but each close is counted."""

    def close(client: socket.socket, number: int) -> bool:
        client.sendall(WHOLE.replace(b"Server:", b"Connection: close\r\nServer:") if number == 5 else WHOLE)
        return number < 5

    with server(close) as port:
        found = account(port)
    assert not found["failed"]
    assert found["closed"] >= found["sent"] // 5 - 4
    assert found["opened"] >= found["closed"]


def test_connections_that_are_closed_instead_of_a_response() -> None:
    def cut(client: socket.socket, number: int) -> bool:
        client.sendall(WHOLE[:50] if number == 5 else WHOLE)
        return number < 5

    with server(cut) as port:
        found = account(port)
    assert sum(number for _, number in found["failed"]) == found["closed"] >= 10
    assert {reason for reason, _ in found["failed"]} == {"closed without a complete response"}


def test_other_responses_fail() -> None:
    def refuse(client: socket.socket, _number: int) -> bool:
        client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        return True

    with server(refuse) as port:
        found = account(port)
    assert found["answered"] == 0
    assert {reason for reason, _ in found["failed"]} == {"unexpected response: b'HTTP/1.1 503 Service Unavailable'"}


@pytest.mark.parametrize("rate", [RATE, 0])
def test_without_a_server_each_request_fails(rate: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = account(port, f"--rate={rate}", seconds=0.3)
    assert found["answered"] == 0
    assert found["sent"] < 5000  # no busy loop
    assert {reason for reason, _ in found["failed"]} == {"sending: [Errno 111] Connection refused"}


def test_requests_that_wait_for_a_connection_count_from_when_they_were_due() -> None:
    """All four connections stall once for half a second: that delays a third of the requests, not four."""
    began: list[float] = []

    def stall(client: socket.socket, number: int) -> bool:
        began.append(time.monotonic())
        time.sleep(max(began[0] + 0.5 - time.monotonic(), 0.0))
        return send(client, number)

    with server(stall) as port:
        latency = account(port)["latency"]
    assert latency.percentile(95.0) > 0.1
    assert latency.maximum > 0.3


def test_as_many_requests_as_the_server_takes_and_a_connection_each() -> None:
    with server(send) as port:
        found = account(port, "--rate=0", "--no-keep-alive", seconds=0.5)
    assert found["sent"] == found["opened"] > RATE
    assert not found["failed"]
    assert not found["closed"]
