"""Responses that last: server-sent events, long polling. The request thread that serves one leaves the pool.

Another thread takes its place, so streams do not occupy the request threads, however many there are. A stream may send
nothing for hours.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask_socketact import env
from flask_socketact.http.connection import Connection
from flask_socketact.shared.scoreboard import Field

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker

EVENT_STREAM = "text/event-stream"


class RequestThread:
    """A thread of the pool, and the connection that it serves."""

    __slots__ = ("connection", "handle", "has_left", "is_follower", "reported")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.is_follower = True  #: sleeps until it is promoted
        self.has_left = False  #: the pool, to serve a stream; it ends with that
        self.reported = False  #: its request has run longer than ``timeout``, and this was logged
        self.handle: threading.Thread


class Streams:
    """The threads of one worker that serve streams."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self._limit = env.max_streams()
        self._lock = threading.Lock()
        self.threads: set[RequestThread] = set()

    def admit(self, thread: RequestThread) -> bool:
        """Return whether there is room for one more."""
        with self._lock:
            if len(self.threads) < self._limit:
                self.threads.add(thread)
                self._count()
                return True
        self._worker.log.warning("A stream was refused with 503: %s = %s are open", env.MAX_STREAMS, self._limit)
        return False

    def forget(self, thread: RequestThread) -> None:
        """Note that a stream has ended."""
        with self._lock:
            self.threads.discard(thread)
            self._count()

    def _count(self) -> None:
        self._worker.slot[Field.STREAMS] = len(self.threads)


def is_event_stream(headers: Iterable[tuple[str, str]]) -> bool:
    """Return whether a response is a stream of server-sent events."""
    return any(name.lower() == "content-type" and value.lower().startswith(EVENT_STREAM) for name, value in headers)
