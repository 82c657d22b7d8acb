"""What a thread is doing for a connection, and since when."""

from __future__ import annotations

import time


class Clock:
    """Set by the thread that has the connection, and read by the supervisor."""

    __slots__ = ("began", "client_counters", "last_progress", "waits_for_client")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.began = self.last_progress = time.monotonic()
        self.waits_for_client = False  #: waits for the client, to send or to take something
        self.client_counters: object = None  #: of the client, when it was looked at last
