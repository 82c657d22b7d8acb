"""A timer that is put off again and again, and wakes nobody as long as it is."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress

_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK  # TFD_CLOEXEC and TFD_NONBLOCK are the same bits


class _Spec(ctypes.Structure):
    """struct itimerspec: two times of seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("interval", "interval_ns", "value", "value_ns")]


class Alarm:
    """A descriptor that becomes readable when its time has come: timerfd_create(2).

    Whoever waits for it, in poll(2), sleeps on while it is put off, and so does not take
    the interpreter's lock to find that nothing has happened. (os has timerfd from Python 3.13 on.)
    """

    def __init__(self, seconds: float) -> None:
        """Prepare to ring `seconds` (less than one) after each `set`."""
        self._libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock: these calls never wait
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _CLOEXEC_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = ctypes.byref(_Spec(0, 0, 0, int(seconds * 1e9)))

    def fileno(self) -> int:
        return int(self._fd)

    def set(self) -> None:
        """Ring in a while, and not before."""
        self._libc.timerfd_settime(self._fd, 0, self._spec, None)

    def clear(self) -> None:
        """Be silent until the next `set`."""
        with suppress(BlockingIOError):  # it has been put off meanwhile
            os.read(self._fd, 8)
