"""Measure the cost of slow uploads: ``python -m benchmarks.uploads``.

2,000 clients send 100 kB each, at 1 kB/s, while wrk's 200 clients never pause: the latency of wrk's requests with and
without them, in turn; the memory of the processes; and whether each upload got its response.
"""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from benchmarks.idle import connect
from benchmarks.throughput import SERVERS, latency, proportional_memory, serving, wrk

#: Of wrk.
CONNECTIONS = 200
#: Bytes per client and second.
RATE = 1000
THREADS = 4


class Uploads:
    """Clients that upload `size` bytes each; each sends `RATE` bytes every second."""

    def __init__(self, port: int, number: int, size: int) -> None:
        self._size = size
        self._clients = [connect(port) for _ in range(number)]
        self.answered = 0
        self._sender = threading.Thread(target=self._send)
        self._sender.start()

    def _send(self) -> None:
        header = f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {self._size}\r\n\r\n".encode()
        for client in self._clients:
            client.sendall(header)
        began = time.monotonic()
        for second in range(self._size // RATE):
            for number, client in enumerate(self._clients):
                due = began + second + number / len(self._clients)
                if (early := due - time.monotonic()) > 0:
                    time.sleep(early)
                client.sendall(b"x" * RATE)
        self.answered = sum(self._is_answered(client) for client in self._clients)

    def _is_answered(self, client: socket.socket) -> bool:
        response = client.recv(4096)
        client.close()
        return response.startswith(b"HTTP/1.1 200") and response.endswith(str(self._size).encode())

    def join(self) -> None:
        """Wait until they have ended."""
        self._sender.join()


@contextmanager
def watching_memory(pid: int) -> Iterator[list[float]]:
    """Yield a list that gets the memory of a process and its descendants every two seconds, in MB."""
    found = [proportional_memory(pid)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(2):
            found.append(proportional_memory(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield found
    stop.set()
    watcher.join()


@click.command()
@click.option("--server", type=click.Choice(list(SERVERS)), default="flask_socketact")
@click.option("--uploads", "number", default=2000, show_default=True)
@click.option("--size", default=100_000, show_default=True, help="Bytes of each upload.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--path", type=click.Choice(["/", "/wait"]), default="/", help="Of wrk's requests; /wait sleeps 50 ms.")
def main(server: str, number: int, size: int, rounds: int, path: str) -> None:
    """Measure the cost of slow uploads for a server with two workers."""
    seconds = size // RATE
    without, slowed, used, answered = [], [], [], 0
    for _ in range(rounds):
        with serving(server, THREADS) as (_, port):
            without.append(latency(wrk(port, path, CONNECTIONS, seconds), 99))
        with serving(server, THREADS) as (process, port), watching_memory(process.pid) as memory:
            uploads = Uploads(port, number, size)
            slowed.append(latency(wrk(port, path, CONNECTIONS, seconds), 99))
            uploads.join()
            answered += uploads.answered
        used.append(max(memory) - memory[0])
    before, after = statistics.median(without), statistics.median(slowed)
    print(f"{server}, {path}: p99 {before:.2f} ms; with {number} slow uploads {after:.2f} ms", end=", ")
    print(f"ratio {after / before:.2f} (medians of {rounds} starts)")
    print(f"{answered} of {rounds * number} uploads answered; {max(used):.0f} MB more memory")


if __name__ == "__main__":
    main()
