"""The kinds of clients that a restart usually breaks."""

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

#: How many pieces a slow request comes in.
PIECES = 20
#: Size of an upload, in bytes.
UPLOAD = 100_000
#: Within so long all clients have begun, in seconds.
WARM_UP = 2.0
#: Who was refused asks again after so long, at least, in seconds: nobody is helped by thousands that fail.
PAUSE_AFTER_FAILURE = 0.1


@dataclass(frozen=True)
class Pace:
    """How fast clients are. Seconds."""

    think: float = 0.1  #: between an answer and the next request, on the average
    idle: float = 5.0  #: the same, of idle clients
    slow: float = 2.0  #: how long clients take to send what they send slowly, and how long silent ones are silent
    timeout: float = 60.0  #: an answer that has not come by then has failed


class Client:
    """One client, with at most one connection."""

    def __init__(self, target: Target, pace: Pace, on_close: Callable[[float], None]) -> None:
        self.pace = pace
        self.connection: Connection | None = None
        self.own = 0.0  #: of the request in flight, the seconds that the client took on purpose
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._headers = [("Host", target.host), ("User-Agent", "flask-socketact-rehearse")]
        self._get = h11.Request(method="GET", target=target.path, headers=self._headers)

    async def connect(self) -> Connection:
        """Return the connection, a new one if the server has closed that before.

        :raises RequestError: there is none to be had.
        """
        if self.connection is not None:
            if self.connection.is_reusable:
                return self.connection
            self.leave()
        seconds = self.pace.timeout
        try:
            connection = await asyncio.wait_for(self._target.connect(), seconds)
        except asyncio.TimeoutError:  # before OSError, of which it is one from Python 3.11 on
            raise RequestError(f"no connection within {seconds:g} s") from None
        except OSError as error:
            raise RequestError(reason(error)) from None
        self.connection = connection
        return connection

    async def get(self) -> None:
        connection = await self.connect()
        head = connection.begin(self._get, self._deadline())
        connection.write(head + connection.end())
        await connection.answer()

    async def get_slowly(self) -> None:
        """Send the head of a request in pieces."""
        connection = await self.connect()
        head = connection.begin(self._get, self._deadline() + self.pace.slow)
        await self._send_slowly(connection, _cut(head + connection.end()))
        await connection.answer()

    async def post_slowly(self, content: bytes = bytes(UPLOAD)) -> None:
        """Send the content of a request in pieces."""
        headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(content)))]
        request = h11.Request(method="POST", target=self._target.path, headers=[*self._headers, *headers])
        connection = await self.connect()
        connection.write(connection.begin(request, self._deadline() + self.pace.slow))
        await self._send_slowly(connection, map(connection.data, _cut(content)))
        if not connection.is_answered:
            connection.write(connection.end())
        await connection.answer()

    async def pause(self, seconds: float) -> None:
        """Do nothing, on purpose."""
        began = self._loop.time()
        await asyncio.sleep(seconds)
        self.own += self._loop.time() - began

    def leave(self) -> None:
        """Close the connection, and tell if the server has done so before."""
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
            if connection.is_answered:
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
    """What clients of a kind do, and what of the service they need."""

    name: str
    meaning: str  #: for the report
    ask: Callable[[Client], Awaitable[None]]
    is_idle: bool = False


NEW = Kind("new connection", "opens a connection for each request", _new)
KEEP_ALIVE = Kind("keep-alive", "sends request after request on one connection", Client.get)
IDLE = Kind("idle keep-alive", "keeps a connection open, and rarely sends a request", Client.get, is_idle=True)
SILENT = Kind("silent", "connects, and sends its request later", _silent)
SLOW = Kind("slow request", "sends the head of its request in pieces", Client.get_slowly)
UPLOADING = Kind("slow upload", "sends the content of its request in pieces", Client.post_slowly)
LONG = Kind("long answer", "asks for what takes the service long", Client.get)


@dataclass(frozen=True)
class Group:
    """So many clients of a kind, and the page that they ask for."""

    kind: Kind
    number: int
    target: Target


class Crowd:
    """All clients. Made and used inside a running loop."""

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
        """Let every client end its request."""
        self._stopping = True
        for task in list(self._resting):
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    def abandon(self) -> None:
        """Let no client end anything."""
        for task in self._tasks:
            task.cancel()

    def expire(self) -> None:
        """Give up what has not been answered in time."""
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
                succeeded = await self._ask(number, group.kind, client)
                if self._stopping:  # nobody would end a rest that begins now
                    return
                await self._rest(_next_pause(mean) if succeeded else max(mean, PAUSE_AFTER_FAILURE))
        finally:
            client.leave()

    async def _ask(self, number: int, kind: Kind, client: Client) -> bool:
        began, client.own = self._loop.time(), 0.0
        failure = ""
        try:
            await kind.ask(client)
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
