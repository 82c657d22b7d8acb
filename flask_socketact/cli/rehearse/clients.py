"""Kinds of clients that a restart usually breaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import h11

from flask_socketact.cli.rehearse.client_connection import Connection, reason
from flask_socketact.cli.rehearse.recording import Recording
from flask_socketact.cli.rehearse.target import Target
from flask_socketact.errors import RequestError

#: Number of pieces of a slow request.
PIECES = 20
#: Size of an upload, in bytes.
UPLOAD = 100_000
#: Time until all clients have started, in seconds.
WARM_UP = 2.0
#: Least pause of a client after a failure, in seconds: thousands of failures show no more than a few.
PAUSE_AFTER_FAILURE = 0.1


@dataclass(frozen=True)
class Pace:
    """Pauses and timeouts of clients, in seconds."""

    think: float = 0.1  #: average pause between a response and the next request
    idle: float = 5.0  #: the same for idle clients
    slow: float = 2.0  #: duration of a slow request, and silence of silent clients
    timeout: float = 60.0  #: of a request


class Client:
    """One client, with at most one connection."""

    def __init__(self, target: Target, pace: Pace, on_close: Callable[[float], None]) -> None:
        self.pace = pace
        self.connection: Connection | None = None
        self.own = 0.0  #: deliberate pauses of the request in flight, in seconds
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._headers = [("Host", target.host), ("User-Agent", "flask-socketact-rehearse")]
        self._get = h11.Request(method="GET", target=target.path, headers=self._headers)

    async def connect(self) -> Connection:
        """Return the connection; a new one if the server closed the last one.

        :raises RequestError: the connection failed.
        """
        if self.connection is not None:
            if self.connection.is_reusable:
                return self.connection
            self.finish()
        seconds = self.pace.timeout
        try:
            connection = await asyncio.wait_for(self._target.connect(), seconds)
        except asyncio.TimeoutError:  # before OSError, its base class since Python 3.11
            raise RequestError(f"no connection within {seconds:g} s") from None
        except OSError as error:
            raise RequestError(reason(error)) from None
        self.connection = connection
        return connection

    async def get(self) -> None:
        connection = await self.connect()
        head = connection.begin(self._get, self._deadline())
        connection.write(head + connection.end())
        await connection.response()

    async def get_slowly(self) -> None:
        """Send the header section of a request in pieces."""
        connection = await self.connect()
        head = connection.begin(self._get, self._deadline() + self.pace.slow)
        await self._send_slowly(connection, _cut(head + connection.end()))
        await connection.response()

    async def post_slowly(self, content: bytes = bytes(UPLOAD)) -> None:
        """Send the body of a request in pieces."""
        headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(content)))]
        request = h11.Request(method="POST", target=self._target.path, headers=[*self._headers, *headers])
        connection = await self.connect()
        connection.write(connection.begin(request, self._deadline() + self.pace.slow))
        await self._send_slowly(connection, map(connection.data, _cut(content)))
        if not connection.has_response:
            connection.write(connection.end())
        await connection.response()

    async def pause(self, seconds: float) -> None:
        """Pause deliberately: the time does not count as a wait."""
        began = self._loop.time()
        await asyncio.sleep(seconds)
        self.own += self._loop.time() - began

    def finish(self) -> None:
        """Close the connection, and report if the server closed it first."""
        if self.connection is not None and self.connection.closed_at is not None:
            self._on_close(self.connection.closed_at)
        self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    async def _send_slowly(self, connection: Connection, parts: Iterable[bytes]) -> None:
        for part in parts:
            await self.pause(self.pace.slow / PIECES)
            if connection.has_response:
                return
            connection.write(part)

    def _deadline(self) -> float:
        return self._loop.time() + self.pace.timeout


def _cut(data: bytes) -> list[bytes]:
    size = -(-len(data) // PIECES)
    return [data[start : start + size] for start in range(0, len(data), size)]


async def _new(client: Client) -> None:
    await client.get()
    client.close()


async def _silent(client: Client) -> None:
    await client.connect()
    await client.pause(client.pace.slow)
    await client.get()
    client.close()


@dataclass(frozen=True)
class Kind:
    """A kind of client."""

    name: str
    meaning: str  #: for the report
    send: Callable[[Client], Awaitable[None]]  #: sends one request
    is_idle: bool = False


NEW = Kind("new connection", "opens a connection for each request", _new)
KEEP_ALIVE = Kind("keep-alive", "sends request after request on one connection", Client.get)
IDLE = Kind("idle keep-alive", "keeps a connection open, and rarely sends a request", Client.get, is_idle=True)
SILENT = Kind("silent", "connects, and sends its request later", _silent)
SLOW = Kind("slow request", "sends the header section of its request in pieces", Client.get_slowly)
UPLOADING = Kind("slow upload", "sends the body of its request in pieces", Client.post_slowly)
LONG = Kind("long response", "requests a page that takes long", Client.get)


@dataclass(frozen=True)
class Group:
    """A number of clients of one kind, and their target."""

    kind: Kind
    number: int
    target: Target


class Crowd:
    """All clients. Used within a running loop."""

    def __init__(self, groups: Iterable[Group], pace: Pace, recording: Recording, began: float) -> None:
        self._groups = list(groups)
        self._pace = pace
        self._recording = recording
        self._began = began  # the loop's time
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._clients: list[Client] = []
        self._resting: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for number, group in enumerate(self._groups):
            for _ in range(group.number):
                self._tasks.append(self._loop.create_task(self._live(number, group)))

    async def stop(self) -> None:
        """Let each client finish its request, and stop."""
        self._stopping = True
        for task in list(self._resting):
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    def abandon(self) -> None:
        """Stop all clients at once."""
        for task in self._tasks:
            task.cancel()

    def expire(self) -> None:
        """Fail requests that exceed their timeout."""
        now = self._loop.time()
        for client in self._clients:
            if client.connection is not None and client.connection.deadline < now:
                client.connection.expire(self._pace.timeout)

    async def _live(self, number: int, group: Group) -> None:
        client = Client(group.target, self._pace, partial(self._note_close, number))
        self._clients.append(client)
        mean = self._pace.idle if group.kind.is_idle else self._pace.think
        try:
            await self._rest(random.uniform(0, min(mean, WARM_UP)))  # noqa: S311 (no secret)
            while True:
                succeeded = await self._send(number, group.kind, client)
                if self._stopping:  # stop() does not see a rest that begins now
                    return
                await self._rest(_next_pause(mean) if succeeded else max(mean, PAUSE_AFTER_FAILURE))
        finally:
            client.finish()

    async def _send(self, number: int, kind: Kind, client: Client) -> bool:
        began, client.own = self._loop.time(), 0.0
        failure = ""
        try:
            await kind.send(client)
        except RequestError as error:
            failure = str(error)
            client.close()
        self._recording.add(number, began - self._began, self._loop.time() - began, client.own, failure)
        return not failure

    async def _rest(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a task runs this)
        self._resting.add(task)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._resting.discard(task)

    def _note_close(self, number: int, at: float) -> None:
        self._recording.add_closed(number, at - self._began)


def _next_pause(mean: float) -> float:
    return random.uniform(mean / 2, mean * 3 / 2)  # noqa: S311
