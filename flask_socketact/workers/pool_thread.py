"""A thread whose start ends, also without memory."""

from __future__ import annotations

import threading

#: How long a new thread may take to run, in seconds. On a busy machine it takes a moment.
LIMIT = 10.0


class PoolThread(threading.Thread):
    """As threading.Thread. Its ``start()`` waits for ever for a thread that had no memory to begin (CPython): a worker
    that boots would neither become ready nor exit."""

    def start(self) -> None:
        """Start it, and wait until it runs.

        :raises RuntimeError: it does not.
        """
        self._started = Bounded()
        super().start()


class Bounded(threading.Event):
    """An event that must come."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the event.

        :raises RuntimeError: it has not come in time.
        """
        if not super().wait(LIMIT if timeout is None else timeout):
            raise RuntimeError("a new thread does not run: there may be no memory")
        return True
