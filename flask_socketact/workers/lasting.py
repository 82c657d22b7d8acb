"""Requests that last for hours: WebSockets, server-sent events, long polling.

The request thread that serves one leaves the pool, and another takes its place. So they do not occupy the request
threads, however many there are; and they may send nothing for hours.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask_socketact.http.connection import Connection
from flask_socketact.shared.slot import Field

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker

EVENT_STREAM = "text/event-stream"


class RequestThread:
    """A thread of the pool, and the connection that it serves."""

    __slots__ = ("connection", "handle", "is_follower", "left_to", "reported")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.is_follower = True  #: sleeps until it is promoted
        self.left_to: LastingRequests | None = None  #: has left the pool to serve one of these, and ends with that
        self.reported = False  #: its request has run longer than ``timeout``, and this was logged
        self.handle: threading.Thread


class LastingRequests:
    """Those of one kind in one worker, and their threads."""

    def __init__(self, worker: BaseWorker, kind: str, variable: str, limit: int, field: Field) -> None:
        """`kind` and `variable`, which sets `limit`, are for the log; `field` of the scoreboard gets their number."""
        self.worker = worker
        self._kind = kind
        self._variable = variable
        self._limit = limit
        self._field = field
        self._reserved = 0
        self._lock = threading.Lock()
        self.threads: set[RequestThread] = set()

    def reserve(self) -> bool:
        """Reserve room for one more; return False, and log it, if there is none."""
        with self._lock:
            if self._reserved < self._limit:
                self._reserved += 1
                return True
        self.worker.log.warning("A %s was refused with 503: %s = %s are open", self._kind, self._variable, self._limit)
        return False

    def release(self) -> None:
        """Give the room back that was reserved for a request that did not last."""
        with self._lock:
            self._reserved -= 1

    def add(self, thread: RequestThread) -> None:
        """`thread` serves one from now on, for which room was reserved."""
        with self._lock:
            self.threads.add(thread)
            self.worker.slot[self._field] = len(self.threads)

    def remove(self, thread: RequestThread) -> None:
        """The request that `thread` served has ended: there is room for another."""
        with self._lock:
            self.threads.remove(thread)
            self._reserved -= 1
            self.worker.slot[self._field] = len(self.threads)


def is_event_stream(headers: Iterable[tuple[str, str]]) -> bool:
    """Return whether a response is a stream of server-sent events."""
    return any(name.lower() == "content-type" and value.lower().startswith(EVENT_STREAM) for name, value in headers)
