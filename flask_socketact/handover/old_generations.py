"""The old generations, whose workers the relay has moved to scopes: they drain when the new workers accept."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gunicorn.glogging import Logger

from flask_socketact.handover import protocol
from flask_socketact.handover.steps import Step, reached
from flask_socketact.linux import proc
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Field
from flask_socketact.systemd import cgroup

#: A worker that does not drain this long after SIGURG gets SIGTERM: the application, or one of its libraries (Go's
#: runtime does), may handle SIGURG itself. Seconds.
REMINDER_AFTER = 2.0
#: A worker exits by itself at the end of its drain time. A process that still runs this long after it (a worker that
#: cannot exit, a program that a request has started) gets SIGTERM. Seconds.
GRACE = 10.0
#: From SIGTERM to SIGKILL. Seconds.
LAST_GRACE = 5.0


@dataclass(frozen=True)
class RelayedWorker:
    """What is known of a worker of another master. gunicorn's hook ``child_exit`` gets this instead of a worker."""

    pid: int
    age: int  #: gunicorn's, of its own master; 0 when its scoreboard cannot be read


@dataclass
class Generation:
    """The workers of one old master."""

    processes: frozenset[int] = frozenset()  #: all pids in the scope
    workers: dict[int, RelayedWorker] = field(default_factory=dict)
    drain_time: float | None = None  #: its own, from its scoreboard; seconds
    retired_at: float | None = None  #: when it was told to drain; CLOCK_MONOTONIC, seconds
    is_reminded: bool = False
    ended_by: signal.Signals | None = None


class OldGenerations:
    """The scopes of a service; there are none without systemd."""

    def __init__(
        self,
        service: str | None,
        folder: Path | None,
        log: Logger,
        *,
        on_exit: Callable[[RelayedWorker], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is needed to find the generations.

        :param service: control group of the service
        :param folder: where the service's masters have their scoreboards
        :param on_exit: called for each worker that has exited
        """
        self._service = service
        self._own = protocol.scope_endings(os.getpid())
        self._folder = folder
        self._log = log
        self._on_exit = on_exit
        self._clock = clock
        self._generations: dict[str, Generation] = {}  # by scope

    def look(self) -> None:
        """Note which processes the scopes have now, and which have exited since the last call."""
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

    @property
    def found(self) -> list[int]:
        """The pids of the workers that the last look has found."""
        return [pid for generation in self._generations.values() for pid in generation.workers]

    def workers(self) -> list[int]:
        """Return the pids of the workers that still run, and of their loader, which exits after them."""
        return [pid for scope in self._scopes() for pid in cgroup.workers(scope)]

    def supersede(self) -> None:
        """Let the old workers pass new connections on to ours. Called before READY=1, so that each client that connects
        afterwards gets the new release. If this master dies now, they accept new connections again."""
        for scope in self._scopes():  # where it cannot be noted, the old release still serves a few new connections
            self._note(scope, lambda folder, master: scoreboard.supersede(folder, master, os.getpid()))

    def retire(self, drain_time: float) -> None:
        """Let the workers that the last look has found drain. Called in each turn of the master, as what does not react
        is told again, and what has not exited a few seconds after its drain time is ended.

        :param drain_time: of generations whose own is unknown, in seconds
        """
        now = self._clock()
        for scope, generation in self._generations.items():
            if generation.retired_at is None:
                reached(Step.MASTER_RETIRES)
                generation.retired_at = now
                self._tell_to_drain(scope, generation)
            since = now - generation.retired_at
            if since > REMINDER_AFTER and not generation.is_reminded:
                generation.is_reminded = True
                self._remind(scope)
            own = drain_time if generation.drain_time is None else generation.drain_time
            late = since - own - GRACE
            if late > 0 and generation.processes:
                self._end(scope, generation, signal.SIGKILL if late > LAST_GRACE else signal.SIGTERM)

    def reopen_files(self) -> None:
        """Let the workers reopen their log files. SIGUSR1 would end a process without a handler for it."""
        for scope in self._scopes():
            self._signal(scope, protocol.REOPEN, lambda pid: proc.catches(pid, protocol.REOPEN))

    def _scopes(self) -> list[str]:
        """Return their control groups, without that of our own workers, which exists just before we exit."""
        return [scope for scope in protocol.scopes(self._service or "") if not scope.endswith(self._own)]

    def _note_workers(self, scope: str, generation: Generation) -> None:
        """Tell workers from the programs that requests have started: by the scoreboard, or by their parents."""
        board = self._board(scope)
        if board is None:
            found = [RelayedWorker(pid, 0) for pid in cgroup.workers(scope)]
        else:
            generation.drain_time = board.drain_time
            found = [RelayedWorker(slot[Field.PID], slot[Field.AGE]) for slot in board.taken()]
        generation.workers.update((worker.pid, worker) for worker in found if worker.pid in generation.processes)

    def _tell_to_drain(self, scope: str, generation: Generation) -> None:
        """Send SIGURG, and note it before: a worker looks at the note, as an application can send the signal, too.
        Where it cannot be noted, send SIGTERM, but to the workers only: it would end what their requests have started.
        """
        if self._note(scope, scoreboard.retire):
            self._signal(scope, protocol.DRAIN)
        else:
            self._signal(scope, signal.SIGTERM, generation.workers.__contains__)

    def _note(self, scope: str, write: Callable[[Path, int], None]) -> bool:
        """Write to the scoreboard of an old master; return whether that was possible."""
        if self._folder is None:
            return False
        try:
            write(self._folder, protocol.master_of(scope))
        except (OSError, ValueError):
            return False
        return True

    def _remind(self, scope: str) -> None:
        """Send SIGTERM to workers that do not drain, if their scoreboard can be read."""
        board = self._board(scope)
        present = cgroup.processes(scope)
        slots = board.taken() if board else ()
        serving = {slot[Field.PID] for slot in slots if slot[Field.PID] in present and not slot[Field.DRAINING]}
        if serving:
            self._log.warning(
                "SIGTERM to workers %s of %s: they do not drain %g s after SIGURG. The application may have replaced "
                "the handler of SIGURG",
                sorted(serving),
                scope,
                REMINDER_AFTER,
            )
            self._signal(scope, signal.SIGTERM, serving.__contains__)

    def _board(self, scope: str) -> Scoreboard | None:
        try:
            return scoreboard.read(self._folder, protocol.master_of(scope)) if self._folder else None
        except PermissionError:
            return None

    def _end(self, scope: str, generation: Generation, number: signal.Signals) -> None:
        """Send SIGTERM once; SIGKILL each time, to processes that have started since, too."""
        if number is not generation.ended_by:
            pids = sorted(generation.processes)
            self._log.warning("%s to processes %s of %s: they have not exited in time", number.name, pids, scope)
        elif number is signal.SIGTERM:
            return
        generation.ended_by = number
        self._signal(scope, number)

    def _signal(self, scope: str, number: signal.Signals, wants: Callable[[int], bool] = lambda _: True) -> None:
        """Send a signal to those processes of a scope for which `wants` returns true."""
        for pid in filter(wants, cgroup.processes(scope)):
            with suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
                try:
                    if cgroup.of(pid) == scope:  # and not another process that has got its number
                        signal.pidfd_send_signal(process, number)
                finally:
                    os.close(process)
