"""What script/chaos --fleet prints, and the evidence that it leaves in build/chaos."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.evidence import Outcome
from tests.chaos.fleet.evidence import FleetEvidence
from tests.chaos.judge import Verdict
from tests.chaos.report import FOLDER, lines, save
from tests.chaos.schedule import Schedule


@dataclass
class Total:
    """The sums over all schedules."""

    schedules: int = 0
    requests: int = 0
    violations: int = 0
    allowed: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)

    def add(self, schedule: Schedule, evidence: FleetEvidence, verdict: Verdict) -> None:
        self.schedules += 1
        self.requests += len(evidence.requests)
        self.violations += len(verdict.violations)
        self.allowed += verdict.allowed
        names = {deed.what for deed in evidence.deeds}
        self.operations.update(event.what for event in schedule.events if event.what not in names)
        self.deeds.update(f"{deed.what} {deed.detail}".strip() for deed in evidence.deeds)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"\n{self.schedules} schedules, {self.requests:,} requests, {self.violations} violations",
                f"operations: {_counts(self.operations)}",
                f"faults: {_counts(self.deeds)}",
                "allowed, by reason:",
                *(f"  {number:6}  {reason}" for reason, number in self.allowed.most_common()),
            ]
        )


def line(schedule: Schedule, evidence: FleetEvidence, verdict: Verdict, seconds: float) -> str:
    """Return what came of a schedule, in a line."""
    lost = sum(request.outcome is not Outcome.OK for request in evidence.requests)
    events = ", ".join(" ".join((event.what, *event.arguments)) for event in schedule.events)
    return (
        f"seed {schedule.seed}: {len(evidence.requests):,} requests, {lost} lost, "
        f"{len(verdict.violations)} violations, {seconds:.0f} s ({events})"
    )


def write(schedule: Schedule, found: FleetEvidence, verdict: Verdict) -> str:
    """Write all evidence to files, and return the part of it that explains the first violations."""
    folder = FOLDER / f"fleet-seed-{schedule.seed}"
    parts = {
        "schedule": str(schedule),
        "operations": lines(found.operations),
        "faults": lines(found.deeds),
        "servers": lines(found.looks),
        "violations": lines(verdict.violations),
        "allowed": lines(verdict.allowed.items()),
        "closed": lines(found.closed),
        "ledger": lines(found.requests),
        "executed": lines(f"{name} {machine}" for name, machine in found.executed),
        **found.logs,
    }
    shown = save(folder, parts, ("schedule", "operations", "faults", "servers", "violations"))
    return "\n".join([*shown, f"-- all of it: {folder}"])


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counter.most_common())
