"""One connection to the service, on h11, which neither retries nor reconnects behind our back: what fails, counts."""

from __future__ import annotations

import asyncio
import errno

import h11

from flask_socketact.errors import RequestError

#: What an error of a connection is called in the account. The others go by the system's words.
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
    """Return what an error of a connection is called in the account."""
    return _REASONS.get(error.errno or 0) or f"connection: {error.strerror or error}"


class Connection(asyncio.Protocol):
    """A client's end. One request at a time."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._answer: asyncio.Future[int] | None = None
        self._status = 0
        self._closes = False  # we do
        self.closed_at: float | None = None  #: when the server has closed it, or said that it does; the loop's time
        self.deadline = float("inf")  #: until when the request in flight is to be answered; the loop's time, seconds

    # What asyncio calls.

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

    # What clients call.

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: neither side has closed, or said that it will."""
        return self.closed_at is None and self._http.our_state is self._http.their_state is h11.IDLE

    def begin(self, request: h11.Request, deadline: float) -> bytes:
        """Begin a request that is to be answered until `deadline`, and return its head, which is still to be sent."""
        self._answer = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self._status = 0
        return self._http.send(request) or b""

    def data(self, data: bytes) -> bytes:
        """Return a piece of the request's content as it is to be sent."""
        return self._http.send(h11.Data(data=data)) or b""

    def end(self) -> bytes:
        """End the request, and return what is still to be sent of it."""
        return self._http.send(h11.EndOfMessage()) or b""

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    @property
    def is_answered(self) -> bool:
        """Whether the answer has come, perhaps before the request had ended, or has failed to."""
        return self._answer is None or self._answer.done()

    async def answer(self) -> None:
        """Wait for the whole answer.

        :raises RequestError: it did not come, or tells of a failure.
        """
        assert self._answer is not None  # noqa: S101 (begin has been called)
        try:
            status = await self._answer
        finally:
            self.deadline = float("inf")
        if status not in _OK:
            raise RequestError(f"status {status}")

    def expire(self, seconds: float) -> None:
        """Give the request in flight up."""
        self._fail(f"no answer within {seconds:g} s")
        self.close()

    def close(self) -> None:
        self._closes = True
        self._transport.close()

    # The answer.

    def _take(self, data: bytes) -> None:
        """Read what has come of an answer."""
        try:
            self._http.receive_data(data)
            self._read_events()
        except h11.RemoteProtocolError:
            self._fail("malformed answer" if data else self._end_of_stream())
            self.close()

    def _read_events(self) -> None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Response):
                self._status = event.status_code
            elif isinstance(event, h11.EndOfMessage):
                self._end_answer()
                return
            elif isinstance(event, h11.ConnectionClosed):
                return

    def _end_answer(self) -> None:
        if self._http.our_state is self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self._note_close()  # the answer says so, or came before the request had ended
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._status)

    def _note_close(self) -> None:
        if self.closed_at is None and not self._closes:
            self.closed_at = asyncio.get_running_loop().time()

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RequestError(why))
            self._answer.exception()  # known, even if who asked has gone

    def _end_of_stream(self) -> str:
        return "closed within the answer" if self._status else "closed without an answer"
