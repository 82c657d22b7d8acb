"""How much memory one worker uses for clients that are slow: what they send, and what they do not take."""

from __future__ import annotations

import threading


class Memory:
    """A limited number of bytes, shared by all connections of this process."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take `size` bytes; return False if there are not so many left."""
        with self._lock:
            if self._used + size > self.limit:
                return False
            self._used += size
            return True

    def give_back(self, size: int) -> None:
        """Give back bytes that were taken."""
        with self._lock:
            self._used -= size
