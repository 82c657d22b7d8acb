"""For how long no process of the machine got a CPU, because others outside used them."""

from __future__ import annotations

import re
import threading
import time
from types import TracebackType

from tests.support.machine import Machine

#: Pressure stall information of the machine's control group: the kernel's documentation, accounting/psi.
PRESSURE = "/sys/fs/cgroup/cpu.pressure"
EVERY = 0.1  #: seconds
_FULL = re.compile(r"^full .*total=(\d+)$", re.MULTILINE)


class Starvation:
    """Notes, for the length of a ``with`` block, when all processes of the machine that could run waited for a CPU."""

    def __init__(self, machine: Machine) -> None:
        self.starved: list[tuple[float, float]] = []  #: a time, and for how many of the last seconds
        self._file = machine.path(PRESSURE)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="starvation")

    def __enter__(self) -> Starvation:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        before = self._total()
        while not self._ending.wait(EVERY):
            total = self._total()
            if total > before:
                self.starved.append((time.monotonic(), total - before))
            before = total

    def _total(self) -> float:
        """Return the seconds since the machine was booted; 0.0 if the kernel does not count them."""
        found = _FULL.search(self._file.read_text()) if self._file.exists() else None
        return int(found[1]) / 1e6 if found else 0.0
