"""A schedule for a fleet: deploys and what else administrators do, and faults of machines. Made from a seed."""

from __future__ import annotations

import random

from tests.chaos.schedule import CALM, Event, Schedule, Setup

MACHINES = ("web1", "web2", "web3")
#: One after the other, however long each takes. Those of `ON_ONE` name a machine.
OPERATIONS = {
    "deploy": 4,
    "deploy-canary": 3,
    "deploy-no-boot": 2,
    "deploy-500": 2,
    "deploy-500-canary": 3,
    "rollback": 2,
    "drain": 2,
    "restart": 1,
    "reload": 1,
}
ON_ONE = ("drain", "restart", "reload")
#: A machine that has one of these serves nothing: all of a schedule are on the same machine, one after the other.
OUTAGES = ("crash", "network", "freeze")
FAULTS = {
    "controller": 3,
    "haproxy": 3,
    "crash": 1,
    "network": 2,
    "freeze": 2,
    "kill": 4,
    "relay": 1,
    "slow": 1,
    "agent": 2,
    "full": 1,
}
#: Of a service, what may be killed.
ROLES = ("master", "worker", "old")
_MACHINE = f"({'|'.join(MACHINES)})"
_SECONDS = r"[\d.]+"
#: What an event may look like, after its time.
EVENTS = (
    "|".join(name for name in OPERATIONS if name not in ON_ONE),
    rf"(restart|reload|crash|full) {_MACHINE}",
    rf"(drain|network|freeze|relay|slow|agent) {_MACHINE} {_SECONDS}",
    rf"kill {_MACHINE} ({'|'.join(ROLES)}) \d+",
    "controller|haproxy",
)
#: Between two operations, in seconds: a deploy takes that long.
PAUSE = (15.0, 28.0)
#: When faults happen, in seconds from the time of an operation.
AROUND = (-1.0, 20.0)
#: Shortest and longest fault of some length, in seconds; a deploy looks at its health for a time like this.
LENGTH = (2.0, 9.0)


def generate(seed: int, seconds: float) -> Schedule:
    """Return the schedule of a seed."""
    choose = random.Random(f"fleet {seed}")  # noqa: S311 (it must be repeatable)
    victim = choose.choice(MACHINES)
    events: list[Event] = []
    at, free = 2.0, 0.0
    while at < seconds - CALM:
        operation = choose.choices([*OPERATIONS], [*OPERATIONS.values()])[0]
        events.append(Event(round(at, 2), operation, _arguments(choose, operation, choose.choice(MACHINES))))
        for _ in range(choose.choice((0, 1, 1, 2, 2))):
            fault = _fault(choose, at, seconds, victim)
            if fault.what in OUTAGES:
                if fault.at < free:
                    continue
                free = seconds if fault.what == "crash" else fault.at + float(fault.arguments[1]) + LENGTH[1]
            events.append(fault)
        at += choose.uniform(*PAUSE)
    return Schedule(seed, Setup(), seconds, tuple(sorted(events)))


def _fault(choose: random.Random, operation: float, seconds: float, victim: str) -> Event:
    """Return a fault around an operation, mostly within the time that it takes."""
    what = choose.choices([*FAULTS], [*FAULTS.values()])[0]
    at = round(min(max(0.5, operation + choose.uniform(*AROUND)), seconds - CALM), 2)
    machine = victim if what in OUTAGES else choose.choice(MACHINES)
    return Event(at, what, _arguments(choose, what, machine))


def _arguments(choose: random.Random, what: str, machine: str) -> tuple[str, ...]:
    if what in ("restart", "reload", "crash", "full"):
        return (machine,)
    if what in ("drain", "network", "freeze", "relay", "slow", "agent"):
        return (machine, f"{choose.uniform(*LENGTH):.0f}")
    if what == "kill":
        return (machine, choose.choice(ROLES), str(choose.randrange(4)))
    return ()
