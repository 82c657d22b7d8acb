"""What the service manager was told about a service, and what it must be told next. Pure: no clock, no socket."""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """A phase of a service, as sd_notify(3) reports it."""

    STARTING = auto()  #: nothing was sent yet
    READY = auto()  #: READY=1
    RELOADING = auto()  #: RELOADING=1
    STOPPING = auto()  #: STOPPING=1; no other phase follows


class ServiceState:
    """The phase that the manager knows: a message that could not be sent changes nothing."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.was_ready = False  #: READY=1 was sent
        #: Whether the manager has processed the first READY=1. Until then, a restart cancels the start, and relays no
        #: workers.
        self.has_started = False

    def note(self, phase: Phase) -> None:
        """Note what the manager was told."""
        self.phase = phase
        self.was_ready = self.was_ready or phase is Phase.READY

    @property
    def is_loading(self) -> bool:
        """Whether the manager waits for READY=1."""
        return self.phase in (Phase.STARTING, Phase.RELOADING)

    def due(self, *, is_reloading: bool) -> Phase | None:
        """Return what to tell the manager now about a service that has all its workers; None: nothing new."""
        wanted = Phase.RELOADING if is_reloading else Phase.READY
        return None if self.phase in (wanted, Phase.STOPPING) else wanted
