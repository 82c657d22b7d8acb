"""Clients that mean no good, of an application that behaves no better (tests/support/hostile_app.py)."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from tests.support.http import Connect

#: Exceptions of all kinds, those that servers take for their own among them.
EXCEPTIONS = (
    *("Odd", "BaseException", "KeyboardInterrupt", "CancelledError", "GeneratorExit", "SystemExit", "StopIteration"),
    *("ConnectionRefusedError", "BrokenPipeError", "ConnectionResetError", "TimeoutError", "OSError", "MemoryError"),
    *("RecursionError", "ValueError"),
)
PLACES = ("view", "first", "later", "close", "async")
DEEDS = (
    *("socket-close", "socket-detach", "socket-settimeout", "socket-shutdown", "signal-urg", "signal-winch"),
    *("signal-usr1", "timer", "thread", "stuck", "chdir", "umask", "stdout", "logging", "handlers", "record"),
)
CHILDREN = ("exit", "leave", "raise", "return", "multiprocessing")
RAW = ("never", "twice", "text", "number", "long", "short", "none")
#: Masked frames: Close, with status 1000; and a text of two bytes.
CLOSE_FRAME, TEXT_FRAME = b"\x88\x82\0\0\0\0\x03\xe8", b"\x81\x82\0\0\0\0hi"

#: How long a hostile client waits for an answer, in seconds.
PATIENCE = 0.5

Choose = random.Random  #: seeded, so that a run can be repeated

#: What a worker that has ended unasked leaves in the log, and what the worker's own code never says.
_UNASKED = re.compile(
    "exited with code|was sent SIG|WORKER TIMEOUT|has not exited|no sign of life|Unexpected error|failed too often"
)


#: Lines of a log that say nothing of the server: tracebacks of errors on purpose, and access lines.
_NOISE = re.compile(r"^(\s.*|.*(Traceback |on purpose| HTTP/1\.1\" |Error handling request).*)\n", re.MULTILINE)


def essence(log: str) -> str:
    """Return what a log says of the server itself, as far as a message may be long."""
    return _NOISE.sub("", log)[-12000:]


def unasked(log: str) -> str:
    """Return the places of a log at which a worker has ended unasked, each with the traceback that follows."""
    return "\n…\n".join(log[found.start() : found.start() + 3000] for found in _UNASKED.finditer(log))


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: app", *lines, "", ""]).encode()


def ask(client: socket.socket, path: str) -> None:
    """Ask, on a connection that may be used again, and take what comes."""
    client.sendall(get(path))
    client.recv(65536)


def raises(client: socket.socket, choose: Choose) -> None:
    ask(client, f"/{choose.choice(PLACES)}/{choose.choice(EXCEPTIONS)}")


def does(client: socket.socket, choose: Choose) -> None:
    ask(client, f"/deed/{choose.choice(DEEDS)}")


def forks(client: socket.socket, choose: Choose) -> None:
    ask(client, f"/fork/{choose.choice(CHILDREN)}")


def answers_badly(client: socket.socket, choose: Choose) -> None:
    ask(client, f"/raw/{choose.choice(RAW)}")


def ends_a_websocket(client: socket.socket, choose: Choose) -> None:
    key = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==")
    client.sendall(get(choose.choice(("/hi", "/echo")), *key, "Sec-WebSocket-Version: 13"))
    client.recv(65536)
    client.sendall(choose.choice((CLOSE_FRAME, TEXT_FRAME + CLOSE_FRAME, TEXT_FRAME, b"\xff" * 30, b"")))
    if choose.random() < 0.5:
        client.recv(65536)


def aborts_an_upload(client: socket.socket, choose: Choose) -> None:
    head = b"POST /upload HTTP/1.1\r\nHost: a\r\n"
    client.sendall(
        head
        + choose.choice(
            (
                b"Content-Length: 100000\r\n\r\nhalf",
                b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
                b"Transfer-Encoding: chunked\r\n\r\n5\r\nhellox\r\n",
            )
        )
    )
    if choose.random() < 0.5:
        client.shutdown(socket.SHUT_WR)
        client.recv(65536)


def aborts_a_download(client: socket.socket, choose: Choose) -> None:
    client.sendall(get("/large"))
    client.recv(choose.choice((1, 1000, 100_000)))
    if choose.random() < 0.3:
        time.sleep(1)  # and takes nothing more


def sends_garbage(client: socket.socket, choose: Choose) -> None:
    garbage = (b"\x16\x03\x01\x02\0", b"GET / HTTP/1.1\r\nHos", b"\0" * 100, b"\r\n\r\n", b"PRI * X\r\n")
    client.sendall(choose.choice(garbage))
    if choose.random() < 0.5:
        client.recv(65536)


KINDS: tuple[Callable[[socket.socket, Choose], None], ...] = (
    *(raises, does, forks, answers_badly),
    *(ends_a_websocket, aborts_an_upload, aborts_a_download, sends_garbage),
)


class Hostility:
    """Hostile clients, for the length of a ``with`` block: so many at a time, each with a connection for each deed,
    which it closes or resets. None of them ever pauses."""

    def __init__(self, connect: Connect, clients: int, seed: int) -> None:
        self.seed = seed
        self.done: Counter[str] = Counter()
        self._connect = connect
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._go_on, args=(Choose(seed + number),)) for number in range(clients)
        ]

    def __enter__(self) -> Hostility:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self, choose: Choose) -> None:
        while not self._stop.is_set():
            deed = choose.choice(KINDS)
            self.done[deed.__name__] += 1
            with contextlib.suppress(OSError), self._connect() as client:
                client.settimeout(PATIENCE)
                deed(client, choose)
                if choose.random() < 0.5:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
