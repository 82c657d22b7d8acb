"""Functions that an application wants to be called when the drain begins."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

Call = Callable[[], object]

_calls: list[Call] = []
_lock = threading.Lock()
_has_begun = False


def add(call: Call) -> Call:
    """Call a function when the drain begins, or now if it has; return it, for :func:`discard`."""
    with _lock:
        if not _has_begun:
            _calls.append(call)
            return call
    _start(call)
    return call


def discard(call: Call) -> None:
    """Do not call a function any more."""
    with _lock:
        if call in _calls:
            _calls.remove(call)


def begin() -> None:
    """Call all functions, each in a thread of its own, since they may block."""
    global _has_begun  # noqa: PLW0603 (a worker drains once)
    with _lock:
        _has_begun = True
        calls = _calls.copy()
        _calls.clear()
    for call in calls:
        _start(call)


def _start(call: Call) -> None:
    try:
        threading.Thread(target=_run, args=(call,), name="at_drain", daemon=True).start()
    except RuntimeError:  # no thread can be started
        logging.getLogger(__name__).exception("A function of at_drain() was not called")


def _run(call: Call) -> None:
    try:
        call()
    except Exception:
        logging.getLogger(__name__).exception("A function of at_drain() failed")


def _forget() -> None:
    """Start empty in a child: the work is the parent's, and a thread of the parent may have the lock."""
    global _lock  # noqa: PLW0603 (there is one process)
    _lock = threading.Lock()
    _calls.clear()


os.register_at_fork(after_in_child=_forget)
