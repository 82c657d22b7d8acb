"""Clients of WebSockets and streams, each in a thread. They connect again when the server has ended one properly."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request, TextMessage
from wsproto.utilities import ProtocolError

from flask_socketact.errors import RequestError
from tests.support.http import Client

if TYPE_CHECKING:
    from tests.support.http import Connect

#: How often an echo is asked for, by default; and how often a client that listens looks whether it shall end. Seconds.
PAUSE = 0.2
#: The end of a response in chunks.
LAST_CHUNK = b"\r\n0\r\n\r\n"


class WebSocket:
    """A WebSocket over a socket of the test's own."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        """:raises ProtocolError: the handshake fails.
        :raises OSError: the connection does."""
        self._sock = sock
        self.protocol = WSConnection(ConnectionType.CLIENT)
        sock.sendall(self.protocol.send(Request(host="app", target=path)))
        first = self.receive()
        if not isinstance(first, AcceptConnection):
            raise ProtocolError(f"{first}")

    def send(self, text: str) -> None:
        self._sock.sendall(self.protocol.send(TextMessage(data=text)))

    def receive(self) -> Event:
        """:raises EOFError: the connection has ended without a close frame.
        :raises TimeoutError: nothing has come."""
        while True:
            for event in self.protocol.events():
                if isinstance(event, CloseConnection):
                    with contextlib.suppress(OSError, ProtocolError):  # it has closed before
                        self._sock.sendall(self.protocol.send(event.response()))
                return event
            data = self._sock.recv(65536)
            if not data:
                raise EOFError("no close frame")
            self.protocol.receive_data(data)


class Lasting:
    """Many clients at once, for the length of a ``with`` block."""

    def __init__(
        self, connect: Connect, *, echo: int, idle: int, streams: int, keep_alive: int, pause: float = PAUSE
    ) -> None:
        """Numbers of clients of each kind. `pause` is how long one that talks waits after an echo, in seconds."""
        self._connect = connect
        self._pause = pause
        self._is_ending = False
        self.failures: list[str] = []
        self.closes: list[tuple[float, int]] = []  #: when a close frame came, with its status
        self.echoes = self.streams_ended = self.responses = 0
        self._open = 0
        self._lock = threading.Lock()
        kinds = ((self._talk, echo), (self._listen, idle), (self._follow, streams), (self._ask, keep_alive))
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind, n in kinds for _ in range(n)]
        self._expected = echo + idle + streams

    def __enter__(self) -> Lasting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        for thread in self._threads:
            thread.join()

    def end(self) -> None:
        """Connect no more."""
        self._is_ending = True

    def are_open(self) -> bool:
        """Return whether all are connected."""
        return self._open == self._expected

    def _run(self, kind: object) -> None:
        while not self._is_ending:
            try:
                kind()  # type: ignore[operator]
            except (OSError, EOFError, ProtocolError, RequestError) as error:
                if not self._is_ending:
                    self.failures.append(f"{kind}: {error!r}")
                time.sleep(PAUSE)

    @contextlib.contextmanager
    def _opened(self):  # type: ignore[no-untyped-def]
        with self._lock:
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def _talk(self) -> None:
        with self._connect() as sock:
            websocket = WebSocket(sock, "/echo")
            with self._opened():
                number = 0
                while not self._is_ending:
                    number += 1
                    websocket.send(str(number))
                    event = websocket.receive()
                    if isinstance(event, CloseConnection):
                        self.closes.append((time.monotonic(), int(event.code)))
                        return
                    assert isinstance(event, TextMessage)
                    assert event.data == str(number)
                    self.echoes += 1
                    time.sleep(self._pause)

    def _listen(self) -> None:
        with self._connect() as sock:
            websocket = WebSocket(sock, "/echo")
            with self._opened():
                sock.settimeout(PAUSE)
                while not self._is_ending:
                    with contextlib.suppress(TimeoutError):
                        event = websocket.receive()
                        assert isinstance(event, CloseConnection)
                        self.closes.append((time.monotonic(), int(event.code)))
                        return

    def _follow(self) -> None:
        with self._connect() as sock:
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: app\r\n\r\n")
            received = sock.recv(65536)
            if not received.startswith(b"HTTP/1.1 200"):
                raise EOFError(received)
            with self._opened():
                sock.settimeout(PAUSE)
                while not self._is_ending and not received.endswith(LAST_CHUNK):
                    with contextlib.suppress(TimeoutError):
                        data = sock.recv(65536)
                        if not data:
                            raise EOFError("no last chunk")
                        received = (received + data)[-100:]
                self.streams_ended += not self._is_ending

    def _ask(self) -> None:
        client = Client(self._connect)
        try:
            while not self._is_ending:
                status, _ = client.exchange("GET", "/")
                if status != 200 or client.closed_by_server:
                    raise RequestError(f"status {status}, closed: {client.closed_by_server}")
                self.responses += 1
                time.sleep(self._pause / 4)
        finally:
            client.close()
