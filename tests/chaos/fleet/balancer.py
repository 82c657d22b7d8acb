"""Watches what HAProxy knows about the servers of the fleet."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType

from tests.chaos.fleet.evidence import Look
from tests.support.fleet import Fleet

EVERY = 0.25  #: seconds


class Watch:
    """Notes each change of a server's status or weight, for the length of a ``with`` block."""

    def __init__(self, fleet: Fleet) -> None:
        self.looks: list[Look] = []
        self._fleet = fleet
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        before: dict[str, tuple[str, int]] = {}
        while not self._ending.wait(EVERY):
            with suppress(OSError):  # it is being reloaded
                for server in self._fleet.servers():
                    now = server.status, server.weight
                    if before.get(server.name) != now:
                        before[server.name] = now
                        self.looks.append(Look(time.monotonic(), server.name, *now))
