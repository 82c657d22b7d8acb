"""gunicorn's response writer, on our connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.message import Request

from flask_socketact.bridge import keys, request_context
from flask_socketact.http import framing, validated
from flask_socketact.http.connection import Connection
from flask_socketact.http.settings_cache import Settings
from flask_socketact.http.unsent import ShorterFileError

#: Larger chunks are sent by themselves, without a copy. Bytes.
_LARGE = 64 * 1024
_WHOLE = (list, tuple)


class Response(wsgi.Response):
    """gunicorn's response writer, but headers and the first chunk of the body are sent together. Framing is exact."""

    def __init__(self, request: Request, connection: Connection, cfg: Settings, must_close: Callable[[], bool]) -> None:
        """`must_close` returns whether a response that starts now is the last of the connection."""
        super().__init__(request, _Writer(connection), cfg)
        self.status: Any
        self.status_code: int | None
        self._must_close = must_close
        self._produced = 0  # bytes of the application
        self.may_upgrade = False  #: the client asks for another protocol
        self.environ: dict[str, Any] = {}  #: of the request, set before the application runs
        self.log: Any = None  #: gunicorn's logger, set likewise

    @property
    def has_started(self) -> bool:
        """Whether any part has been sent. If not, an error page can replace the response."""
        return bool(self.sock.has_sent)

    def default_headers(self) -> list[str]:
        if self.status is None:
            raise AssertionError("the application returned a body without calling start_response()")
        if self._must_close():
            self.force_close()
        version = self.req.version
        connection = "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"
        headers = [
            f"HTTP/{version[0]}.{version[1]} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {validated.http_date()}\r\nConnection: {connection}\r\n"
        ]
        if self.chunked:
            headers.append("Transfer-Encoding: chunked\r\n")
        header = self.environ.get(keys.ID_HEADER)
        if header is not None:
            headers.append(f"{header}: {request_context.id_of(self.environ)}\r\n")
        self.environ = {}  # break the reference cycle, so that no garbage is left
        return headers

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info and not self.headers_sent:
            framing.start_again(self)
        code = validated.statuses.get(status) if type(status) is str else None
        if code is None or self.status is not None or self.req.method == "HEAD":
            super().start_response(status, headers, exc_info)
            validated.remember_status(status, self.status_code)
            return self.write
        self.status, self.status_code, self._omits_body = status, code, False
        self.process_headers(headers)
        self.chunked = self.response_length is None and self.is_chunked()
        return self.write

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        for name, value in headers:
            is_length = validated.names.get(name) if type(name) is str else None
            if is_length is None or not validated.is_value(value):
                super().process_headers([(name, value)])
                validated.remember_name(name)
                continue
            stripped = value.strip(" \t")
            if is_length:
                self.response_length = int(stripped)
            self.headers.append((name, stripped))

    def send(self, body: Iterable[bytes], file_wrapper: type) -> None:
        """Send all that the application has returned, and end the response."""
        if isinstance(body, file_wrapper):
            self.write_file(body)
        else:
            self.sock.is_complete = type(body) in _WHOLE
            for chunk in body:
                if chunk != b"":  # the application can still replace the headers (PEP 3333)
                    self.write(chunk)
                    if self._produced != self.sent and framing.is_excessive(self, self._produced):
                        break
        self.close()

    def write(self, arg: bytes) -> None:
        if self._is_whole(arg):
            self._send_whole(arg)
        else:
            super().write(arg)
            self.sock.flush()
        self._produced += len(arg)

    def _is_whole(self, arg: bytes) -> bool:
        """Return whether `arg` is all of the body, as in most responses."""
        return (
            type(arg) is bytes
            and len(arg) == self.response_length
            and len(arg) <= _LARGE
            and not self.headers_sent
            and not self._omits_body
        )

    def _send_whole(self, content: bytes) -> None:
        """Send headers and body at once. gunicorn's way takes ten calls more."""
        lines = self.default_headers()
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        headers = "".join([*lines, "\r\n"]).encode("latin-1")
        self.headers_sent = True
        self.sent = len(content)
        self.sock.send_all(headers + content)

    def write_file(self, respiter: Any) -> None:
        region = framing.region_to_send(self, respiter, over_tls=True)
        if region is None:
            for chunk in respiter:
                self.write(chunk)
                if self._omits_body or self.sent == self.response_length:
                    break
            self._produced = self.sent  # a file may be longer than what is to be sent of it
        else:
            self.send_headers()
            self.sent += self.sock.send_file(respiter.filelike, *region)

    def _emit_body(self, data: bytes) -> None:
        if self.sent == self.response_length:
            self.sock.is_complete = True
        util.write(self.sock, data, self.chunked)

    def close(self) -> None:
        if self._produced == self.sent == self.response_length and self.headers_sent:
            return  # all was sent
        self.sock.is_complete = True
        if not self._produced == self.sent == self.response_length:
            framing.end(self, self._produced, self.log)
        super().close()
        self.sock.flush()


class _Writer:
    """Stands for the socket in gunicorn's response writer."""

    __slots__ = ("_buffer", "_connection", "has_sent", "is_complete")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.is_complete = False  #: the application has returned all of the response
        self._buffer: list[bytes] = []
        self.has_sent = False

    def sendall(self, data: bytes) -> None:
        if len(data) > _LARGE:
            self.flush()
            self._send(data)
        else:
            self._buffer.append(data)

    def send_all(self, data: bytes) -> None:
        """Send a whole response."""
        self.is_complete = True
        self._send(data)

    def send_file(self, file: Any, offset: int, count: int) -> int:
        """Send a part of `file`, the end of the response. Return its length: less than `count` if it became shorter."""
        self.is_complete = True
        self.flush()
        try:
            if count:
                self._connection.send_file(file, offset, count)
        except ShorterFileError as error:
            return count - error.left
        return count

    def flush(self) -> None:
        if self._buffer:
            data = b"".join(self._buffer)
            self._buffer.clear()
            self._send(data)

    def _send(self, data: bytes) -> None:
        """Send `data`; leave what the client does not take to the loop, if the response is complete."""
        self.has_sent = True
        if self.is_complete:
            self._connection.send_or_keep(data)
        else:
            self._connection.send(data)
