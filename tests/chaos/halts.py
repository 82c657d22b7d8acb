"""Stops processes, at a step or at a random time, looks what they hold, and kills or continues them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType

from flask_socketact.handover.steps import Step
from tests.chaos.evidence import Cause, Halt
from tests.chaos.processes import Processes, State
from tests.chaos.windows import Windows
from tests.support.machine import Machine

FOLDER = "/run/chaos"
#: Steps at which the workers of the generation before still accept: if the master dies there, no client waits.
_OTHERS_SERVE = ("activating", "deactivating")
#: Until a process that was told to has stopped, in seconds.
_DEADLINE = 10.0


class Halts:
    """Watches for processes that have stopped at a step, for the length of a ``with`` block."""

    def __init__(self, machine: Machine, processes: Processes, windows: Windows) -> None:
        self.halts: list[Halt] = []
        self.reached: Counter[tuple[str, str]] = Counter()  #: steps and deeds
        self._machine, self._processes, self._windows = machine, processes, windows
        self._armed: dict[str, float | None] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="steps")
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def __enter__(self) -> Halts:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for step in list(self._armed):
            self._machine.path(f"{FOLDER}/{step}").unlink(missing_ok=True)
        time.sleep(0.1)  # a process may just have renamed it
        self._ending.set()
        self._watcher.join()
        for thread in self._threads:
            thread.join()
        if self._errors and error is None:
            raise self._errors[0]

    def arm(self, step: Step, seconds: float | None) -> None:
        """Let the next process that reaches `step` be frozen for some seconds, or killed."""
        self._armed[step.value] = seconds
        self._machine.path(f"{FOLDER}/{step.value}").touch()

    def halt(self, role: str, which: int, seconds: float | None) -> None:
        """Freeze or kill one process of a role now; do nothing if there is none."""
        pids = self._processes.state().of(role)
        if pids:
            self._processes.signal("STOP", pid := pids[which % len(pids)])
            self._handle(pid, "", seconds)

    def _watch(self) -> None:
        folder = self._machine.path(FOLDER)
        while not self._ending.wait(0.004):
            for file in folder.iterdir():
                step, _, pid = file.name.partition(".")
                if not pid:
                    continue
                file.unlink()
                thread = threading.Thread(target=self._try_to_handle, args=(int(pid), step))
                thread.start()
                self._threads.append(thread)

    def _try_to_handle(self, pid: int, step: str) -> None:
        try:
            self._handle(pid, step, self._armed.get(step))
        except BaseException as error:  # noqa: BLE001 (raised again at the end of the block)
            self._errors.append(error)

    def _handle(self, pid: int, step: str, seconds: float | None) -> None:
        """Look at a process that stops, then kill or continue it."""
        processes = self._processes
        began = time.monotonic()
        while not processes.is_stopped(pid):
            # After SIGTERM systemd sends SIGCONT: a process may have gone on before we looked.
            if not processes.exists(pid) or time.monotonic() > began + _DEADLINE:
                return
            time.sleep(0.002)
        state = processes.state()
        role = state.role(pid)
        ports, mail = processes.connections(pid, state.others(pid))
        if seconds is None:
            self._open_window(state, role, pid)
            processes.signal("KILL", pid)
        else:
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            processes.signal("CONT", pid)
        killed = seconds is None
        with self._lock:
            self.halts.append(Halt(pid, role, step, killed, began, time.monotonic(), ports, mail))
            if step:
                self.reached[step, "killed" if killed else "frozen"] += 1

    def _open_window(self, state: State, role: str, pid: int) -> None:
        """Note that the service may have to start again; and that clients wait, if no other process lets them in."""
        self._windows.open_until_active(Cause.NOT_ACTIVE)
        if role == "relay":
            self._windows.open_until_active(Cause.DRAIN)
        elif role == "master" and not (state.active in _OTHERS_SERVE and state.old):
            self._windows.open_until_active(Cause.MASTER_KILLED)
        elif role in ("worker", "old") and not self._others_serve(state, pid):
            self._windows.open_until_active(Cause.LAST_WORKER_KILLED)

    def _others_serve(self, state: State, pid: int) -> bool:
        """Return whether another worker lives that is no worker of a generation that still loads, or drains."""
        killed = {halt.pid for halt in self.halts if halt.killed} | {pid}
        group = state.workers if state.active in ("active", "reloading") else state.old
        return bool(set(group) - killed) or not group
