"""What there is to see of a service: from systemd, the kernel, and the scoreboards of its masters."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flask_socketact.cli import ports, unit_journal
from flask_socketact.linux import socket_queues
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Field, Scoreboard, Slot
from flask_socketact.systemd import cgroup
from flask_socketact.systemd.manager import ACTIVE_STATES, Manager, Unit, describe_masked, runtime_folders

_SERVICE = (
    "ActiveState",
    "InvocationID",
    "MainPID",
    "StatusText",
    "TriggeredBy",
    "ControlGroup",
    "RuntimeDirectory",
    "Environment",
    "InactiveEnterTimestampMonotonic",
    "InactiveExitTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "ActiveExitTimestampMonotonic",
)
_SOCKET = ("LoadState", "Listen", "FileDescriptorName", "Backlog", "ActiveState")
_BYTES_OF_A_PAGE = os.sysconf("SC_PAGE_SIZE")
#: A service that was away for longer was stopped and started, not restarted. Microseconds.
_APART = 1_000_000


@dataclass(frozen=True)
class Listener:
    """A listener, which systemd holds."""

    name: str
    address: str
    queue: int | None  #: connections that nobody has accepted yet; None when the kernel does not tell
    backlog: int  #: how many there may be
    is_listening: bool


@dataclass(frozen=True)
class Worker:
    """A worker, as its master and it have it on their scoreboard. Times are seconds."""

    pid: int
    master: int
    generation: int
    state: str  #: loading, serving, draining, or relayed: serving on while the service restarts
    threads: int
    requests: int  #: answered since it began
    errors: int  #: of these, with a status of 500 or above
    rate: float | None  #: requests a second, since the look before; None at the first
    in_flight: int
    connections: int
    idle: int
    held: int  #: pieces of work beside requests that a drain waits for
    oldest: float  #: age of the oldest request in flight
    memory: int | None  #: resident, in bytes
    draining_for: float  #: 0.0: it does not
    drain_time: float  #: how long it may at most


@dataclass(frozen=True)
class Restart:
    """The last restart, start or reload. Times are seconds."""

    kind: str
    ago: float  #: since it has ended
    took: float  #: from the command until every new worker answered
    longest_wait: float | None  #: of the first requests of connections, in the first seconds; None: not told
    carried: int | None  #: idle connections that new workers were handed


@dataclass(frozen=True)
class Overview:
    """A service at a moment."""

    service: str
    state: str  #: active, failed, …
    status: str  #: ``STATUS=``, what the service says of itself
    main_pid: int
    listeners: tuple[Listener, ...]
    generation: int | None  #: of this master: one more with each reload
    workers: tuple[Worker, ...]  #: of the service, and old ones in scopes
    restart: Restart | None
    overlaps: bool  #: whether old and new workers live at the same time in a restart
    remark: str  #: why something is not known, and what to do
    failure: str  #: why it is not active, as the journal has it; empty: it is, or that is not known
    warnings: tuple[str, ...]  #: what does not break anything yet, or keeps the service from being started

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES


def look(name: str, manager: Manager, before: Overview | None = None, apart: float = 0.0) -> Overview:
    """Look at a service; with the look `before`, so many seconds ago, requests per second are known.

    :raises ManagerError: there is no such service, or the manager does not answer.
    """
    unit = manager.find(f"{name}.service", *_SERVICE)
    pid = int(unit["MainPID"] or 0)
    folders = runtime_folders(unit, manager)
    board, remark = _board(folders, pid)
    counted = {worker.pid: worker.requests for worker in before.workers} if before else {}
    sockets = _sockets(manager, unit)
    workers = [*_workers(board, pid, unit["ControlGroup"], relayed=False), *_old(folders, unit)]
    return Overview(
        service=unit.name,
        state=unit["ActiveState"],
        status=unit["StatusText"],
        main_pid=pid,
        listeners=tuple(_listeners(sockets)),
        generation=board.ready or None if board else None,
        workers=tuple(_with_rate(worker, counted.get(worker.pid), apart) for worker in workers),
        restart=_restart(unit, board),
        overlaps=unit.overlaps,
        remark=remark,
        failure="" if unit.is_active else unit_journal.start_failure(unit, manager),
        warnings=tuple(_warnings(manager, unit, sockets)),
    )


def _sockets(manager: Manager, unit: Unit) -> list[Unit]:
    """Return the socket units of a service: those that start it, and one of its name that is masked."""
    names = [name for name in unit["TriggeredBy"].split() if name.endswith(".socket")]
    own = manager.show(f"{unit.name.removesuffix('.service')}.socket", *_SOCKET)
    masked = [own] if own["LoadState"] == "masked" and own.name not in names else []
    return [*(manager.show(name, *_SOCKET) for name in names), *masked]


def _warnings(manager: Manager, unit: Unit, sockets: list[Unit]) -> Iterator[str]:
    for each in (unit, *sockets):
        if each["LoadState"] == "masked":
            yield describe_masked(each, user=manager.user)
    lost = ports.lost(sockets, unit, manager)
    for address in lost.addresses:
        yield ports.describe_lost([address], is_kept=address in lost.kept)


def _board(folders: list[Path], master: int) -> tuple[Scoreboard | None, str]:
    """Return the scoreboard of a master; or None, and why."""
    if not master:
        return None, ""
    try:
        board = scoreboard.find(folders, master)
    except PermissionError as error:
        return None, f"{Path(error.filename).parent} may not be looked into: look as root, or render the units anew"
    missing = "it shares no scoreboard: render its units anew (flask-socketact units), and restart it"
    return board, "" if board else missing


def _workers(board: Scoreboard | None, master: int, group: str, *, relayed: bool) -> Iterator[Worker]:
    """Yield the workers of a master that are in a control group."""
    if board is not None:
        for slot in board.living():
            if cgroup.of(slot[Field.PID]) == group:
                yield _worker(slot, master, board, relayed=relayed)


def _old(folders: list[Path], unit: Unit) -> Iterator[Worker]:
    """Yield the workers that a restart has moved to scopes, as far as their scoreboards can be read."""
    for scope in unit.scopes:
        master = cgroup.master_of(scope)
        yield from _workers(_board(folders, master)[0], master, scope, relayed=True)


def _worker(slot: Slot, master: int, board: Scoreboard, *, relayed: bool) -> Worker:
    draining = slot[Field.DRAINING]
    serving = "relayed" if relayed else "serving" if slot[Field.ACCEPTING] else "loading"
    return Worker(
        pid=slot[Field.PID],
        master=master,
        generation=slot[Field.GENERATION],
        state="draining" if draining else serving,
        threads=slot[Field.THREADS],
        requests=slot[Field.REQUESTS],
        errors=slot[Field.ERRORS],
        rate=None,
        in_flight=slot[Field.IN_FLIGHT],
        connections=slot[Field.OPEN],
        idle=slot[Field.IDLE],
        held=slot[Field.HOLDS],
        oldest=slot.oldest_age if slot[Field.IN_FLIGHT] else 0.0,  # noted once in a second
        memory=_memory(slot[Field.PID]),
        draining_for=(time.monotonic_ns() - draining) / 1e9 if draining else 0.0,
        drain_time=board.drain_time,
    )


def _memory(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _BYTES_OF_A_PAGE
    except OSError:
        return None


def _with_rate(worker: Worker, before: int | None, apart: float) -> Worker:
    return worker if before is None or not apart else replace(worker, rate=(worker.requests - before) / apart)


def _listeners(sockets: list[Unit]) -> Iterator[Listener]:
    for socket in sockets:
        for address in socket.listens("Stream"):
            yield Listener(
                name=socket["FileDescriptorName"] or socket.name,
                address=address,
                queue=socket_queues.length_at(address),
                backlog=min(int(socket["Backlog"] or 0), socket_queues.somaxconn()),
                is_listening=socket["ActiveState"] == "active",
            )


def _restart(unit: Unit, board: Scoreboard | None) -> Restart | None:
    """Return what the last restart, reload or start was, if systemd has heard that it was ready."""
    stopped, begun, ended = (
        int(unit[f"{name}TimestampMonotonic"] or 0) for name in ("ActiveExit", "InactiveExit", "ActiveEnter")
    )
    away = begun - int(unit["InactiveEnterTimestampMonotonic"] or 0)
    if not ended or not unit.is_active:
        return None
    kind, took, at = "start", (ended - begun) / 1e6, ended / 1e6
    if 0 < stopped < ended and away < _APART:
        kind, took = "restart", (ended - stopped) / 1e6
    if board is not None and board.ready > 1:
        kind, took, at = "reload", board.loading_time, board.ready_at
    newest = board.newest() if board else []
    return Restart(
        kind,
        ago=time.monotonic() - at,
        took=took,
        longest_wait=max((slot[Field.WAITED] for slot in newest), default=0) / 1e9 if newest else None,
        carried=sum(slot[Field.CARRIED_IN] for slot in newest) if newest else None,
    )
