"""What a rehearsal has shown: an account of each kind of client, and whether the promise was kept."""

from __future__ import annotations

import math
import operator
import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flask_socketact.cli.rehearse.recording import Outcome, Recording
from flask_socketact.errors import OptionError
from flask_socketact.text import duration

#: Old workers finish what they have after a restart has ended: what began so long after it is still of it. Seconds.
AFTERMATH = 1.0
BEFORE, DURING, AFTER = range(3)

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([a-z0-9-]+)\s*(>=|>)\s*(\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class Account:
    """What clients of one kind, or all, saw. Times are seconds."""

    kind: str
    requests: int
    failed: int
    reasons: dict[str, int]  #: why, and how often
    closed: int  #: connections that the server has closed
    p50: float  #: of the time that the service took to answer
    p99: float
    max: float
    wait: float  #: longest: beyond what half of the requests of the kind took before the first restart


def account(recording: Recording) -> list[Account]:
    """Return an account for each kind of client, and one for all of them, which comes last."""
    outcomes: list[list[Outcome]] = [[] for _ in recording.kinds]
    for outcome in recording:
        outcomes[outcome.kind].append(outcome)
    closed = Counter(recording.closed_kind)
    usual = [_usual(rows, recording) for rows in outcomes]
    accounts = [
        _account(name, rows, closed[number], recording, _longest_wait(rows, usual[number]))
        for number, (name, rows) in enumerate(zip(recording.kinds, outcomes, strict=True))
    ]
    wait = max((each.wait for each in accounts), default=0.0)
    together = [outcome for rows in outcomes for outcome in rows]
    return [*accounts, _account("all", together, closed.total(), recording, wait)]


def phase(outcome: Outcome, recording: Recording) -> int:
    """Return whether a request was of before the restarts, of one, or came after one."""
    if not recording.restarts or outcome.began + outcome.took < recording.restarts[0].began:
        return BEFORE
    is_during = any(
        restart.began <= outcome.began + outcome.took and outcome.began <= restart.ended + AFTERMATH
        for restart in recording.restarts
    )
    return DURING if is_during else AFTER


def _usual(rows: Sequence[Outcome], recording: Recording) -> float:
    answered = [row.answering for row in rows if not row.failure]
    before = [row.answering for row in rows if not row.failure and phase(row, recording) == BEFORE]
    return statistics.median(before or answered or [0.0])


def _longest_wait(rows: Sequence[Outcome], usual: float) -> float:
    return max((row.answering - usual for row in rows), default=0.0)


def _account(kind: str, rows: Sequence[Outcome], closed: int, recording: Recording, wait: float) -> Account:
    times = sorted(row.answering for row in rows)
    reasons = Counter(recording.reasons[row.failure] for row in rows if row.failure)
    return Account(
        kind,
        requests=len(rows),
        failed=reasons.total(),
        reasons=dict(reasons.most_common()),
        closed=closed,
        p50=percentile(times, 0.5),
        p99=percentile(times, 0.99),
        max=times[-1] if times else 0.0,
        wait=max(0.0, wait),
    )


def percentile(times: Sequence[float], part: float) -> float:
    """Return the least of the sorted `times` that so great a part of them does not exceed; 0.0 without any."""
    return times[max(0, math.ceil(len(times) * part) - 1)] if times else 0.0


#: What conditions can name: of all clients together. Times are seconds.
MEASURES: dict[str, Callable[[Account, int], float]] = {
    "failed": lambda together, _: together.failed,
    "closed": lambda together, _: together.closed,
    "wait": lambda together, _: together.wait,
    "p99": lambda together, _: together.p99,
    "failed-restarts": lambda _, failed_restarts: failed_restarts,
}


@dataclass(frozen=True)
class Condition:
    """What a rehearsal fails on: ``wait>0.25``."""

    measure: str
    comparison: str
    limit: float

    def holds(self, value: float) -> bool:
        return _COMPARISONS[self.comparison](value, self.limit)

    def __str__(self) -> str:
        return f"{self.measure}{self.comparison}{self.limit:g}"


def parse_conditions(text: str) -> list[Condition]:
    """Read ``failed>0,wait>0.25``.

    :raises OptionError: it is none.
    """
    conditions = []
    for part in text.split(","):
        match = _CONDITION.fullmatch(part)
        if match is None or match[1] not in MEASURES:
            wanted = f"write one of {', '.join(MEASURES)}, > or >=, and a number"
            raise OptionError(f"{part.strip()!r} is no condition: {wanted}, in quotes, as > means more to a shell")
        conditions.append(Condition(match[1], match[2], float(match[3])))
    return conditions


@dataclass(frozen=True)
class Verdict:
    """What is told at the end."""

    accounts: Sequence[Account]
    broken: Sequence[str]  #: what the rehearsal has failed on, with what was found
    restarts: int
    failed_restarts: int
    seconds: float
    lateness: float

    @property
    def is_kept(self) -> bool:
        return not self.broken

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        total = self.accounts[-1]
        restarts = f"{self.restarts} restart{'' if self.restarts == 1 else 's'}"
        if self.failed_restarts:
            restarts += f" ({self.failed_restarts} of them failed)"
        return (
            f"{total.requests:,} requests, {total.failed:,} failed, {total.closed:,} connections closed, {restarts}, "
            f"longest wait {duration(total.wait)}"
        )

    def as_object(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"kept": self.is_kept, "sentence": self.sentence} | asdict(self)


def judge(recording: Recording, conditions: Sequence[Condition]) -> Verdict:
    """Give an account, and say which conditions hold."""
    accounts = account(recording)
    failed_restarts = sum(1 for restart in recording.restarts if restart.status != 0)
    values = {name: measure(accounts[-1], failed_restarts) for name, measure in MEASURES.items()}
    return Verdict(
        accounts,
        broken=[f"{each}: {values[each.measure]:.3g}" for each in conditions if each.holds(values[each.measure])],
        restarts=len(recording.restarts),
        failed_restarts=failed_restarts,
        seconds=recording.seconds,
        lateness=recording.lateness,
    )
