"""Work beside requests that a drain waits for, as it does for requests in flight."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

from flask_socketact.bridge import server_info
from flask_socketact.shared.scoreboard import Field


@dataclass(eq=False)
class Hold:
    """A piece of work that has begun."""

    name: str
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.name} ({time.monotonic() - self.began:.1f} s)"


_holds: set[Hold] = set()
_lock = threading.Lock()


def take(name: str) -> Hold:
    """Begin a piece of work."""
    hold = Hold(name)
    with _lock:
        _holds.add(hold)
        _update_counter()
    return hold


def release(hold: Hold) -> None:
    """End a piece of work."""
    with _lock:
        _holds.discard(hold)
        _update_counter()


def current() -> list[Hold]:
    """Return what has begun and not ended, the oldest first."""
    with _lock:
        return sorted(_holds, key=lambda hold: hold.began)


def _update_counter() -> None:
    if server_info.server is not None:
        server_info.server.slot[Field.HOLDS] = len(_holds)


def _forget() -> None:
    """A child of this process does none of it, and the lock may be hold by a thread that it has not."""
    global _lock  # noqa: PLW0603 (there is one process)
    _lock = threading.Lock()
    _holds.clear()


os.register_at_fork(after_in_child=_forget)
