"""The state of a service, read from systemd, the kernel, and the scoreboards of its masters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flask_socketact.cli import ports, unit_journal
from flask_socketact.cli.lb import agent, state
from flask_socketact.cli.lb.state import Share
from flask_socketact.errors import NotBegunError
from flask_socketact.handover import protocol
from flask_socketact.linux import proc, socket_queues
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Field, Slot
from flask_socketact.systemd import cgroup
from flask_socketact.systemd.manager import Manager, describe_masked, runtime_folders
from flask_socketact.systemd.unit import ACTIVE_STATES, Unit

_SERVICE = (
    "ActiveState",
    "InvocationID",
    "MainPID",
    "StatusText",
    "TriggeredBy",
    "ControlGroup",
    "RuntimeDirectory",
    "Environment",
    "Wants",
    "InactiveEnterTimestampMonotonic",
    "InactiveExitTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "ActiveExitTimestampMonotonic",
)
_SOCKET = ("LoadState", "Listen", "FileDescriptorName", "Backlog", "ActiveState")
#: Longest pause of a restart, in microseconds: after a longer one the service was stopped and started.
_MAX_RESTART_PAUSE = 1_000_000


@dataclass(frozen=True)
class Listener:
    """A listener, held by systemd."""

    name: str
    address: str
    queue: int | None  #: connections that no worker has accepted yet; None if unknown
    backlog: int  #: maximum of the queue
    is_listening: bool


@dataclass(frozen=True)
class Worker:
    """A worker, read from its row of the scoreboard. Times are in seconds."""

    pid: int
    master: int
    generation: int
    state: str  #: loading, serving, draining, or relayed (keeps serving in a scope)
    threads: int
    requests: int  #: since the worker started
    errors: int  #: requests with a 5xx response
    rate: float | None  #: requests per second; None in the first look
    in_flight: int
    connections: int
    idle: int
    websockets: int  #: of the requests in flight
    streams: int  #: of the requests in flight
    held: int  #: holds
    oldest: float  #: age of the oldest request in flight
    memory: int | None  #: resident memory in bytes
    draining_for: float  #: 0.0 if it does not drain
    drain_time: float  #: longest drain


@dataclass(frozen=True)
class Restart:
    """The last start, restart or reload. Times are in seconds."""

    kind: str  #: start, restart or reload
    ago: float  #: since it finished
    took: float  #: from the command until every new worker accepted
    longest_wait: float | None  #: longest wait of a connection's first request; None if unknown
    carried: int | None  #: idle connections handed over to new workers


@dataclass(frozen=True)
class Overview:
    """The state of a service at one moment."""

    service: str
    state: str  #: ``ActiveState=``
    status: str  #: ``STATUS=`` of the service
    main_pid: int
    listeners: tuple[Listener, ...]
    generation: int | None  #: number of reloads of this master, plus 1
    workers: tuple[Worker, ...]  #: including old workers in scopes
    restart: Restart | None
    overlaps: bool  #: whether old and new workers may run at the same time
    remark: str  #: why workers are unknown, and what to do
    failure: str  #: why the service is not active, from the journal; empty if it is active or the reason is unknown
    warnings: tuple[str, ...]  #: masked units, addresses that systemd lost, and a share that cannot be read
    share: Share | None = None  #: what HAProxy is told; None without an agent, or if it cannot be read

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES


def look(name: str, manager: Manager, before: Overview | None = None, seconds: float = 0.0) -> Overview:
    """Read the state of a service.

    :param before: an earlier overview, to compute requests per second
    :param seconds: how long ago that was
    :raises ManagerError: there is no such service, or the manager does not respond.
    """
    unit = manager.find(f"{name}.service", *_SERVICE)
    pid = int(unit["MainPID"] or 0)
    folders = runtime_folders(unit, manager)
    board, remark = _board(folders, pid)
    counted = {worker.pid: worker.requests for worker in before.workers} if before else {}
    sockets = _sockets(manager, unit)
    share, unreadable = _share(name, manager, unit)
    workers = [*_workers(board, pid, unit["ControlGroup"], relayed=False), *_old(folders, unit)]
    return Overview(
        service=unit.name,
        state=unit["ActiveState"],
        status=unit["StatusText"],
        main_pid=pid,
        listeners=tuple(_listeners(sockets)),
        generation=board.ready or None if board else None,
        workers=tuple(_with_rate(worker, counted.get(worker.pid), seconds) for worker in workers),
        restart=_restart(unit, board),
        overlaps=unit.overlaps,
        remark=remark,
        failure="" if unit.is_active else unit_journal.start_failure(unit, manager),
        warnings=(*_warnings(manager, unit, sockets), *unreadable),
        share=share,
    )


def _sockets(manager: Manager, unit: Unit) -> list[Unit]:
    """Return the socket units that start a service, and the masked one of its name."""
    names = [name for name in unit.names("TriggeredBy") if name.endswith(".socket")]
    own = manager.show(f"{unit.name.removesuffix('.service')}.socket", *_SOCKET)
    masked = [own] if own["LoadState"] == "masked" and own.name not in names else []
    return [*(manager.show(name, *_SOCKET) for name in names), *masked]


def _share(name: str, manager: Manager, unit: Unit) -> tuple[Share | None, list[str]]:
    """Return what HAProxy is told of a service with an agent, and why that is unknown."""
    if agent.unit_of(unit) is None:
        return None, []
    try:
        return state.read(name, user_manager=manager.user), []
    except NotBegunError as error:
        return None, [str(error)]


def _warnings(manager: Manager, unit: Unit, sockets: list[Unit]) -> Iterator[str]:
    for each in (unit, *sockets):
        if each["LoadState"] == "masked":
            yield describe_masked(each, user=manager.user)
    lost = ports.lost(sockets, unit, manager)
    for address in lost.addresses:
        yield ports.describe_lost([address], is_kept=address in lost.kept)


def _board(folders: list[Path], master: int) -> tuple[Scoreboard | None, str]:
    """Return the scoreboard of a master; or None and the reason."""
    if not master:
        return None, ""
    try:
        board = scoreboard.find(folders, master)
    except PermissionError as error:
        return None, f"{Path(error.filename).parent} is not readable: run status as root, or install the units again"
    missing = "the service has no scoreboard: install its units again (units --again), and restart it"
    return board, "" if board else missing


def _workers(board: Scoreboard | None, master: int, group: str, *, relayed: bool) -> Iterator[Worker]:
    """Yield the workers of a master that are in a control group."""
    if board is not None:
        for slot in board.living():
            if cgroup.of(slot[Field.PID]) == group:
                yield _worker(slot, master, board, relayed=relayed)


def _old(folders: list[Path], unit: Unit) -> Iterator[Worker]:
    """Yield the old workers in scopes whose scoreboards can be read."""
    for scope in protocol.scopes(unit.control_group):
        master = protocol.master_of(scope)
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
        websockets=slot[Field.WEBSOCKETS],
        streams=slot[Field.STREAMS],
        held=slot[Field.HOLDS],
        oldest=slot.oldest_age if slot[Field.IN_FLIGHT] else 0.0,  # updated once a second
        memory=proc.resident_memory(slot[Field.PID]),
        draining_for=(time.monotonic_ns() - draining) / 1e9 if draining else 0.0,
        drain_time=board.drain_time,
    )


def _with_rate(worker: Worker, before: int | None, seconds: float) -> Worker:
    return worker if before is None or not seconds else replace(worker, rate=(worker.requests - before) / seconds)


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
    """Return the last start, restart or reload of an active service."""
    stopped, begun, ended = (
        int(unit[f"{name}TimestampMonotonic"] or 0) for name in ("ActiveExit", "InactiveExit", "ActiveEnter")
    )
    away = begun - int(unit["InactiveEnterTimestampMonotonic"] or 0)
    if not ended or not unit.is_active:
        return None
    kind, took, at = "start", (ended - begun) / 1e6, ended / 1e6
    if 0 < stopped < ended and away < _MAX_RESTART_PAUSE:
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
