"""The command line of script/chaos."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from flask_socketact.handover.steps import Step
from tests.chaos import report
from tests.chaos.bench import build_for_tests
from tests.chaos.fleet import command as fleet
from tests.chaos.fleet import schedule as fleet_schedule
from tests.chaos.judge import Verdict, judge
from tests.chaos.run import run
from tests.chaos.schedule import (
    EVENTS,
    FAULTS,
    LOADER_STEPS,
    Event,
    Schedule,
    ScheduleError,
    Setup,
    generate,
    parse,
    parse_setup,
)
from tests.chaos.shrink import shrink
from tests.support.machine import Machine, MachineError, interrupt_on_terminate

#: Most runs to find a shorter schedule.
SHRINKING = 12
FREEZE = "1.5"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "script/chaos",
        description="Run the example service on a real systemd with random operations and faults, and prove that no "
        "client loses more than a killed process held. Exits with 1 if a promise is broken.",
    )
    parser.add_argument(
        "--seed", type=_at_least(0), help="of the first schedule (default: a random one); with --steps its number"
    )
    parser.add_argument("--schedules", type=_at_least(1), default=10, help="how many (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=_at_least(5), help="length of each (default: 30; 75 with --fleet, and the repair)"
    )
    parser.add_argument("--tree", default="/", help="another Debian, made by script/tree")
    parser.add_argument("--schedule", help="a schedule, or the file that has one, in place of random ones")
    parser.add_argument(
        "--steps", action="store_true", help="kill and freeze a process at every step of each operation"
    )
    parser.add_argument(
        "--fleet", action="store_true", help="deploy with Ansible to three machines behind HAProxy, some of which fail"
    )
    parser.add_argument("--keep-going", action="store_true", help="run all schedules, and shorten none")
    parser.add_argument("--worker", choices=("thread", "sync", "gevent"), help="only this class of workers")
    parser.add_argument(
        "--setup", help="how the service runs, such as 'gevent preload hostile unix' or 'sync link 120 2'"
    )
    parser.add_argument("--fault", choices=FAULTS, action="append", help="only this fault; may be given several times")
    options = parser.parse_args()
    if options.fleet and (options.steps or options.worker or options.setup or options.fault):
        parser.error("--fleet goes without --steps, --worker, --setup and --fault")
    if not Path(options.tree).is_dir():
        parser.error(f"argument --tree: there is no folder {options.tree!r}: make one with script/tree")
    options.seconds = options.seconds or (75 if options.fleet else 30)
    return options


def _at_least(least: int) -> Callable[[str], int]:
    """Return a function that reads a number."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"a whole number of at least {least} is expected, not {text!r}")
        return int(text)

    return read


def schedules(options: argparse.Namespace) -> Iterator[Schedule]:
    """Yield the schedules to run.

    :raises ScheduleError: the one that was given is none.
    """
    if options.schedule:
        is_file = ";" not in options.schedule and Path(options.schedule).is_file()
        known = fleet_schedule.EVENTS if options.fleet else EVENTS
        yield parse(Path(options.schedule).read_text() if is_file else options.schedule, known)
    elif options.steps:
        every = systematic(options.worker or "thread")
        yield from (schedule for schedule in every if schedule.seed >= (options.seed or 0))
    else:
        first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
        for seed in range(first, first + options.schedules):
            if options.fleet:
                yield fleet_schedule.generate(seed, options.seconds)
            else:
                setup = parse_setup(options.setup) if options.setup else generate(seed, options.seconds).setup
                setup = replace(setup, worker=options.worker or setup.worker)
                yield generate(seed, options.seconds, options.fault or (), setup)


def systematic(worker: str) -> Iterator[Schedule]:
    """Yield a schedule for each step, and each thing that may happen there, in a restart and in a reload."""
    deeds = (("kill",), ("freeze", FREEZE))
    for number, (step, operation, deed) in enumerate(
        (step, operation, deed) for step in Step for operation in ("restart", "reload") for deed in deeds
    ):
        if operation == "reload" and step.value.startswith("relay"):
            continue
        events = (Event(0.3, "step", (step.value, *deed)), Event(0.5, operation))
        yield Schedule(number, Setup(worker, step in LOADER_STEPS), 6.0, events)


def main() -> int:
    options = arguments()
    interrupt_on_terminate()
    try:
        planned = list(schedules(options))
    except (ScheduleError, OSError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    if options.fleet:
        return fleet.main(planned, options.tree, keep_going=options.keep_going)
    return _run_all(planned, options.tree, keep_going=options.keep_going)


def _run_all(planned: list[Schedule], tree: str, *, keep_going: bool) -> int:
    total = report.Total()
    try:
        with Machine(tree) as machine:
            build_for_tests(machine)
            for schedule in planned:
                verdict = one(machine, schedule, total)
                if verdict.violations and not keep_going:
                    _shrink(machine, schedule)
                    break
    except (MachineError, OSError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    finally:  # also after Ctrl-C
        print(total)
    return 1 if total.violations else 0


def one(machine: Machine, schedule: Schedule, total: report.Total) -> Verdict:
    """Run a schedule, and print a line; the evidence too, if a promise is broken."""
    began = time.monotonic()
    evidence, reached = run(machine, schedule)
    verdict = judge(evidence)
    total.add(evidence, verdict, reached)
    print(report.line(schedule, evidence, verdict, reached, time.monotonic() - began), flush=True)
    if verdict.violations:
        print(report.evidence(schedule, evidence, verdict), flush=True)
    return verdict


def _shrink(machine: Machine, schedule: Schedule) -> None:
    """Print the shortest schedule that still shows a violation."""

    def fails(shorter: Schedule) -> bool:
        verdict = one(machine, shorter, report.Total())
        return bool(verdict.violations)

    print(f"chaos: looking for a shorter schedule, in at most {SHRINKING} runs", flush=True)
    shortest = shrink(schedule, fails, SHRINKING)
    command = str(shortest).replace("\n", "; ")
    print(f"chaos: the shortest that was found:\n{shortest}\nchaos: script/chaos --schedule '{command}'", flush=True)


if __name__ == "__main__":
    sys.exit(main())
