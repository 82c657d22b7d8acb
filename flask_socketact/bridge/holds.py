"""Work outside requests that a drain waits for, as it waits for requests in flight."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

from flask_socketact.bridge import server_info
from flask_socketact.shared.slot import Field


@dataclass(eq=False)
class Hold:
    """Work that has begun."""

    name: str
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.name} ({time.monotonic() - self.began:.1f} s)"


_holds: set[Hold] = set()
_lock = threading.Lock()


def take(name: str) -> Hold:
    """Begin a hold: a drain waits until it is released."""
    hold = Hold(name)
    with _lock:
        _holds.add(hold)
        _update_counter()
    return hold


def release(hold: Hold) -> None:
    """End a hold."""
    with _lock:
        _holds.discard(hold)
        _update_counter()


def current() -> list[Hold]:
    """Return the holds that have not ended, the oldest first."""
    with _lock:
        return sorted(_holds, key=lambda hold: hold.began)


def _update_counter() -> None:
    if server_info.server is not None:
        server_info.server.slot[Field.HOLDS] = len(_holds)


def _forget() -> None:
    """Start empty in a child: the work is the parent's, and a thread of the parent may have the lock."""
    global _lock  # noqa: PLW0603 (there is one process)
    _lock = threading.Lock()
    _holds.clear()


os.register_at_fork(after_in_child=_forget)
