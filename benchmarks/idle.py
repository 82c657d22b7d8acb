"""Measure the cost of idle and slow clients: ``python -m benchmarks.idle``.

2,000 idle keep-alive connections: the processes' threads and memory, before and after. 200 clients that send one byte
of a header section every second: the latency of wrk's requests with and without them, in turn.
"""

from __future__ import annotations

import socket
import statistics
import threading
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from benchmarks.throughput import SERVERS, latency, processes, proportional_memory, serving, wrk

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE = 2000
SLOW = 200
ROUNDS = 5
SECONDS = 4
CONNECTIONS = 16
THREADS = 4
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def threads(pid: int) -> int:
    """Return the number of threads of a process and its descendants."""
    return sum(len(list((process / "task").iterdir())) for process in processes(pid))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


@contextmanager
def slow_clients(port: int) -> Iterator[None]:
    """Let clients send one byte of a header section every second, and reconnect when the server closes."""
    stop = threading.Event()
    clients = [connect(port) for _ in range(SLOW)]
    headers = REQUEST[:-4] + b"; " * 100

    def send() -> None:
        position = 0
        while True:
            for number, client in enumerate(clients):
                if stop.wait(1 / SLOW):
                    return
                try:
                    client.sendall(headers[position : position + 1])
                except OSError:
                    clients[number] = connect(port)
            position += 1

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(0.5)  # all of them have been accepted
    yield
    stop.set()
    sender.join()
    for client in clients:
        client.close()


@click.command()
@click.option("--server", type=click.Choice(list(SERVERS)), default="flask_socketact")
def main(server: str) -> None:
    """Measure the cost of idle and slow clients for a server with two workers."""
    with serving(server, THREADS) as (process, port):
        memory, count = proportional_memory(process.pid), threads(process.pid)
        clients = [connect(port) for _ in range(IDLE)]
        for client in clients:
            client.sendall(REQUEST)
            assert b"200 OK" in client.recv(4096)
        each = (proportional_memory(process.pid) - memory) * 1024 / IDLE
        more = threads(process.pid) - count
        print(f"{server}: {IDLE} idle connections: {each:.1f} kB of memory each, {more} more threads")
        for client in clients:
            client.close()
    found: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(ROUNDS):
        for name, latencies in found.items():
            with serving(server, THREADS) as (_, port):
                others: AbstractContextManager[None] = slow_clients(port) if name == "with" else nullcontext()
                with others:
                    latencies.append(latency(wrk(port, "/", CONNECTIONS, SECONDS), 99))
    without, slowed = statistics.median(found["without"]), statistics.median(found["with"])
    print(f"{server}: p99 {without:.2f} ms; with {SLOW} clients that send a byte a second {slowed:.2f} ms", end=", ")
    print(f"ratio {slowed / without:.2f} (medians of {ROUNDS} starts)")


if __name__ == "__main__":
    main()
