"""Signals that are blocked while a thread forks, so that none reaches the child before it has its own handlers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable


class ForkSignals:
    """Some signals. A handler of the parent must not get one for the child that arrives early, as from
    ``multiprocessing.Process.terminate()``: it would be lost."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._forking = threading.local()  # the signal mask of a thread before it forked

    def hold(self) -> None:
        """Block the signals. Called before a fork."""
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)

    def release(self) -> None:
        """Set the mask of before. Called after the fork, in both processes."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)
