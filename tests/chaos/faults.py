"""Faults of the machine and of clients; units in examples/chaos make most of them."""

from __future__ import annotations

import threading
import time
from functools import partial

from flask_socketact.handover.steps import Step
from tests.chaos import clock, memory
from tests.chaos.evidence import Cause, Shortage
from tests.chaos.halts import Halts
from tests.chaos.processes import PORT, Processes
from tests.chaos.schedule import Event
from tests.chaos.windows import Windows
from tests.support.hostile import Hostility
from tests.support.machine import Machine

UNITS = {
    "descriptors": ("chaos-descriptors@app", (Cause.DESCRIPTORS,)),
    "full": ("chaos-full@run", (Cause.DRAIN,)),
    "journal-full": ("chaos-full@var-log-journal", ()),
    "bus": ("chaos-bus", (Cause.DRAIN,)),
    "cpu": ("chaos-cpu", (Cause.CPU,)),
}
HOSTILE_CLIENTS = 2


class Faults:
    """Makes faults, each in a thread."""

    def __init__(self, machine: Machine, processes: Processes, halts: Halts, windows: Windows, seed: int) -> None:
        self.faults: list[tuple[str, float, float]] = []
        self.shortages: list[Shortage] = []
        self._machine, self._processes = machine, processes
        self._halts, self._windows, self._seed = halts, windows, seed
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._clock = 0  # how much later it is than the machine's, in seconds

    def begin(self, event: Event) -> None:
        """Make a fault, which ends by itself."""
        if event.what == "step":
            step, _, *seconds = event.arguments
            self._halts.arm(Step(step), float(seconds[0]) if seconds else None)
            return
        if event.what == "clock":
            self._clock += int(event.arguments[0])
            clock.set_wrong(clock.file_in(self._machine), self._clock)
            return
        thread = threading.Thread(target=self._make, args=(event,), name=str(event))
        thread.start()
        self._threads.append(thread)

    def wait(self) -> None:
        """Wait until all have ended.

        :raises BaseException: one could not be made.
        """
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _make(self, event: Event) -> None:
        try:
            match event.what, event.arguments:
                case "kill", (role, which):
                    self._halts.halt(role, int(which), None)
                case "freeze", (role, which, seconds):
                    self._halts.halt(role, int(which), float(seconds))
                case "memory", (role, which, seconds):
                    self._limit_memory(role, int(which), float(seconds))
                case "journal", (seconds,):
                    self._freeze_journal(float(seconds))
                case "hostile", (seconds,):
                    self._be_hostile(float(seconds))
                case name, (seconds,):
                    self._run_unit(name, float(seconds))
        except BaseException as error:  # noqa: BLE001 (raised again by wait())
            self._errors.append(error)

    def _run_unit(self, name: str, seconds: float) -> None:
        unit, causes = UNITS[name]
        began = time.monotonic()
        with self._windows.open(*causes):
            self._machine.systemctl("start", unit, check=False)
            if name == "journal-full":  # in the file that it has there may be room for this schedule
                self._machine.run("journalctl", "--rotate", check=False)
            time.sleep(seconds)
            self._machine.systemctl("stop", unit)
        self.faults.append((name, began, time.monotonic()))
        if Cause.DRAIN in causes:
            self._windows.open_until_active(Cause.DRAIN)  # a restart may have begun

    def _limit_memory(self, role: str, which: int, seconds: float) -> None:
        """Let a process get no more memory for some time; do nothing if there is none of this role."""
        state = self._processes.state()
        if not (pids := state.of(role)):
            return
        pid = pids[which % len(pids)]
        began = time.monotonic()
        ports = set().union(*self._processes.connections(pid, state.others(pid)))  # it may close some at once
        memory.limit(self._machine, pid)
        while time.monotonic() < began + seconds and self._processes.exists(pid):
            ports.update(*self._processes.connections(pid, state.others(pid)))
            time.sleep(0.05)
        memory.release(self._machine, self._processes)
        ended = time.monotonic()
        self.shortages.append(Shortage(pid, role, began, ended, frozenset(ports)))
        self.faults.append((f"no memory for the {role}", began, ended))

    def _freeze_journal(self, seconds: float) -> None:
        pid = int(self._machine.show("systemd-journald", "MainPID"))
        began = time.monotonic()
        self._processes.signal("STOP", pid)
        time.sleep(seconds)
        self._processes.signal("CONT", pid)
        self.faults.append(("journal frozen", began, time.monotonic()))

    def _be_hostile(self, seconds: float) -> None:
        began = time.monotonic()
        with (
            self._windows.open(Cause.HOSTILE),
            Hostility(partial(self._machine.connect, ("127.0.0.1", PORT)), HOSTILE_CLIENTS, self._seed),
        ):
            time.sleep(seconds)
        self.faults.append(("hostile clients", began, time.monotonic()))
