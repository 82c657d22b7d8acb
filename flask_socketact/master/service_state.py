"""What the service manager has heard of a service, and is to hear next.

Nothing here sends, or looks at a clock.
"""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """Of a service's life: sd_notify(3)."""

    STARTING = auto()  #: nothing has been said yet
    READY = auto()  #: READY=1
    RELOADING = auto()  #: RELOADING=1
    STOPPING = auto()  #: STOPPING=1, the last word


class ServiceState:
    """The phase that the manager knows of: a message that could not be sent has changed nothing."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.was_ready = False  #: READY=1 has been said
        #: Whether the manager has acted upon the first READY=1. Until then a restart would relay no workers, as it is
        #: the start that would be ended.
        self.has_started = False

    def note(self, phase: Phase) -> None:
        """Note what the manager has heard."""
        self.phase = phase
        self.was_ready = self.was_ready or phase is Phase.READY

    @property
    def is_loading(self) -> bool:
        """Whether the manager waits until the service is ready."""
        return self.phase in (Phase.STARTING, Phase.RELOADING)

    def due(self, *, is_reloading: bool) -> Phase | None:
        """Return what the manager is to hear now of a service that has all its workers; None: nothing new."""
        wanted = Phase.RELOADING if is_reloading else Phase.READY
        return None if self.phase in (wanted, Phase.STOPPING) else wanted
