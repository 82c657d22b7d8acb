"""A client's connection: h11 over an asyncio transport, and what became of it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import dataclass

import h11

from tests.chaos.evidence import Outcome

#: For a response, in seconds: longer than anything that is allowed takes.
TIMEOUT = 40.0


class LostError(Exception):
    """A request got no response."""

    def __init__(self, outcome: Outcome, detail: str = "") -> None:
        super().__init__(detail)
        self.outcome = outcome


@dataclass(frozen=True)
class Response:
    status: int
    content: str


class Wire(asyncio.Protocol):
    """A connection; it is never retried, and never reopened."""

    def __init__(self, opened: float) -> None:
        self.opened = opened
        self.port = 0  #: as in the evidence
        self.requests = 0
        self.received = 0  #: bytes since the last request began
        self.ended_at: float | None = None  #: when the server closed it, or it was reset
        self._error: Exception | None = None
        self._h11 = h11.Connection(h11.CLIENT)
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        client = transport.get_extra_info("socket")
        is_unix = client.family == socket.AF_UNIX
        self.port = os.fstat(client.fileno()).st_ino if is_unix else client.getsockname()[1]

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._h11.receive_data(data)
        self._news.set()

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent."""
        return self.ended_at is None and self._h11.our_state is h11.IDLE

    @property
    def was_announced(self) -> bool:
        """Whether the server has said that it closes the connection."""
        return self._h11.our_state is h11.MUST_CLOSE

    def close(self) -> None:
        self.ended_at = self.ended_at or time.monotonic()
        self._transport.close()

    async def ended(self) -> None:
        """Wait until the server closes the connection."""
        while self.ended_at is None:
            self._news.clear()
            await self._news.wait()

    async def exchange(self, target: str, pieces: list[bytes], pause: float) -> Response:
        """Send a request, its content in pieces with a pause before each, and return its response.

        :raises LostError: there is none.
        """
        self.requests += 1
        self.received = 0
        try:
            return await asyncio.wait_for(self._exchange(target, pieces, pause), TIMEOUT)
        except (TimeoutError, asyncio.TimeoutError):
            raise LostError(Outcome.TIMEOUT) from None
        except h11.RemoteProtocolError as error:
            raise LostError(Outcome.CUT if self.received else Outcome.EOF, str(error)) from error

    async def _exchange(self, target: str, pieces: list[bytes], pause: float) -> Response:
        length = sum(map(len, pieces))
        headers = [("Host", "app"), *([("Content-Length", str(length))] if pieces else [])]
        self._send(h11.Request(method="POST" if pieces else "GET", target=target, headers=headers))
        for piece in pieces:
            await asyncio.sleep(pause)
            self._send(h11.Data(piece))
        self._send(h11.EndOfMessage())
        status, content = 0, b""
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                await self._wait()
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return Response(status, content.decode(errors="replace"))

    def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        data = self._h11.send(event)
        if data and self.ended_at is None:
            self._transport.write(data)

    async def _wait(self) -> None:
        if self.ended_at is not None:
            if self._error is not None:
                raise LostError(Outcome.RESET, str(self._error))
            self._h11.receive_data(b"")
            if not self.received:
                raise LostError(Outcome.EOF)
            return
        self._news.clear()
        await self._news.wait()

    def _end(self, error: Exception | None) -> None:
        if self.ended_at is None or error is not None:
            self._error = error
        self.ended_at = self.ended_at or time.monotonic()
        self._news.set()
