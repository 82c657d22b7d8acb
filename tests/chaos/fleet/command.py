"""script/chaos --fleet: runs schedules on three machines behind HAProxy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from tests.chaos.fleet import report
from tests.chaos.fleet.bench import Bench, booted
from tests.chaos.fleet.judge import judge
from tests.chaos.fleet.run import run
from tests.chaos.judge import Verdict
from tests.chaos.schedule import Schedule
from tests.chaos.shrink import shrink
from tests.support.machine import MachineError

#: Most runs to find a shorter schedule: each takes a minute or two.
SHRINKING = 6


class Runner:
    """Runs schedules on a fleet, for the length of a ``with`` block; a fleet that cannot be repaired is replaced."""

    def __init__(self, tree: str, total: report.Total) -> None:
        self._tree, self._total = tree, total
        self._bench: Bench | None = None

    def __enter__(self) -> Runner:
        self._stack = ExitStack()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, schedule: Schedule) -> Verdict:
        """Run a schedule, and print a line; the evidence too, if a promise is broken."""
        if self._bench is None:
            self._bench = self._stack.enter_context(booted(self._tree))
        began = time.monotonic()
        evidence = run(self._bench, schedule)
        verdict = judge(evidence)
        self._total.add(schedule, evidence, verdict)
        print(report.line(schedule, evidence, verdict, time.monotonic() - began), flush=True)
        shown = report.write(schedule, evidence, verdict)
        if verdict.violations:
            print(f"{shown}\nchaos: script/chaos --fleet --schedule '{_in_a_line(schedule)}'", flush=True)
        if evidence.leftovers:
            self._stack.close()
            self._bench = None
        return verdict

    def shrink(self, schedule: Schedule) -> None:
        """Print the shortest schedule that still shows a violation."""
        print(f"chaos: looking for a shorter schedule, in at most {SHRINKING} runs", flush=True)
        total, self._total = self._total, report.Total()
        shortest = shrink(schedule, lambda shorter: bool(self.run(shorter).violations), SHRINKING)
        self._total = total
        command = f"script/chaos --fleet --schedule '{_in_a_line(shortest)}'"
        print(f"chaos: the shortest that was found:\n{shortest}\nchaos: {command}", flush=True)


def main(schedules: Sequence[Schedule], tree: str, *, keep_going: bool) -> int:
    """Run schedules; return the exit status of script/chaos."""
    total = report.Total()
    try:
        with Runner(tree, total) as runner:
            for schedule in schedules:
                verdict = runner.run(schedule)
                if verdict.violations and not keep_going:
                    runner.shrink(schedule)
                    break
    except (MachineError, OSError, subprocess.SubprocessError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    finally:  # also after Ctrl-C
        print(total)
    return 1 if total.violations else 0


def _in_a_line(schedule: Schedule) -> str:
    return str(schedule).replace("\n", "; ")
