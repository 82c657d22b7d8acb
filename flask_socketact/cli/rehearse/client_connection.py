"""A connection to the service, with h11, which does not retry or reconnect: every failure counts."""

from __future__ import annotations

import asyncio
import errno

import h11

from flask_socketact.errors import RequestError

#: Names of connection errors in the results. Others have the name of the system.
_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.ETIMEDOUT: "connection timed out",
    errno.EADDRNOTAVAIL: "no local port left on the client's machine",
    errno.EMFILE: "no file descriptor left for clients",
}
_OK = range(200, 400)


def reason(error: OSError) -> str:
    """Return the name of a connection error in the results."""
    return _REASONS.get(error.errno or 0) or f"connection: {error.strerror or error}"


class Connection(asyncio.Protocol):
    """The client's end of a connection. It carries one request at a time."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._response: asyncio.Future[int] | None = None
        self._status = 0
        self._closes = False  # the client closes it
        self.closed_at: float | None = None  #: when the server closed it, or announced that; the loop's time
        self.deadline = float("inf")  #: of the request in flight; the loop's time, seconds

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def eof_received(self) -> None:
        self._note_close()
        self._take(b"")

    def connection_lost(self, error: Exception | None) -> None:
        self._note_close()
        self._fail(reason(error) if isinstance(error, OSError) else self._end_of_stream())

    # Called by clients.

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: neither side has closed it, or announced that."""
        return self.closed_at is None and self._http.our_state is self._http.their_state is h11.IDLE

    def begin(self, request: h11.Request, deadline: float) -> bytes:
        """Begin a request, and return its header section to send."""
        self._response = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self._status = 0
        return self._http.send(request) or b""

    def data(self, data: bytes) -> bytes:
        """Return a piece of the request's body to send."""
        return self._http.send(h11.Data(data=data)) or b""

    def end(self) -> bytes:
        """End the request, and return the rest to send."""
        return self._http.send(h11.EndOfMessage()) or b""

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    @property
    def has_response(self) -> bool:
        """Whether the request has a response or failed; perhaps before all of it was sent."""
        return self._response is None or self._response.done()

    async def response(self) -> None:
        """Wait for the complete response.

        :raises RequestError: there is none, or its status is not 2xx or 3xx.
        """
        assert self._response is not None  # noqa: S101 (begin has been called)
        try:
            status = await self._response
        finally:
            self.deadline = float("inf")
        if status not in _OK:
            raise RequestError(f"status {status}")

    def expire(self, seconds: float) -> None:
        """Fail the request in flight after its timeout."""
        self._fail(f"no response within {seconds:g} s")
        self.close()

    def close(self) -> None:
        self._closes = True
        self._transport.close()

    # The response.

    def _take(self, data: bytes) -> None:
        """Read a part of the response."""
        try:
            self._http.receive_data(data)
            self._read_events()
        except h11.RemoteProtocolError:
            self._fail("malformed response" if data else self._end_of_stream())
            self.close()

    def _read_events(self) -> None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Response):
                self._status = event.status_code
            elif isinstance(event, h11.EndOfMessage):
                self._end_response()
                return
            elif isinstance(event, h11.ConnectionClosed):
                return

    def _end_response(self) -> None:
        if self._http.our_state is self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self._note_close()  # the response says so, or came before the end of the request
        if self._response is not None and not self._response.done():
            self._response.set_result(self._status)

    def _note_close(self) -> None:
        if self.closed_at is None and not self._closes:
            self.closed_at = asyncio.get_running_loop().time()

    def _fail(self, why: str) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(RequestError(why))
            self._response.exception()  # retrieved, even if no client waits for it

    def _end_of_stream(self) -> str:
        return "closed within the response" if self._status else "closed without a response"
