"""Measure the balance between workers: ``python -m benchmarks.balance``.

One line says how connections are spread a second after the service has got its workers, or their clients have left; the
others, how long short requests wait next to slow ones, and for how long of that a thread was free.
"""

from __future__ import annotations

import heapq
import itertools
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import click

from benchmarks.throughput import free_port, responds, stop

APPLICATION = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"].startswith("/slow/"):
        time.sleep(float(environ["PATH_INFO"][6:]))
    content = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
"""
COMMAND = [str(Path(sys.executable).parent / "gunicorn"), "-c", "python:flask_socketact.conf", "--log-level", "error"]
SLOW = 1.0  #: seconds that a slow request takes
PAUSE = 0.3  #: most seconds between two slow requests of a client
LEAVING = 0.8  #: part of one worker's clients that leave
SPACING = 0.15  #: mean seconds between two short requests of a client
_random = random.Random(1)  # noqa: S311 (no secrets)


@contextmanager
def serving(workers: int, threads: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a service and wait until it responds; yield its master and its port."""
    port = free_port()
    numbers = ["--workers", str(workers), "--threads", str(threads), "--worker-connections", "10000"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(APPLICATION)
        process = subprocess.Popen([*COMMAND, *numbers, "--bind", f"127.0.0.1:{port}", "app:app"], cwd=folder)
        try:
            while not responds(port):
                time.sleep(0.05)
            time.sleep(1.0)
            yield process, port
        finally:
            stop(process)


def ask(client: socket.socket, path: str = "/") -> str:
    """Send a request; return the pid of the worker that has responded."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    received = b""
    while not received.partition(b"\r\n\r\n")[2]:
        data = client.recv(4096)
        if not data:
            raise ConnectionError("closed by the server")
        received += data
    return received.partition(b"\r\n\r\n")[2].decode()


def spread(connections: int, workers: int) -> str:
    """Return how connections are spread a second after other workers have come, and after clients have left."""
    with serving(1, 4) as (process, port), ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(connections)]
        for client in clients:
            ask(client)
        for _ in range(workers - 1):
            process.send_signal(signal.SIGTTIN)
            time.sleep(0.3)
        time.sleep(1.0)
        owners = [ask(client) for client in clients]
        staying = []
        for client, owner in zip(clients, owners, strict=True):
            if owner == owners[0] and _random.random() < LEAVING:
                client.close()
            else:
                staying.append(client)
        time.sleep(1.0)
        later = [ask(client) for client in staying]
        at_first, at_last = sorted(Counter(owners).values()), sorted(Counter(later).values())
        return f"{at_first}; after {len(clients) - len(staying)} have left {at_last}"


class SlowClients:
    """Clients of slow requests, a thread each. They note when each request was in flight."""

    def __init__(self, port: int, number: int, until: float) -> None:
        self.times: list[tuple[float, float]] = []
        self._threads = [threading.Thread(target=self._run, args=(port, until)) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int, until: float) -> None:
        with socket.create_connection(("127.0.0.1", port)) as client:
            while time.monotonic() < until:
                began = time.monotonic()
                ask(client, f"/slow/{SLOW}")
                self.times.append((began, time.monotonic()))
                time.sleep(_random.uniform(0, PAUSE))

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def longest_free(self, began: float, ended: float, threads: int) -> float:
        """Return the longest time in between in which fewer than `threads` slow requests were in flight, in seconds."""
        inside = [times for times in self.times if times[0] < ended and times[1] > began]
        changes = sorted([(start, 1) for start, _ in inside] + [(end, -1) for _, end in inside] + [(ended, 0)])
        longest, number, since = 0.0, 0, began
        for changed, change in changes:
            at = min(max(changed, began), ended)
            if number < threads:
                longest = max(longest, at - since)
            since, number = at, number + change
        return longest


def short_requests(
    connect: Callable[[], socket.socket], number: int, is_over: Callable[[], bool]
) -> list[tuple[float, float]]:
    """Send short requests on `number` keep-alive connections; return when each was in flight."""
    times = []
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        clients = [stack.enter_context(connect()) for _ in range(number)]
        due = [(time.monotonic() + _random.random() * SPACING, n) for n in range(number)]
        heapq.heapify(due)
        began: dict[int, float] = {}
        while not is_over() or began:
            while due and due[0][0] <= time.monotonic() and not is_over():
                _, n = heapq.heappop(due)
                began[n] = time.monotonic()
                clients[n].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                selector.register(clients[n], selectors.EVENT_READ, n)
            for key, _ in selector.select(0.002):
                n = key.data
                selector.unregister(clients[n])
                if not clients[n].recv(4096):
                    raise ConnectionError("closed by the server")
                times.append((began.pop(n), time.monotonic()))
                heapq.heappush(due, (time.monotonic() + SPACING * _random.uniform(0.5, 1.5), n))
    return times


def waits(slow: int, short: int, workers: int, threads: int, seconds: float) -> str:
    """Return how long short requests have waited next to slow ones."""
    with serving(workers, threads) as (_, port):
        until = time.monotonic() + seconds
        clients = SlowClients(port, slow, until)
        connect = partial(socket.create_connection, ("127.0.0.1", port))
        times = short_requests(connect, short, lambda: time.monotonic() >= until)
        clients.join()
    lengths = sorted(1000 * (ended - began) for began, ended in times)
    free = max(clients.longest_free(began, ended, workers * threads) for began, ended in times)
    percentiles = ", ".join(f"p{percent} {lengths[len(times) * percent // 100]:.1f}" for percent in (50, 99))
    return (
        f"{len(times)} short requests, {percentiles}, max {lengths[-1]:.1f} ms; "
        f"longest wait while a thread was free {1000 * free:.1f} ms"
    )


@click.command()
@click.option("--seconds", default=10.0, help="Duration of the load of slow and short requests.")
def main(seconds: float) -> None:
    """Measure how evenly connections are spread, and how long requests wait for a thread."""
    for connections, workers in itertools.product((16, 64, 256, 1000), (2, 4)):
        print(f"{connections} connections, {workers} workers: {spread(connections, workers)}", flush=True)
    for slow in (8, 12, 15, 16):
        print(f"4 workers of 4 threads, {slow} slow and 64 short clients: {waits(slow, 64, 4, 4, seconds)}", flush=True)


if __name__ == "__main__":
    main()
