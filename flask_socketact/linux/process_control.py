"""What a process asks of the kernel for itself and its descendants: prctl(2), which Python does not have."""

from __future__ import annotations

import ctypes
import os

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Become the parent of descendants whose own parent exits (``PR_SET_CHILD_SUBREAPER``).

    :raises OSError: the kernel refuses.
    """
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int) -> None:
    """Get the signal `number` when the thread that has forked this process exits (``PR_SET_PDEATHSIG``). A change of
    the user, and a fork, undo it.

    :raises OSError: the kernel refuses.
    """
    _control(_PR_SET_PDEATHSIG, number)


def _control(operation: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(operation, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
