"""The clients of ``flask-socketact rehearse``, run by a test, and what they recorded.

They send requests to the example application. Each response is checked a second time, by http.client: its status is
200, and its content is complete and the right one.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from types import TracebackType

import h11

from flask_socketact.cli.rehearse.client_connection import Connection
from flask_socketact.cli.rehearse.clients import Client, Crowd, Group, Kind, Pace
from flask_socketact.cli.rehearse.recording import Recording
from flask_socketact.cli.rehearse.target import Target
from flask_socketact.errors import RequestError
from tests.support.http import Connect

#: Connections that may be opened at the same time: during an outage, opening one blocks its thread.
CONNECTING = 64
#: Seconds between two looks for responses that are overdue.
LOOK = 1.0
#: Seconds that a slow upload, a slow header section, or a streamed response takes.
SLOW = 2.0
LINES = 20


class _Connection(Connection):
    """A connection of the product that keeps what it receives, to check it."""

    def begin(self, request: h11.Request, deadline: float) -> bytes:
        self._received = b""
        return super().begin(request, deadline)

    def data_received(self, data: bytes) -> None:
        self._received += data
        super().data_received(data)

    async def response(self) -> None:
        """Wait for the response.

        :raises RequestError: According to the product's client or http.client it failed, or its status is not 200.
        """
        failure = ""
        try:
            await super().response()
        except RequestError as error:
            failure = str(error)
        if failure and not failure.startswith("status"):
            raise RequestError(failure)
        status, self.content = _parse(self._received)
        if status != 200:
            raise RequestError(f"status {status} {self.content[:80]!r}")


class _Bytes:
    """What http.client needs of a socket."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def makefile(self, _mode: str) -> io.BytesIO:
        return self._file


def _parse(received: bytes) -> tuple[int, bytes]:
    """Return the status and the content of a response.

    :raises RequestError: It is malformed or incomplete.
    """
    try:
        response = HTTPResponse(_Bytes(received))  # type: ignore[arg-type]
        response.begin()
        return response.status, response.read()
    except HTTPException as error:
        raise RequestError(f"{error!r}: {received[:200]!r}") from error


@dataclass(frozen=True)
class _Target(Target):
    """A page of a server; a function of the test opens the connections."""

    open: Connect

    async def connect(self) -> Connection:
        opened = await asyncio.to_thread(self.open)
        opened.setblocking(False)
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, sock=opened)
        return connection


def _expect(client: Client, content: bytes) -> None:
    assert isinstance(client.connection, _Connection)
    if client.connection.content != content:
        raise RequestError(f"wrong content: {client.connection.content[:80]!r}")


async def _new(client: Client) -> None:
    """Send a request on a connection of its own. If the response announces a close, the close is counted."""
    await client.get()
    client.finish()


def _working(seconds: float) -> Callable[[Client], Awaitable[None]]:
    """Return a function that sends a request whose view takes `seconds`; they do not count as waiting."""

    async def ask(client: Client) -> None:
        await client.get()
        client.own += seconds

    return ask


async def _stream(client: Client) -> None:
    """Receive a response in pieces."""
    await client.get()
    client.own += SLOW
    _expect(client, b"".join(b"%d\n" % number for number in range(LINES)))


async def _upload(client: Client) -> None:
    """Send content in pieces; the response is its hash."""
    content = os.urandom(400_000)
    await client.post_slowly(content)
    _expect(client, hashlib.sha256(content).hexdigest().encode() + b"\n")


@dataclass(frozen=True)
class _Clients:
    """What a kind of clients sends, to which path, and the mean pause between two requests, in seconds."""

    ask: Callable[[Client], Awaitable[None]]
    path: str = "/"
    pause: float = 0.1


KINDS = {
    "new connection": _Clients(_new),
    "keep-alive": _Clients(Client.get),
    "keep-alive, never pausing": _Clients(_working(0.01), "/sleep/0.01", 0.0),
    "keep-alive, mostly idle": _Clients(Client.get, pause=2.0),
    "long request": _Clients(_working(3.0), "/sleep/3.0", 0.25),
    "longer request": _Clients(_working(12.0), "/sleep/12.0", 0.25),
    "streamed response": _Clients(_stream, f"/stream/{LINES}", 0.25),
    "slow upload": _Clients(_upload, "/upload", 0.25),
    "slow request": _Clients(Client.get_slowly, pause=0.25),
}
#: How many of each: more would not fit the eight threads of the example on a small machine.
CLIENTS = {
    "new connection": 6,
    "keep-alive": 6,
    "keep-alive, mostly idle": 4,
    "long request": 2,
    "streamed response": 2,
    "slow upload": 2,
    "slow request": 2,
}


class Load:
    """Clients that send requests, again and again, for the length of a ``with`` block. A request is never retried."""

    def __init__(self, connect: Connect, clients: Mapping[str, int] = CLIENTS) -> None:
        self._connect = connect
        self._clients = clients
        self._recordings = {kind: Recording([kind]) for kind in clients}
        self._stopping = asyncio.Event()

    def __enter__(self) -> Load:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(CONNECTING))
        self._thread = threading.Thread(target=self._loop.run_forever, name="load")
        self._thread.start()
        self._running = asyncio.run_coroutine_threadsafe(self._run(), self._loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until every client has its response."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        try:
            self._running.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def requests(self) -> int:
        """Number of requests that have ended so far."""
        return sum(map(len, self._recordings.values()))

    def requests_by_kind(self) -> dict[str, int]:
        """Return the same for each kind of clients."""
        return {kind: len(recording) for kind, recording in self._recordings.items()}

    def failures(self) -> Counter[str]:
        """Return the kinds and reasons of failed requests, and how often each occurred."""
        return Counter(
            f"{kind}: {recording.reasons[number]}"
            for kind, recording in self._recordings.items()
            for number in list(recording.failure)
            if number
        )

    @property
    def closed_by_server(self) -> int:
        """Number of connections that the server closed and their clients would have used again."""
        return sum(len(recording.closed_at) for recording in self._recordings.values())

    def closures(self) -> list[str]:
        """Return which connections those were, and when they were closed, in seconds since the first request."""
        return [f"{kind} {at:.2f}" for kind, recording in self._recordings.items() for at in recording.closed_at]

    def waits(self, *kinds: str) -> list[float]:
        """Return the seconds that each request took, without the time that client and view take on purpose.

        Call it after the block. `kinds` are the kinds of clients; none: all.
        """
        return [row.answering for kind in kinds or self._recordings for row in self._recordings[kind]]

    def longest_wait(self, *kinds: str) -> float:
        """Return the longest of :meth:`waits`."""
        return max(self.waits(*kinds), default=0.0)

    async def _run(self) -> None:
        crowds = [self._crowd(kind, number) for kind, number in self._clients.items()]
        for crowd in crowds:
            crowd.start()
        watch = asyncio.create_task(_watch(crowds))
        await self._stopping.wait()
        await asyncio.gather(*(crowd.stop() for crowd in crowds))
        watch.cancel()
        await asyncio.sleep(0.0)  # connections that were closed end in the next turn of the loop
        await self._loop.shutdown_default_executor()

    def _crowd(self, name: str, number: int) -> Crowd:
        clients = KINDS[name]
        target = _Target("app", clients.path, "", self._connect)
        group = Group(Kind(name, "", clients.ask), number, target)
        return Crowd([group], Pace(think=clients.pause, slow=SLOW), self._recordings[name], self._loop.time())


async def _watch(crowds: list[Crowd]) -> None:
    """Let responses fail that are overdue."""
    while True:
        await asyncio.sleep(LOOK)
        for crowd in crowds:
            crowd.expire()
