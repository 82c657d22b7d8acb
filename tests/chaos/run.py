"""Runs a schedule on a machine, and returns the evidence."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection

from tests.chaos import bench
from tests.chaos.access import access
from tests.chaos.clients import KINDS, SERIAL_KINDS, Clients
from tests.chaos.evidence import Evidence
from tests.chaos.faults import Faults
from tests.chaos.halts import Halts
from tests.chaos.operations import Operations
from tests.chaos.processes import NAME, Processes
from tests.chaos.schedule import CALM, OPERATIONS, Event, Schedule
from tests.chaos.starvation import Starvation
from tests.chaos.windows import Windows
from tests.support.machine import Machine


def run(machine: Machine, schedule: Schedule) -> tuple[Evidence, Counter[tuple[str, str]]]:
    """Run a schedule; return what happened, and how often a process was killed or frozen at which step."""
    setup = schedule.setup
    bench.prepare(machine, schedule)
    processes = Processes(machine, unix=setup.unix)
    windows = Windows(lambda: machine.show(NAME, "ActiveState") == "active")
    operations = Operations(machine, windows, hostile=setup.hostile)
    is_serial = setup.worker == "sync"
    kinds = SERIAL_KINDS if is_serial else KINDS
    began = time.monotonic()
    with Halts(machine, processes, windows) as halts, access(machine, setup, schedule.seed) as way:
        faults = Faults(machine, processes, halts, windows, schedule.seed)
        with Starvation(machine) as starvation, Clients(way, kinds, schedule.seed) as clients:
            play(schedule, lambda event: operations.run(event.what), OPERATIONS, faults.begin)
            faults.wait()
    windows.close()
    evidence = Evidence(clients.requests, clients.closed, late=clients.late, serial=is_serial)
    evidence.starved, evidence.stalls = starvation.starved, list(way.stalls)
    evidence.packets = way.packets
    evidence.leftovers = bench.leftovers(machine, processes)
    evidence.executed = bench.executed(machine)
    evidence.halts, evidence.shortages, evidence.windows = halts.halts, faults.shortages, windows.windows
    evidence.operations, evidence.faults = operations.operations, faults.faults
    evidence.journal = _journal(machine, began)
    return evidence, halts.reached


def play(
    schedule: Schedule,
    do: Callable[[Event], None],
    operations: Collection[str],
    begin: Callable[[Event], None],
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Let all happen at its time: do operations one after the other, however long each takes; and begin faults.

    `stop` ends the operation that runs, after Ctrl-C.
    """
    waiting: queue.Queue[Event | None] = queue.Queue()
    errors: list[BaseException] = []

    def operate() -> None:
        try:
            while (event := waiting.get()) is not None:
                do(event)
        except BaseException as error:  # noqa: BLE001 (raised again below)
            errors.append(error)

    operator = threading.Thread(target=operate, name="operator")
    operator.start()
    began = time.monotonic()
    try:
        for event in schedule.events:
            time.sleep(max(0.0, began + event.at - time.monotonic()))
            if event.what in operations:
                waiting.put(event)
            else:
                begin(event)
    except BaseException:
        stop()
        raise
    finally:
        waiting.put(None)
        operator.join()
    ended = time.monotonic()  # what has happened last has consequences
    time.sleep(max(began + schedule.seconds, ended + CALM) - ended)
    if errors:
        raise errors[0]


def _journal(machine: Machine, since: float) -> str:
    """Return the journal since then; its times are of CLOCK_MONOTONIC."""
    seconds = int(time.monotonic() - since) + 2
    command = ("journalctl", "--no-pager", "--output=short-monotonic", f"--since=-{seconds}s")
    return machine.run(*command, check=False).stdout
