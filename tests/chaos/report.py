"""What script/chaos prints, and the evidence that it leaves in build/chaos."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flask_socketact.handover.steps import Step
from tests.chaos.evidence import Evidence, Outcome
from tests.chaos.judge import Verdict
from tests.chaos.schedule import Schedule

FOLDER = Path(__file__).parents[2] / "build/chaos"
#: Lines of each kind of evidence that are printed; all are in the folder.
SHOWN = 8
MUCH = 0.1  #: share of the time
#: Of the journal, the time around the first violation, in seconds, and most lines.
AROUND, LINES = 2.5, 60
_STAMP = re.compile(r"^\[\s*(\d+\.\d+)\]")


@dataclass
class Total:
    """The sums over all schedules."""

    schedules: int = 0
    requests: int = 0
    violations: int = 0
    allowed: Counter[str] = field(default_factory=Counter)
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0  #: wait, in seconds, of those that no fault explains

    def add(self, evidence: Evidence, verdict: Verdict, reached: Counter[tuple[str, str]]) -> None:
        self.schedules += 1
        self.requests += len(evidence.requests)
        self.violations += len(verdict.violations)
        self.allowed += verdict.allowed
        self.reached += reached
        self.operations.update(operation.command for operation in evidence.operations)

    def __str__(self) -> str:
        commands = ", ".join(f"{number} {command}" for command, number in self.operations.most_common())
        lines = [
            f"\n{self.schedules} schedules, {self.requests:,} requests, {self.violations} violations",
            f"commands: {commands}",
            "allowed, by reason:",
            *(f"  {number:6}  {reason}" for reason, number in self.allowed.most_common()),
            f"{'step':24} killed  frozen",
        ]
        for step in Step:
            killed, frozen = self.reached[step.value, "killed"], self.reached[step.value, "frozen"]
            lines.append(f"  {step.value:22} {killed:6}  {frozen:6}")
        return "\n".join(lines)


def starved(evidence: Evidence) -> str:
    """Return for which share of the time the machine got no CPU, if that is much: then waits prove less."""
    if not evidence.requests:
        return ""
    seconds = max(request.ended for request in evidence.requests) - min(request.began for request in evidence.requests)
    share = sum(by for _, by in evidence.starved) / seconds
    return f", no CPU for {share:.0%} of the time" if share > MUCH else ""


def line(
    schedule: Schedule, evidence: Evidence, verdict: Verdict, reached: Counter[tuple[str, str]], seconds: float
) -> str:
    """Return what came of a schedule, in a line."""
    lost = sum(request.outcome is not Outcome.OK for request in evidence.requests)
    steps = ", ".join(f"{deed} at {step}" for step, deed in reached)
    events = ", ".join(event.what for event in schedule.events if event.what != "step")
    return (
        f"seed {schedule.seed} {schedule.setup}: {len(evidence.requests):,} requests, {lost} lost, "
        f"{len(verdict.violations)} violations, {seconds:.0f} s{starved(evidence)} "
        f"({'; '.join(part for part in (events, steps) if part)})"
    )


def evidence(schedule: Schedule, found: Evidence, verdict: Verdict) -> str:
    """Write all evidence to files, and return the part of it that explains the first violations."""
    folder = FOLDER / f"seed-{schedule.seed}"
    parts = {
        "schedule": str(schedule),
        "violations": lines(verdict.violations),
        "operations": lines(found.operations),
        "halts": lines((halt, sorted(halt.ports), sorted(halt.mail)) for halt in found.halts),
        "windows": lines(found.windows),
        "faults": lines(found.faults),
        "shortages": lines((shortage, sorted(shortage.ports)) for shortage in found.shortages),
        "stalls": lines(found.stalls),
        "packets": lines(found.packets),
        "closed": lines(found.closed),
        "ledger": lines(found.requests),
        "executed": lines(f"{name} {pid}" for name, pid in found.executed),
        "journal": found.journal,
    }
    shown = save(folder, parts, ("schedule", "operations", "halts", "windows", "violations"))
    at = verdict.violations[0].at
    journal = [row for row in found.journal.splitlines() if at and _is_near(row, at)]
    return "\n".join([*shown, "-- journal", *journal[:LINES], f"-- all of it: {folder}"])


def save(folder: Path, parts: Mapping[str, str], first: Sequence[str]) -> list[str]:
    """Write each part of the evidence to a file of the folder, and return the beginnings of the `first` ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in parts.items():
        (folder / name).write_text(text + "\n")
    return [f"-- {name}\n{_some(parts[name])}" for name in first]


def lines(items: object) -> str:
    """Return one line for each item."""
    return "\n".join(map(str, items))  # type: ignore[call-overload]


def _some(text: str) -> str:
    """Return the first lines of a long text."""
    rows = text.splitlines()
    more = [f"… {len(rows) - SHOWN} more"] if len(rows) > 4 * SHOWN else []
    return "\n".join((rows[:SHOWN] if more else rows) + more)


def _is_near(row: str, at: float) -> bool:
    stamp = _STAMP.match(row)
    return stamp is not None and abs(float(stamp[1]) - at) < AROUND
