"""What ``status`` knows of workers and the last restart: real processes and scoreboards, properties as of systemctl."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_socketact.cli.status import snapshot
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Field
from flask_socketact.systemd.unit import Unit
from tests.support.child import child
from tests.support.control_groups import NO_PROCESS, SERVICE, SLICE, ControlGroups

MASTER = 4711
SCOPE = f"{SLICE}/app-drain-12-345.scope"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlGroups:
    return ControlGroups(tmp_path, monkeypatch)


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """Three processes."""
    with child(lambda: None) as first, child(lambda: None) as second, child(lambda: None) as third:
        yield [first, second, third]


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    board = scoreboard.create(tmp_path / "run", MASTER)
    board.drain_time = 30.0
    return board


def workers(board: Scoreboard, group: str = SERVICE, *, relayed: bool = False) -> list[snapshot.Worker]:
    return list(snapshot._workers(board, MASTER, group, relayed=relayed))


def unit(**properties: float | str) -> Unit:
    """Return an active service; times are in seconds."""
    values = {
        name: str(int(value * 1e6)) if isinstance(value, float) else str(value) for name, value in properties.items()
    }
    return Unit("app.service", {name: (value,) for name, value in ({"ActiveState": "active"} | values).items()})


def test_the_state_of_a_worker_follows_its_slot(board: Scoreboard, groups: ControlGroups, pids: list[int]) -> None:
    groups.fill(SERVICE, pids)
    for pid in pids:
        board.take(1, 4)[Field.PID] = pid
    _, serving, draining = board.taken()
    serving[Field.ACCEPTING] = draining[Field.ACCEPTING] = 1
    draining.begin_drain()
    assert [worker.state for worker in workers(board)] == ["loading", "serving", "draining"]
    assert [worker.draining_for > 0 for worker in workers(board)] == [False, False, True]
    assert workers(board)[0].drain_time == 30.0


def test_a_worker_in_a_scope_is_relayed_until_it_drains(
    board: Scoreboard, groups: ControlGroups, pids: list[int]
) -> None:
    groups.fill(SCOPE, pids)
    slot = board.take(1, 4)
    slot[Field.PID] = pids[0]
    assert [worker.state for worker in workers(board, SCOPE, relayed=True)] == ["relayed"]
    slot.begin_drain()
    assert [worker.state for worker in workers(board, SCOPE, relayed=True)] == ["draining"]


def test_only_workers_of_the_control_group_are_shown(board: Scoreboard, groups: ControlGroups, pids: list[int]) -> None:
    groups.fill(SERVICE, pids[:1])
    groups.fill(SCOPE, pids[1:])
    for pid in (*pids, NO_PROCESS):
        board.take(1, 4)[Field.PID] = pid
    assert [worker.pid for worker in workers(board)] == pids[:1]
    assert list(snapshot._workers(None, MASTER, SERVICE, relayed=False)) == []


def test_the_age_of_the_oldest_request_counts_while_one_is_in_flight(
    board: Scoreboard, groups: ControlGroups, pids: list[int]
) -> None:
    """The worker updates it once a second."""
    groups.fill(SERVICE, pids)
    slot = board.take(1, 4)
    slot[Field.PID] = pids[0]
    slot[Field.OLDEST] = time.monotonic_ns() - 3_000_000_000
    assert workers(board)[0].oldest == 0.0
    slot[Field.IN_FLIGHT] = 1
    assert workers(board)[0].oldest >= 3.0


def test_old_workers_come_from_the_boards_of_their_masters(
    tmp_path: Path, groups: ControlGroups, pids: list[int]
) -> None:
    scoreboard.create(tmp_path / "run", 12).take(1, 4)[Field.PID] = pids[0]
    groups.fill(SCOPE, pids[:1])
    groups.fill(f"{SLICE}/app-drain-13-346.scope", pids[1:2])  # without a board
    service = unit(ControlGroup=SERVICE)
    assert [(worker.pid, worker.master) for worker in snapshot._old([tmp_path / "run"], service)] == [(pids[0], 12)]


def test_requests_per_second_need_an_earlier_look(board: Scoreboard, groups: ControlGroups, pids: list[int]) -> None:
    groups.fill(SERVICE, pids)
    slot = board.take(1, 4)
    slot[Field.PID], slot[Field.REQUESTS] = pids[0], 30
    (worker,) = workers(board)
    assert snapshot._with_rate(worker, None, 0.0).rate is None
    assert snapshot._with_rate(worker, 10, 0.0).rate is None
    assert snapshot._with_rate(worker, 10, 4.0).rate == 5.0


def test_without_a_main_process_there_is_no_board(tmp_path: Path) -> None:
    assert snapshot._board([tmp_path], 0) == (None, "")
    board, remark = snapshot._board([tmp_path], MASTER)
    assert board is None
    assert "scoreboard" in remark


@pytest.mark.parametrize(
    ("times", "kind", "took"),
    [
        ({"InactiveExit": 100.0, "ActiveEnter": 103.0}, "start", 3.0),
        ({"ActiveExit": 98.0, "InactiveEnter": 99.9, "InactiveExit": 100.0, "ActiveEnter": 103.0}, "restart", 5.0),
        ({"ActiveExit": 50.0, "InactiveEnter": 60.0, "InactiveExit": 100.0, "ActiveEnter": 103.0}, "start", 3.0),
    ],
    ids=["first start", "restart", "stop, and a start later"],
)
def test_a_restart_is_told_from_a_start(times: dict[str, float], kind: str, took: float) -> None:
    service = unit(**{f"{name}TimestampMonotonic": value for name, value in times.items()})
    found = snapshot._restart(service, None)
    assert found is not None
    assert (found.kind, round(found.took, 3)) == (kind, took)
    assert found.ago == pytest.approx(time.monotonic() - 103.0, abs=5)
    assert (found.longest_wait, found.carried) == (None, None)


def test_a_later_generation_is_a_reload(board: Scoreboard) -> None:
    times = unit(InactiveExitTimestampMonotonic=1.0, ActiveEnterTimestampMonotonic=2.0)
    for generation in (1, 2):
        board.note_ready(generation, time.monotonic() - 1.5)
    for waited, carried in ((2_000_000, 3), (4_000_000, 4)):
        slot = board.take(2, 4)
        slot[Field.PID], slot[Field.WAITED], slot[Field.CARRIED_IN] = os.getpid(), waited, carried
    old = board.take(1, 4)
    old[Field.PID], old[Field.WAITED], old[Field.CARRIED_IN] = os.getpid(), 9_000_000, 9
    found = snapshot._restart(times, board)
    assert found is not None
    assert (found.kind, round(found.took, 1)) == ("reload", 1.5)
    assert (found.longest_wait, found.carried) == (0.004, 7)


@pytest.mark.parametrize("properties", [{"ActiveState": "failed", "ActiveEnterTimestampMonotonic": 5.0}, {}])
def test_a_service_that_is_not_active_or_never_was_has_no_restart(properties: dict[str, float | str]) -> None:
    assert snapshot._restart(unit(**properties), None) is None


def test_the_queue_of_a_listener_is_counted(tmp_path: Path) -> None:
    path = str(tmp_path / "http")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen(5)
        client.connect(path)
        properties = {
            "Listen": (f"{path} (Stream)", f"{tmp_path}/mailbox (SequentialPacket)"),
            "FileDescriptorName": ("http",),
            "Backlog": ("4294967295",),
            "ActiveState": ("active",),
        }
        (found,) = snapshot._listeners([Unit("app.socket", properties)])
    assert (found.name, found.address, found.queue, found.is_listening) == ("http", path, 1, True)
    assert found.backlog == int(Path("/proc/sys/net/core/somaxconn").read_text())
