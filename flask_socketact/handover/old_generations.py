"""The generations before ours, whose workers the relay has moved to scopes: told to go when we are ready."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gunicorn.glogging import Logger

from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Field, Scoreboard
from flask_socketact.systemd import cgroup

#: A worker begins to drain when it gets SIGURG. One that has not so much later gets SIGTERM: the application, or
#: a library of it (Go's runtime does), may have taken the signal. Seconds.
HEARING = 2.0
#: A worker told to drain leaves by itself when its drain time is over. What is left so much later (a worker
#: that cannot, a program that a request has left behind) is ended. Seconds.
GRACE = 10.0
#: From SIGTERM to SIGKILL, in seconds.
LAST_GRACE = 5.0


@dataclass(frozen=True)
class RelayedWorker:
    """What is known of a worker of another master; gunicorn's hook ``child_exit`` gets it in the place of a worker."""

    pid: int
    age: int  #: gunicorn's, of its own master; 0 when its scoreboard cannot be read


@dataclass
class Generation:
    """The workers of one master before ours."""

    processes: frozenset[int] = frozenset()  #: all pids in the scope
    workers: dict[int, RelayedWorker] = field(default_factory=dict)
    drain_time: float = 0.0  #: seconds
    told_at: float | None = None  #: CLOCK_MONOTONIC, seconds
    reminded: bool = False
    ended_by: signal.Signals | None = None


class OldGenerations:
    """The scopes beside the control group of a service; none outside systemd."""

    def __init__(
        self,
        service: str | None,
        folder: Path | None,
        log: Logger,
        *,
        on_exit: Callable[[RelayedWorker], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the control group of the service, the folder of its scoreboards, and what is to hear of each worker that
        has gone."""
        self._service = service
        self._ours = cgroup.ends_of_own_scope(os.getpid())
        self._folder = folder
        self._log = log
        self._on_exit = on_exit
        self._clock = clock
        self._generations: dict[str, Generation] = {}  # by their scopes

    def look(self) -> None:
        """See who is there, and who has gone since the look before."""
        present = set(self._scopes())
        for scope in present.union(self._generations):
            generation = self._generations.setdefault(scope, Generation())
            processes = frozenset(cgroup.processes(scope)) if scope in present else frozenset()
            if processes != generation.processes:
                generation.processes = processes
                self._note_workers(scope, generation)
            for pid in generation.workers.keys() - processes:
                self._on_exit(generation.workers.pop(pid))
        for scope in self._generations.keys() - present:
            del self._generations[scope]

    def workers(self) -> list[int]:
        """Return the pids of workers that are still there."""
        return [pid for scope in self._scopes() for pid in cgroup.workers(scope)]

    def supersede(self) -> None:
        """Let the workers leave new connections to ours, which answer: before systemd hears of us, so that whoever asks
        afterwards gets our release. Should this master die just then, they take new connections again."""
        for scope in self._scopes():
            with suppress(OSError, ValueError):  # nothing to be had, but a few answers of the release before
                if self._folder is not None:
                    scoreboard.supersede(self._folder, cgroup.master_of(scope), os.getpid())

    def retire(self, drain_time: float) -> None:
        """Let the workers that the last look has seen hand their idle connections to us, finish what they have and
        leave. Called again and again: what does not hear is told once more, and what has not left a few seconds after
        the drain time (in seconds, or that of the generation, if it is longer) is ended."""
        now = self._clock()
        for scope, generation in self._generations.items():
            if generation.told_at is None:
                generation.told_at = now
                self._signal(scope, signal.SIGURG)
            since = now - generation.told_at
            if since > HEARING and not generation.reminded:
                generation.reminded = True
                self._remind(scope)
            late = since - max(drain_time, generation.drain_time) - GRACE
            if late > 0:
                self._end(scope, generation, signal.SIGKILL if late > LAST_GRACE else signal.SIGTERM)

    def reopen_files(self) -> None:
        """Let the workers open their log files anew."""
        for scope in self._scopes():
            self._signal(scope, signal.SIGUSR1, lambda pid: _catches(pid, signal.SIGUSR1))

    def _scopes(self) -> list[str]:
        """Return their control groups, without that of our own workers, which we may see before we go."""
        return [scope for scope in cgroup.relayed(self._service or "") if not scope.endswith(self._ours)]

    def _note_workers(self, scope: str, generation: Generation) -> None:
        """Tell workers from programs that their requests have started: by the scoreboard, or who has started whom."""
        board = self._board(scope)
        if board is None:
            found = [RelayedWorker(pid, 0) for pid in cgroup.workers(scope)]
        else:
            generation.drain_time = board.drain_time
            found = [RelayedWorker(slot[Field.PID], slot[Field.AGE]) for slot in board.taken()]
        generation.workers.update((worker.pid, worker) for worker in found if worker.pid in generation.processes)

    def _remind(self, scope: str) -> None:
        """Send SIGTERM to workers that have not begun to drain, where their scoreboard tells."""
        board = self._board(scope)
        present = cgroup.processes(scope)
        slots = board.taken() if board else ()
        deaf = {slot[Field.PID] for slot in slots if slot[Field.PID] in present and not slot[Field.DRAINING]}
        if deaf:
            self._log.warning(
                "SIGTERM to workers %s of %s, which do not drain %g s after SIGURG: the application may have "
                "taken that signal",
                sorted(deaf),
                scope,
                HEARING,
            )
            self._signal(scope, signal.SIGTERM, deaf.__contains__)

    def _board(self, scope: str) -> Scoreboard | None:
        try:
            return scoreboard.read(self._folder, cgroup.master_of(scope)) if self._folder else None
        except PermissionError:
            return None

    def _end(self, scope: str, generation: Generation, number: signal.Signals) -> None:
        """Send SIGTERM once; SIGKILL again, if there are others by then."""
        if number is not generation.ended_by:
            pids = sorted(generation.processes)
            self._log.warning("%s to processes %s of %s, which should have left", number.name, pids, scope)
        elif number is signal.SIGTERM:
            return
        generation.ended_by = number
        self._signal(scope, number)

    def _signal(self, scope: str, number: signal.Signals, wants: Callable[[int], bool] = lambda _: True) -> None:
        """Send a signal to the processes of a scope that want it; programs that requests have started ignore SIGURG."""
        for pid in filter(wants, cgroup.processes(scope)):
            with suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
                try:
                    if cgroup.of(pid) == scope:  # and not another process with its number
                        signal.pidfd_send_signal(process, number)
                finally:
                    os.close(process)


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: SIGUSR1 ends who has none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)
