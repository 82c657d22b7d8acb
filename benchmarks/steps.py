"""Measure the time of a request by step, in one worker without a network: ``python -m benchmarks.steps``.

The steps take longer around Flask than around an application that does nothing: Flask leaves little of our code in the
processor's caches. The measurement itself adds a tenth of a microsecond to each step.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import click
from gunicorn.config import Config

from benchmarks.app import app as flask
from flask_socketact.http.connection import Connection
from flask_socketact.http.response import Response
from flask_socketact.http.transport import Transport
from flask_socketact.logs.logger import Logger
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.lasting import RequestThread
from flask_socketact.workers.leader import ThreadPool
from flask_socketact.workers.request_cycle import RequestCycle
from flask_socketact.workers.thread import ThreadWorker

PLAIN = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"
BROWSER = (
    b"GET /?a=b HTTP/1.1\r\nHost: www.example.org\r\nX-Real-IP: 203.0.113.9\r\nX-Forwarded-For: 203.0.113.9\r\n"
    b"X-Forwarded-Proto: https\r\nX-Request-Id: 7f3c9a2b5d1e4f60\r\nAccept-Language: de-DE,de;q=0.9,en;q=0.8\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\n"
    b"Cookie: session=eyJ1c2VyIjoxfQ.aSrVQQ.Q2lhbyBhIHR1dHRp; theme=dark\r\n\r\n"
)
WARM_UP = 2000  #: requests
#: What begins when a function is called, and what when it has returned.
STEPS: list[tuple[type, str, str, str]] = [
    (Connection, "read_request", "parse", "turn"),
    (Transport, "receive_now", "recv(2)", "parse"),
    (RequestCycle, "_create_response", "environ", "turn"),
    (Response, "start_response", "start_response", "application"),
    (Response, "send", "write", "turn"),
    (Transport, "send_now", "send(2)", "write"),
]


class Steps:
    """The time of each step, summed up."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._step, self._since = "turn", 0

    def begin(self, step: str) -> None:
        """Count the time until the next call for `step`."""
        now = time.perf_counter_ns()
        self.seconds[self._step] += now - self._since
        self._step, self._since = step, now

    def watch(self, function: Callable[..., Any], inside: str, after: str) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            self.begin(inside)
            try:
                return function(*arguments)
            finally:
                self.begin(after)

        return watched


def nothing(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Respond as the trivial view does, without Flask."""
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", "6")])
    return [b"Hello\n"]


def make_worker(listener: socket.socket) -> ThreadWorker:
    cfg = Config()
    cfg.set("errorlog", os.devnull)
    worker = ThreadWorker(1, os.getppid(), [listener], None, 30, cfg, Logger(cfg))
    worker.board = Scoreboard()
    worker.slot = worker.board.take(1, 1)
    worker.loop = Loop(worker)
    return worker


def measure(worker: ThreadWorker, request: bytes, steps: Steps, requests: int) -> None:
    """Send requests on one connection, and serve each with this thread."""
    pool = ThreadPool(worker)
    pool.leader = thread = RequestThread()
    listener = worker.sockets[0]
    with socket.create_connection(listener.getsockname()) as client:
        accepted, address = listener.accept()
        connection = worker.loop.adopt(accepted, address, listener.getsockname(), "http")
        worker.loop.set_deadline(connection, begun=True)
        worker.loop.rejoin(connection)
        for number in range(requests + WARM_UP):
            client.sendall(request)
            connection.enqueue()
            if number == WARM_UP:
                steps.seconds.clear()
            steps._since = time.perf_counter_ns()
            pool._serve(thread, connection)
            steps.begin("turn")
            client.recv(4096)


@click.command()
@click.option("--requests", default=10_000, help="Number of requests.")
def main(requests: int) -> None:
    """Print the time of each step, in microseconds."""
    steps = Steps()
    for owner, name, inside, after in STEPS:
        setattr(owner, name, steps.watch(getattr(owner, name), inside, after))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = make_worker(listener)
        for name, request in (("plain", PLAIN), ("a browser's, behind nginx", BROWSER)):
            for label, application in (("without Flask", nothing), ("with Flask", flask)):
                worker.wsgi = steps.watch(application, "application", "turn")
                measure(worker, request, steps, requests)
                times = ", ".join(f"{step} {total / requests / 1000:.1f}" for step, total in steps.seconds.items())
                print(f"{name}, {label}: {sum(steps.seconds.values()) / requests / 1000:.1f} µs: {times}", flush=True)


if __name__ == "__main__":
    main()
