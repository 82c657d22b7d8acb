"""The server as applications see it, and applications as the server sees them.

The workers and the Flask extension do not import each other. They meet here, in the ``socketact.*`` keys of a request's
environ, and in the scoreboard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Slot

#: Signal: systemd knows that the service is ready.
GENERATION_READY = "generation-ready"
#: Signal: the worker accepts no new connections.
DRAIN_BEGUN = "drain-begun"


@dataclass(frozen=True)
class Server:
    """The worker in this process."""

    listeners: Sequence[tuple[str | None, Any]]  #: ``FileDescriptorName=`` (None: not systemd's) and gunicorn's socket
    board: Scoreboard  #: shared by the master and all its workers
    slot: Slot  #: this worker's slot on the board
    is_draining: Callable[[], bool]
    #: To be called in a request that may take hours; returns False if there are too many of them.
    begin_stream: Callable[[], bool] = lambda: True

    @property
    def listener_names(self) -> list[str]:
        """``FileDescriptorName=`` of each listener from systemd; empty without activation."""
        return sorted({name for name, _ in self.listeners if name is not None})


class Application(Protocol):
    """Callbacks of an application. They run in the worker's main loop, so only `send` may block."""

    def loaded(self) -> None:
        """Called after the application was imported. An exception stops the worker from booting."""

    def beat(self) -> None:
        """Called every second."""

    def has_receivers(self, signal: str) -> bool:
        """Return whether a receiver is connected to this signal."""

    def send(self, signal: str) -> None:
        """Send GENERATION_READY or DRAIN_BEGUN to its receivers. Called in a thread of its own, and may block."""

    def drained(self, *, cut_short: bool) -> None:
        """Called when the worker exits. `cut_short`: the drain time has expired with unfinished work."""


#: Set just before the worker loads the application; None before, and with other servers.
server: Server | None = None
#: The registered applications. Weak references: an application that is no longer used disappears.
applications: WeakSet[Any] = WeakSet()


def register(application: Application) -> None:
    """Call `application` back from now on."""
    applications.add(application)


def _forget_server() -> None:
    global server  # noqa: PLW0603 (there is one process)
    server = None


# A process that the application forks is not a worker, and must not write to a worker's slot.
os.register_at_fork(after_in_child=_forget_server)
