"""A schedule: how the service is set up, and what happens when. Made from a seed, printed, and read again."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from flask_socketact.handover.steps import Step

WORKERS = ("thread", "sync", "gevent")
OPERATIONS = {
    "restart": 5,
    "reload": 4,
    "restart-twice": 2,
    "restart-in-reload": 2,
    "stop-start": 1,
    "stop-start-socket": 1,
    "deploy": 3,
    "deploy-bad": 2,
    "reload-bad": 2,
    "daemon-reload": 1,
    "reopen": 1,
}
#: What may be killed or frozen at a random time.
ROLES = ("master", "worker", "old", "loader")
FAULTS = {
    "step": 8,
    "kill": 3,
    "freeze": 3,
    "descriptors": 1,
    "full": 1,
    "bus": 1,
    "cpu": 1,
    "journal": 1,
    "hostile": 2,
}
LOADER_STEPS = tuple(step for step in Step if step.value.startswith("loader"))
_SECONDS = r"[\d.]+"
#: What an event may look like, after its time.
EVENTS = (
    "|".join(OPERATIONS),
    rf"step ({'|'.join(step.value for step in Step)}) (kill|freeze {_SECONDS})",
    rf"kill ({'|'.join(ROLES)}) \d+",
    rf"freeze ({'|'.join(ROLES)}) \d+ {_SECONDS}",
    rf"(descriptors|full|bus|cpu|journal|hostile) {_SECONDS}",
)
#: What a schedule leaves to the service after its last event, in seconds.
CALM = 2.0


class ScheduleError(ValueError):
    """A text is not a schedule."""


@dataclass(frozen=True)
class Setup:
    """How the service runs."""

    worker: str = "thread"
    preload: bool = False

    def __str__(self) -> str:
        return f"{self.worker}{' preload' if self.preload else ''}"


@dataclass(frozen=True, order=True)
class Event:
    """Something that happens: an operation, or a fault with its arguments."""

    at: float  #: seconds from the beginning
    what: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((f"{self.at:.2f}", self.what, *self.arguments))


@dataclass(frozen=True)
class Schedule:
    seed: int
    setup: Setup
    seconds: float
    events: tuple[Event, ...]

    def __str__(self) -> str:
        """Return the schedule as :func:`parse` reads it."""
        return "\n".join((f"seed {self.seed} seconds {self.seconds:g} {self.setup}", *map(str, self.events)))

    def with_events(self, events: tuple[Event, ...]) -> Schedule:
        return Schedule(self.seed, self.setup, self.seconds, events)


def generate(seed: int, seconds: float) -> Schedule:
    """Return the schedule of a seed."""
    choose = random.Random(seed)  # noqa: S311 (it must be repeatable)
    setup = Setup(choose.choices(WORKERS, (6, 1, 2))[0], choose.random() < 0.3)
    events: list[Event] = []
    at = 1.0
    while at < seconds - CALM:
        operation = choose.choices([*OPERATIONS], [*OPERATIONS.values()])[0]
        events.append(Event(round(at, 2), operation))
        for _ in range(choose.choice((0, 1, 1, 2))):
            events.append(_fault(choose, setup, at))
        at += choose.uniform(2.0, 6.0)
    return Schedule(seed, setup, seconds, tuple(sorted(events)))


def _fault(choose: random.Random, setup: Setup, operation: float) -> Event:
    """Return a fault around an operation: before it, or within the time that it takes."""
    what = choose.choices([*FAULTS], [*FAULTS.values()])[0]
    at = round(max(0.1, operation + choose.uniform(-0.5, 1.5)), 2)
    seconds = f"{choose.uniform(0.5, 3.0):.1f}"
    if what == "step":
        steps = [step for step in Step if setup.preload or step not in LOADER_STEPS]
        deed = choose.choice((("kill",), ("freeze", seconds)))
        return Event(round(max(0.1, operation - 0.2), 2), what, (choose.choice(steps).value, *deed))
    if what in ("kill", "freeze"):
        role = choose.choice(ROLES if setup.preload else ROLES[:3])
        which = str(choose.randrange(8))
        return Event(at, what, (role, which, *((seconds,) if what == "freeze" else ())))
    return Event(at, what, (seconds,))


def parse(text: str, known: tuple[str, ...] = EVENTS) -> Schedule:
    """Return the schedule that a text describes, in lines, or separated by semicolons; `known` are patterns of events.

    :raises ScheduleError: it describes none.
    """
    first, *lines = [line.strip() for line in text.replace(";", "\n").splitlines() if line.strip()] or [""]
    found = re.fullmatch(rf"seed (\d+) seconds ([\d.]+) ({'|'.join(WORKERS)})( preload)?", first)
    if found is None:
        raise ScheduleError(f"not the first line of a schedule, such as 'seed 1 seconds 30 thread preload': {first!r}")
    events = [_parse_event(line, known) for line in lines]
    setup = Setup(found[3], bool(found[4]))
    return Schedule(int(found[1]), setup, float(found[2]), tuple(sorted(events)))


def _parse_event(line: str, known: tuple[str, ...]) -> Event:
    pattern = next((each for each in known if re.fullmatch(rf"{_SECONDS} ({each})", line)), None)
    if pattern is None:
        raise ScheduleError(f"not an event of such a schedule: {line!r}; each is a time and one of: {', '.join(known)}")
    at, what, *arguments = line.split()
    return Event(float(at), what, tuple(arguments))
