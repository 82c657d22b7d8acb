"""Clients of the kinds that a restart usually breaks, and an account of what they saw.

HTTP is h11's: it neither retries nor reconnects behind our back, so whatever fails, counts.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType

import h11

Connect = Callable[[], socket.socket]


class RequestError(Exception):
    """A request was not answered, or not with what it should have been."""


@dataclass(frozen=True)
class Outcome:
    """What became of one request."""

    kind: str
    began: float  #: time.monotonic()
    seconds: float  #: from before the connection to the end of the answer
    work: float  #: seconds that client and view take on purpose
    failure: str | None

    @property
    def wait(self) -> float:
        """Seconds that were not work."""
        return self.seconds - self.work


class Client:
    """One client, with at most one connection, kept open while both sides agree."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._socket: socket.socket | None = None
        self._http = h11.Connection(h11.CLIENT)
        self.closed_by_server = 0

    def exchange(self, method: str, target: str, body: Iterable[bytes] = (), length: int = 0) -> tuple[int, bytes]:
        """Send a request, and return status and content of the answer.

        :raises RequestError: no whole answer came.
        """
        try:
            self._notice_close()
            if self._socket is None:
                self._socket = self._connect()
                self._http = h11.Connection(h11.CLIENT)
            headers = [("Host", "app"), ("Content-Length", str(length))]
            self._send(h11.Request(method=method, target=target, headers=headers))
            for data in body:
                self._send(h11.Data(data=data))
            self._send(h11.EndOfMessage())
            answer = self._receive()
        except (OSError, h11.ProtocolError) as error:
            self.close()
            raise RequestError(f"{type(error).__name__}: {error}") from error
        if self._http.our_state is self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:  # the answer says so
            self.closed_by_server += 1
            self.close()
        return answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _notice_close(self) -> None:
        """See that the server has closed an idle connection, as every HTTP library does."""
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self.closed_by_server += 1
            self.close()

    def _send(self, event: h11.Event) -> None:
        assert self._socket is not None
        self._socket.sendall(self._http.send(event) or b"")

    def _receive(self) -> tuple[int, bytes]:
        assert self._socket is not None
        status, content = 0, b""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(self._socket.recv(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, content


def ask(connect: Connect, target: str = "/") -> tuple[int, bytes]:
    """Send one request on a connection of its own, and return status and content of the answer."""
    client = Client(connect)
    try:
        return client.exchange("GET", target)
    finally:
        client.close()


def post(connect: Connect, target: str) -> None:
    """Send a request without a body, on a connection of its own, that is to be answered with 200."""
    client = Client(connect)
    assert client.exchange("POST", target)[0] == 200
    client.close()


def _expect(answer: tuple[int, bytes], content: bytes | None = None) -> None:
    status, found = answer
    if status != 200 or (content is not None and content != found):
        raise RequestError(f"wrong answer: {status} {found[:80]!r}")


def new(client: Client) -> float:
    """A short request on a connection of its own."""
    _expect(client.exchange("GET", "/"))
    client.close()
    return 0.0


def keep_alive(client: Client) -> float:
    """A short request on a connection that is used again and again."""
    _expect(client.exchange("GET", "/"))
    return 0.0


def busy(client: Client) -> float:
    """A request that takes ten milliseconds, again and again."""
    _expect(client.exchange("GET", "/sleep/0.01"))
    return 0.01


def long(client: Client) -> float:
    """A request that takes three seconds."""
    _expect(client.exchange("GET", "/sleep/3.0"))
    return 3.0


def longer(client: Client) -> float:
    """A request that takes twelve seconds."""
    _expect(client.exchange("GET", "/sleep/12.0"))
    return 12.0


def stream(client: Client) -> float:
    """An answer that comes in pieces, over two seconds."""
    _expect(client.exchange("GET", "/stream/20"), b"".join(b"%d\n" % number for number in range(20)))
    return 2.0


def upload(client: Client) -> float:
    """A body that is sent slowly, over two seconds; the answer is its hash."""
    pieces = [os.urandom(20_000) for _ in range(20)]

    def slowly() -> Iterator[bytes]:
        for piece in pieces:
            time.sleep(0.1)
            yield piece

    digest = hashlib.sha256(b"".join(pieces)).hexdigest() + "\n"
    _expect(client.exchange("POST", "/upload", slowly(), 400_000), digest.encode())
    return 2.0


#: A kind of client: what it asks, and how long it thinks before it asks again, in seconds.
KINDS: dict[str, tuple[Callable[[Client], float], float]] = {
    "new connection": (new, 0.2),
    "keep-alive": (keep_alive, 0.2),
    "keep-alive, never pausing": (busy, 0.0),
    "keep-alive, mostly idle": (keep_alive, 4.0),
    "long request": (long, 0.5),
    "longer request": (longer, 0.5),
    "streamed answer": (stream, 0.5),
    "slow upload": (upload, 0.5),
}
#: How many of each: more would not fit the eight threads of the example on a small machine.
CLIENTS = {
    "new connection": 6,
    "keep-alive": 6,
    "keep-alive, mostly idle": 4,
    "long request": 2,
    "streamed answer": 2,
    "slow upload": 2,
}


@dataclass
class Load:
    """Clients that ask on and on, for the length of a ``with`` block."""

    connect: Connect
    clients: Mapping[str, int] = field(default_factory=lambda: CLIENTS)
    outcomes: list[Outcome] = field(default_factory=list)
    closed_by_server: int = 0  #: idle connections, known when the block has ended

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        kinds = [kind for kind, count in self.clients.items() for _ in range(count)]
        self._threads = [threading.Thread(target=self._ask, args=(kind,), name=kind) for kind in kinds]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let every client end its request."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def failures(self) -> Counter[str]:
        """What failed, and how often."""
        return Counter(f"{o.kind}: {o.failure}" for o in list(self.outcomes) if o.failure is not None)

    def longest_wait(self, *kinds: str) -> float:
        """Seconds; of the kinds given, or of all."""
        return max((o.wait for o in list(self.outcomes) if not kinds or o.kind in kinds), default=0.0)

    def _ask(self, kind: str) -> None:
        ask, think = KINDS[kind]
        client = Client(self.connect)
        while not self._stop.wait(random.uniform(0, think)):  # noqa: S311 (no secret)
            began = time.monotonic()
            work, failure = 0.0, None
            try:
                work = ask(client)
            except RequestError as error:
                failure = str(error)
            self.outcomes.append(Outcome(kind, began, time.monotonic() - began, work, failure))
        with self._lock:
            self.closed_by_server += client.closed_by_server
        client.close()
