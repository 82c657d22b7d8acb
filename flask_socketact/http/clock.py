"""Times of the request that a thread is serving, for the ``timeout`` setting."""

from __future__ import annotations

import time


class Clock:
    """Set by the thread that serves the connection, and read by the supervisor."""

    __slots__ = ("began", "client_counters", "last_progress", "waits_for_client")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.began = self.last_progress = time.monotonic()
        self.waits_for_client = False  #: the thread waits for the client to send or to read
        self.client_counters: object = None  #: :func:`~flask_socketact.linux.socket_queues.progress`, last seen
