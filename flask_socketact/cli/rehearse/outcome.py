"""The result of a rehearsal: an account for each kind of client, and whether the promise was kept."""

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

#: Requests that begin up to this time after a restart count as during it: old workers still finish theirs. Seconds.
AFTERMATH = 1.0
BEFORE, DURING, AFTER = range(3)

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([a-z0-9-]+)\s*(>=|>)\s*(\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class Account:
    """What the clients of one kind, or all clients, saw. Times are in seconds."""

    kind: str
    requests: int
    failed: int
    reasons: dict[str, int]  #: number of failures by reason
    closed: int  #: connections that the server closed
    p50: float  #: of the response times
    p99: float
    max: float
    wait: float  #: longest time beyond the median of the kind before the first restart


def account(recording: Recording) -> list[Account]:
    """Return an account for each kind of client; the last one is for all clients."""
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
    """Return whether a request was before the restarts, during one, or after one."""
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
    """Return the least of the sorted `times` that a share of `part` does not exceed; 0.0 without any."""
    return times[max(0, math.ceil(len(times) * part) - 1)] if times else 0.0


#: Measures for conditions, of all clients together. Times are in seconds.
MEASURES: dict[str, Callable[[Account, int], float]] = {
    "failed": lambda together, _: together.failed,
    "closed": lambda together, _: together.closed,
    "wait": lambda together, _: together.wait,
    "p99": lambda together, _: together.p99,
    "failed-restarts": lambda _, failed_restarts: failed_restarts,
}


@dataclass(frozen=True)
class Condition:
    """A condition that breaks the promise: ``wait>0.25``."""

    measure: str
    comparison: str
    limit: float

    def holds(self, value: float) -> bool:
        return _COMPARISONS[self.comparison](value, self.limit)

    def told(self, value: float) -> str:
        """Return the condition with a value for which it holds, in as many digits as show that."""
        if isinstance(value, int):
            return f"{self}: {value:,}"
        texts = (f"{value:.{digits}g}" for digits in range(3, 18))
        return f"{self}: {next(text for text in texts if self.holds(float(text)))}"

    def __str__(self) -> str:
        return f"{self.measure}{self.comparison}{self.limit:g}"


def parse_conditions(text: str) -> list[Condition]:
    """Parse ``failed>0,wait>0.25``.

    :raises OptionError: a condition is malformed.
    """
    conditions = []
    for part in text.split(","):
        match = _CONDITION.fullmatch(part)
        if match is None or match[1] not in MEASURES:
            wanted = f"write one of {', '.join(MEASURES)}, > or >=, and a number"
            raise OptionError(f"{part.strip()!r} is not a condition: {wanted}, in quotes, since the shell interprets >")
        conditions.append(Condition(match[1], match[2], float(match[3])))
    return conditions


#: What clients notice, whatever breaks the promise.
NOTICED = parse_conditions("failed>0,closed>0,wait>0.5")


def noticed(account: Account, conditions: Sequence[Condition]) -> set[str]:
    """Return the measures of an account that clients notice: the usual ones, and those in `conditions`."""
    values = {name: measure(account, 0) for name, measure in MEASURES.items()}
    return {
        each.measure for each in (*NOTICED, *conditions) if each.holds(values[each.measure]) and values[each.measure]
    }


@dataclass(frozen=True)
class Verdict:
    """The result of a rehearsal."""

    accounts: Sequence[Account]
    conditions: Sequence[Condition]  #: what breaks the promise
    broken: Sequence[str]  #: conditions that hold, with the measured value
    restarts: int
    failed_restarts: int
    seconds: float
    lateness: float

    @property
    def is_kept(self) -> bool:
        return not self.broken

    @property
    def headline(self) -> str:
        """Whether the promise was kept, and whether clients noticed: --fail-on may allow what they notice."""
        are_noticed = bool(noticed(self.accounts[-1], self.conditions))
        if self.is_kept:
            return "Kept, but clients noticed" if are_noticed else "Kept: no client noticed"
        return "Broken: clients noticed" if are_noticed else "Broken, but no client noticed"

    @property
    def sentence(self) -> str:
        """The measured values in one line."""
        total = self.accounts[-1]
        restarts = f"{self.restarts} restart{'' if self.restarts == 1 else 's'}"
        if self.failed_restarts:
            restarts += f" ({self.failed_restarts} of them failed)"
        return (
            f"{total.requests:,} requests, {total.failed:,} failed, {total.closed:,} connections closed, {restarts}, "
            f"longest wait {duration(total.wait)}"
        )

    def as_object(self) -> dict[str, Any]:
        """Return the verdict for ``--json``."""
        return {"kept": self.is_kept, "headline": self.headline, "sentence": self.sentence} | asdict(self)


def judge(recording: Recording, conditions: Sequence[Condition]) -> Verdict:
    """Return the accounts, and the conditions that hold."""
    accounts = account(recording)
    failed_restarts = sum(1 for restart in recording.restarts if restart.status != 0)
    values = {name: measure(accounts[-1], failed_restarts) for name, measure in MEASURES.items()}
    return Verdict(
        accounts,
        conditions,
        broken=[each.told(values[each.measure]) for each in conditions if each.holds(values[each.measure])],
        restarts=len(recording.restarts),
        failed_restarts=failed_restarts,
        seconds=recording.seconds,
        lateness=recording.lateness,
    )
