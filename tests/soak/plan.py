"""What a soak does: phases of the same load in turn, without and with restarts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

WITHOUT, WITH, WARM_UP = "without", "with", "warm-up"
_RESTARTS = 30  #: at most, between two phases without any
_SHARE = 3  #: the phases with restarts together are so many times longer than those without
_SHORTEST = 2.0  #: seconds of a phase without restarts
RELOAD_EACH = 3  #: every third operation is a reload


@dataclass(frozen=True)
class Settings:
    """What was asked for. All of it is kept with the results, for a run that is resumed."""

    restarts: int
    every: float  #: seconds from the beginning of a restart to that of the next
    rate: float  #: requests per second; 0: as many as the server takes
    connections: int
    worker: str
    preload: bool
    tree: str


@dataclass(frozen=True)
class Phase:
    """A part of the run: `seconds` without restarts, or so many `restarts`."""

    index: int
    name: str
    seconds: float = 0.0
    restarts: int = 0


def restarts_in(hours: float, every: float) -> int:
    """Return how many restarts fit into so many hours."""
    return max(1, int(hours * 3600 / every * _SHARE / (_SHARE + 1)))


def phases(settings: Settings) -> list[Phase]:
    """Return the phases: without, with, without, with … without."""
    rounds = math.ceil(settings.restarts / _RESTARTS)
    seconds = max(settings.restarts * settings.every / _SHARE / (rounds + 1), _SHORTEST)
    result = [Phase(0, WITHOUT, seconds)]
    for number in range(rounds):
        restarts = settings.restarts * (number + 1) // rounds - settings.restarts * number // rounds
        result.append(Phase(len(result), WITH, restarts=restarts))
        result.append(Phase(len(result), WITHOUT, seconds))
    return result


def remaining(settings: Settings, done: int, restarts: int) -> Sequence[Phase]:
    """Return what is left when so many phases were done to their end, and so many restarts in all.

    A phase without restarts begins again.
    """
    left = phases(settings)[done:]
    if left and left[0].name == WITH:
        before = sum(phase.restarts for phase in phases(settings)[:done])
        left[0] = replace(left[0], restarts=max(left[0].restarts - (restarts - before), 0))
    return left


def verb(restart: int) -> str:
    """Return what systemctl is told for a restart, the first being 1."""
    return "reload" if restart % RELOAD_EACH == 0 else "restart"
