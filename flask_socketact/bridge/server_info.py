"""What the server tells the applications in its process, and they the server.

gunicorn's side and the Flask side do not import each other: they meet here, in what a request's environ has under
``socketact.*``, and in the scoreboard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

from flask_socketact.shared.scoreboard import Scoreboard, Slot

#: The service is ready, as systemd knows.
GENERATION_READY = "generation-ready"
#: The worker takes nothing new.
DRAIN_BEGUN = "drain-begun"


@dataclass(frozen=True)
class Server:
    """The worker of ours that this process is."""

    listeners: Sequence[tuple[str | None, Any]]  #: ``FileDescriptorName=`` (None: not systemd's), and gunicorn's socket
    board: Scoreboard  #: of all workers of the master
    slot: Slot  #: this worker's, on the board
    is_draining: Callable[[], bool]

    @property
    def listener_names(self) -> list[str]:
        """``FileDescriptorName=`` of each listener that systemd has passed; none outside of it."""
        return sorted({name for name, _ in self.listeners if name is not None})


class Application(Protocol):
    """What an application hears of its server. Nothing of it may wait: the worker's main loop calls."""

    def loaded(self) -> None:
        """The application has been imported. What it raises keeps the worker from booting."""

    def beat(self) -> None:
        """A second has gone by."""

    def has_receivers(self, signal: str) -> bool:
        """Whether somebody wants to know when this happens."""

    def send(self, signal: str) -> None:
        """Something happens: GENERATION_READY, or DRAIN_BEGUN. This, in a thread of its own, may take its time."""

    def drained(self, *, cut_short: bool) -> None:
        """The worker leaves; `cut_short`: with something unfinished, as the drain time was over."""


#: None until a worker of ours is about to load the application, and where another server runs it.
server: Server | None = None
#: Those that want to hear of the server, as long as somebody else needs them.
applications: WeakSet[Any] = WeakSet()


def register(application: Application) -> None:
    """Let `application` hear of the server from now on."""
    applications.add(application)


def _forget_server() -> None:
    global server  # noqa: PLW0603 (there is one process)
    server = None


# A process that the application forks is no worker, and must not write to the slot of one.
os.register_at_fork(after_in_child=_forget_server)
