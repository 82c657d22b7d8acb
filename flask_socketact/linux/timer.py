"""A timer that can be reset often without waking the thread that waits for it."""

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
    """A descriptor that becomes readable when the timer expires: timerfd_create(2).

    A thread that waits for it in poll(2) sleeps while the timer is reset, and so does not take the
    interpreter's lock for nothing. (os has timerfd from Python 3.13 on.)
    """

    def __init__(self, seconds: float) -> None:
        """Prepare to expire `seconds` (less than one) after each `set`."""
        self._libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock: these calls do not block
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _CLOEXEC_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = ctypes.byref(_Spec(0, 0, 0, int(seconds * 1e9)))

    def fileno(self) -> int:
        return int(self._fd)

    def set(self) -> None:
        """Start the timer, or start it again from the beginning."""
        self._libc.timerfd_settime(self._fd, 0, self._spec, None)

    def clear(self) -> None:
        """Acknowledge that the timer has expired, until the next `set`."""
        with suppress(BlockingIOError):  # it has not expired, or was reset in between
            os.read(self._fd, 8)
