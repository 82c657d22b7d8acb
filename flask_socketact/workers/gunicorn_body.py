"""The body of a response, between the application and gunicorn's writer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gunicorn.http.wsgi import FileWrapper

from flask_socketact.http import framing, request_body
from flask_socketact.http.client_socket import ClientSocket, TLSClientSocket

if TYPE_CHECKING:
    from flask_socketact.workers.gunicorn_base import GunicornMixin


class Exchange:
    """One request with its response and its errors."""

    def __init__(self, response: Any, lent_socket: ClientSocket | TLSClientSocket) -> None:
        self.response = response  #: gunicorn's
        self.lent_socket = lent_socket
        self.failure: BaseException | None = None  #: raised by the application
        self.write_error: OSError | None = None  #: of the client's socket
        self.is_stream = False  #: its response may last for hours
        self.produced = 0  #: bytes of the body that the application has returned

    @property
    def is_client_error(self) -> bool:
        """Whether the client has disconnected, or has sent a malformed body."""
        return self.write_error is not None or request_body.is_broken(self.response.req)

    def write(self, data: bytes) -> None:
        """Send a part of the body: what ``start_response`` returns."""
        try:
            self.response.write(data)
        except OSError as error:
            self.write_error = error
            raise
        self.produced += len(data)

    def send_file(self, file: Any, offset: int, count: int) -> None:
        """Send the headers, and `count` bytes of `file` from `offset` on; fewer if it was truncated."""
        response = self.response
        try:
            response.send_headers()
            response.sent += response.sock.sendfile(file, offset, count) if count else 0
        except OSError as error:
            self.write_error = error
            raise


class Body:
    """Wraps the iterable that the application has returned. gunicorn iterates over it, and sends each chunk."""

    def __init__(self, worker: GunicornMixin, exchange: Exchange, body: Iterable[bytes]) -> None:
        self._worker = worker
        self._exchange = exchange
        self._body = body
        self._is_file = isinstance(body, FileWrapper)
        self._has_begun = False
        with worker.converting_errors(exchange):
            self._chunks = iter(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        try:
            with self._worker.converting_errors(exchange):
                chunk = None if self._is_complete() else self._next_chunk()
                # Before gunicorn sends the headers, so that a 500 can replace the response.
                if exchange.response.status is None:
                    raise AssertionError("the application returned a body without calling start_response()")
                if not isinstance(chunk, bytes | None):
                    raise TypeError(f"{chunk!r:.80} is not a byte string")
            exchange.lent_socket.restore()
        finally:
            if self._worker.is_child:
                self._worker.fork_hooks.end_child(exchange.failure)
        if chunk is None:
            framing.end(exchange.response, exchange.produced, self._worker.log)
            raise StopIteration
        exchange.produced += len(chunk)
        return chunk

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._worker.converting_errors(self._exchange):
                close()

    def _next_chunk(self) -> bytes | None:
        """Return what is to be sent next; None at the end."""
        if self._is_file and not self._has_begun:
            self._has_begun = True
            file: Any = self._body
            region = framing.region_to_send(self._exchange.response, file)
            if region is not None:
                self._exchange.send_file(file.filelike, *region)
                return None
        return next(
            (chunk for chunk in self._chunks if chunk != b""), None
        )  # PEP 3333: nothing is sent for an empty one

    def _is_complete(self) -> bool:
        response = self._exchange.response
        if not self._is_file:
            return framing.is_excessive(response, self._exchange.produced)
        if self._has_begun and (response._omits_body or response.sent == response.response_length):
            self._exchange.produced = response.sent  # a file may be longer than what is to be sent of it
            return True
        return False
