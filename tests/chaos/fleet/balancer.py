"""HAProxy of the fleet: watches what it knows about the servers, and reloads it."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
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
                for name, status, weight in known(self._fleet):
                    if before.get(name) != (status, weight):
                        before[name] = (status, weight)
                        self.looks.append(Look(time.monotonic(), name, status, weight))


def known(fleet: Fleet) -> list[tuple[str, str, int]]:
    """Return name, status and weight of each server, also of one whose machine has crashed."""
    rows = [line.split(",") for line in fleet.ask_haproxy("show stat app 4 -1").splitlines() if line]
    names = rows[0]
    found = [dict(zip(names, row, strict=False)) for row in rows[1:]]
    return [(row["svname"], row["status"], int(row["weight"])) for row in found]


def reload(fleet: Fleet) -> None:
    """Let HAProxy's master start new workers; the old ones finish what they do."""
    (master,) = Path(f"/proc/{fleet.haproxy.pid}/task/{fleet.haproxy.pid}/children").read_text().split()
    os.kill(int(master), signal.SIGUSR2)
