"""A schedule: how the service is set up, and what happens when. Made from a seed, printed, and read again."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
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
    "memory": 2,
    "clock": 2,
    "descriptors": 1,
    "full": 1,
    "journal-full": 1,
    "bus": 1,
    "cpu": 1,
    "journal": 1,
    "hostile": 2,
}
#: By how much the clock jumps, forwards and backwards, in seconds.
JUMPS = (3600, 3600, 30, 5, 2)
LOADER_STEPS = tuple(step for step in Step if step.value.startswith("loader"))
_SECONDS = r"[\d.]+"
#: What an event may look like, after its time.
EVENTS = (
    "|".join(OPERATIONS),
    rf"step ({'|'.join(step.value for step in Step)}) (kill|freeze {_SECONDS})",
    rf"kill ({'|'.join(ROLES)}) \d+",
    rf"(freeze|memory) ({'|'.join(ROLES)}) \d+ {_SECONDS}",
    r"clock [+-]\d+",
    rf"(descriptors|full|journal-full|bus|cpu|journal|hostile) {_SECONDS}",
)
_SETUP = (
    rf"(?P<worker>{'|'.join(WORKERS)})(?P<preload> preload)?(?P<hostile> hostile)?"
    rf"(?P<unix> unix)?( link (?P<round_trip>\d+) (?P<loss>{_SECONDS}))?"
)
#: What a schedule leaves to the service after its last event, in seconds.
CALM = 2.0


class ScheduleError(ValueError):
    """A text is not a schedule."""


@dataclass(frozen=True)
class Distance:
    """A slow and lossy link."""

    round_trip: int  #: milliseconds
    loss: float  #: percent of the packets

    def __str__(self) -> str:
        return f"link {self.round_trip} {self.loss:g}"


@dataclass(frozen=True)
class Setup:
    """How the service runs, and how its clients reach it."""

    worker: str = "thread"
    preload: bool = False
    hostile: bool = False  #: the application has views that harm its process: tests/support/hostile_app.py
    unix: bool = False  #: clients use a Unix socket
    distance: Distance | None = None

    def __str__(self) -> str:
        flags = [name for name in ("preload", "hostile", "unix") if getattr(self, name)]
        return " ".join((self.worker, *flags, *([str(self.distance)] if self.distance else [])))


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


def generate(seed: int, seconds: float, faults: Sequence[str] = (), given: Setup | None = None) -> Schedule:
    """Return the schedule of a seed, with these faults only, and this setup, if they are given."""
    choose = random.Random(seed)  # noqa: S311 (it must be repeatable)
    setup = _setup(choose)
    setup = given or setup
    weights = {name: weight for name, weight in FAULTS.items() if not faults or name in faults}
    events: list[Event] = []
    at = 1.0
    while at < seconds - CALM:
        operation = choose.choices([*OPERATIONS], [*OPERATIONS.values()])[0]
        events.append(Event(round(at, 2), operation))
        for _ in range(choose.choice((0, 1, 1, 2))):
            events.append(_fault(choose, setup, at, weights))
        at += choose.uniform(2.0, 6.0)
    return Schedule(seed, setup, seconds, tuple(sorted(events)))


def _setup(choose: random.Random) -> Setup:
    worker = choose.choices(WORKERS, (6, 1, 2))[0]
    way = choose.choices(("local", "unix", "link"), (4, 1, 1))[0]
    distance = Distance(choose.randint(20, 200), round(choose.uniform(1, 5), 1)) if way == "link" else None
    return Setup(worker, choose.random() < 0.3, choose.random() < 0.3, way == "unix", distance)


def _fault(choose: random.Random, setup: Setup, operation: float, weights: dict[str, int]) -> Event:
    """Return a fault around an operation: before it, or within the time that it takes."""
    what = choose.choices([*weights], [*weights.values()])[0]
    at = round(max(0.1, operation + choose.uniform(-0.5, 1.5)), 2)
    seconds = f"{choose.uniform(0.5, 3.0):.1f}"
    if what == "step":
        steps = [step for step in Step if setup.preload or step not in LOADER_STEPS]
        deed = choose.choice((("kill",), ("freeze", seconds)))
        return Event(round(max(0.1, operation - 0.2), 2), what, (choose.choice(steps).value, *deed))
    if what in ("kill", "freeze", "memory"):
        role = choose.choice(ROLES if setup.preload else ROLES[:3])
        which = str(choose.randrange(8))
        return Event(at, what, (role, which, *((seconds,) if what != "kill" else ())))
    if what == "clock":
        return Event(at, what, (f"{choose.choice((-1, 1)) * choose.choice(JUMPS):+}",))
    return Event(at, what, (seconds,))


def parse(text: str, known: tuple[str, ...] = EVENTS) -> Schedule:
    """Return the schedule that a text describes, in lines, or separated by semicolons; `known` are patterns of events.

    :raises ScheduleError: it describes none.
    """
    first, *lines = [line.strip() for line in text.replace(";", "\n").splitlines() if line.strip()] or [""]
    found = re.fullmatch(r"seed (\d+) seconds ([\d.]+) (.+)", first)
    if found is None:
        raise ScheduleError(f"not the first line of a schedule, such as 'seed 1 seconds 30 thread preload': {first!r}")
    events = [_parse_event(line, known) for line in lines]
    return Schedule(int(found[1]), parse_setup(found[3]), float(found[2]), tuple(sorted(events)))


def parse_setup(text: str) -> Setup:
    """Return the setup that a text describes, such as ``gevent preload link 120 2.5``.

    :raises ScheduleError: it describes none.
    """
    found = re.fullmatch(_SETUP, text)
    if found is None or (found["unix"] and found["loss"]):
        raise ScheduleError(
            f"not a setup, such as 'thread', 'gevent preload hostile unix' or 'sync link 120 2.5': {text!r}"
        )
    distance = Distance(int(found["round_trip"]), float(found["loss"])) if found["loss"] else None
    preload, hostile, unix = (bool(found[name]) for name in ("preload", "hostile", "unix"))
    return Setup(found["worker"], preload, hostile, unix, distance)


def _parse_event(line: str, known: tuple[str, ...]) -> Event:
    pattern = next((each for each in known if re.fullmatch(rf"{_SECONDS} ({each})", line)), None)
    if pattern is None:
        raise ScheduleError(f"not an event of such a schedule: {line!r}; each is a time and one of: {', '.join(known)}")
    at, what, *arguments = line.split()
    return Event(float(at), what, tuple(arguments))
