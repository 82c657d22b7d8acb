"""What the master does with workers of earlier generations: real processes, in control groups of a folder."""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flask_socketact.handover import old_generations
from flask_socketact.handover.old_generations import OldGenerations, RelayedWorker
from flask_socketact.shared import scoreboard
from flask_socketact.shared.slot import Field
from tests.support.control_groups import SERVICE, SLICE, ControlGroups

LOG: Any = logging.getLogger(__name__)
MASTER = 2**22 + 1  # of the old workers; no pid is so great
SCOPE = f"{SLICE}/app-drain-{MASTER}-5.scope"
DRAIN_TIME = 30.0
#: When what still runs is ended, in seconds since it was told to drain.
END = DRAIN_TIME + old_generations.GRACE
HEARD = (signal.SIGURG, signal.SIGTERM, signal.SIGUSR1)


class Process:
    """A process that tells which signals it has got."""

    def __init__(self, *, catches: tuple[signal.Signals, ...] = HEARD) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.set_blocking(write, False)
            signal.set_wakeup_fd(write)  # at once: a handler in Python may have to wait for the next signal
            for number in catches:
                signal.signal(number, lambda *_: None)
            os.write(write, b"\0")
            while True:
                signal.pause()
        os.close(write)
        assert os.read(self._read, 1) == b"\0"
        self._status: int | None = None

    def signals(self, expected: int = 0) -> list[signal.Signals]:
        """Wait for as many signals as are `expected`, and return all that have come since the last call."""
        found = b""
        while select.select([self._read], [], [], 10.0 if len(found) < expected else 0.05)[0]:
            found += os.read(self._read, 100)
        return [signal.Signals(number) for number in found]

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def close(self) -> None:
        os.close(self._read)
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlGroups:
    return ControlGroups(tmp_path, monkeypatch)


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


@pytest.fixture
def other() -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def exited() -> list[RelayedWorker]:
    return []


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """The folder of the scoreboards."""
    return tmp_path / "boards"


@pytest.fixture
def old(groups: ControlGroups, boards: Path, now: list[float], exited: list[RelayedWorker]) -> OldGenerations:  # noqa: ARG001
    return OldGenerations(SERVICE, boards, LOG, on_exit=exited.append, clock=lambda: now[0])


@pytest.fixture
def without_boards(groups: ControlGroups, now: list[float], exited: list[RelayedWorker]) -> OldGenerations:  # noqa: ARG001
    return OldGenerations(SERVICE, None, LOG, on_exit=exited.append, clock=lambda: now[0])


def make_board(boards: Path, *pids: int, drain_time: float = 1.0) -> scoreboard.Scoreboard:
    """Make the scoreboard of the old master; its workers have ages from 11 on."""
    board = scoreboard.create(boards, MASTER)
    board.drain_time = drain_time
    for age, pid in enumerate(pids, 11):
        slot = board.take(1, 4)
        slot[Field.PID], slot[Field.AGE] = pid, age
    return board


def test_outside_systemd_there_are_none(now: list[float]) -> None:
    old = OldGenerations(None, None, LOG, on_exit=lambda _: None, clock=lambda: now[0])
    old.look()
    old.retire(DRAIN_TIME)
    old.supersede()
    assert old.workers() == []


def test_workers_are_those_in_the_scopes_of_the_service(old: OldGenerations, groups: ControlGroups) -> None:
    groups.fill(SCOPE, [7])
    groups.fill(f"{SLICE}/app-drain-2.scope", [8])
    groups.fill(f"{SLICE}/other-drain-3-4.scope", [9])
    assert sorted(old.workers()) == [7, 8]


def test_workers_of_this_master_are_not_old(old: OldGenerations, groups: ControlGroups) -> None:
    """The relay moves them before this master exits."""
    pid = os.getpid()
    start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    groups.fill(f"{SLICE}/app-drain-{pid}-{start}.scope", [7])
    groups.fill(f"{SLICE}/app-drain-{pid}.scope", [8])
    groups.fill(f"{SLICE}/app-drain-{pid}-{int(start) - 1}.scope", [9])  # of a master that had our pid
    assert old.workers() == [9]


def test_each_worker_that_exits_is_reported_once(
    old: OldGenerations, groups: ControlGroups, boards: Path, exited: list[RelayedWorker]
) -> None:
    make_board(boards, 7, 8)
    groups.fill(SCOPE, [7, 8, 9])  # 9: a child process of a request
    old.look()
    assert exited == []
    groups.fill(SCOPE, [8, 9])
    old.look()
    old.look()
    assert exited == [RelayedWorker(7, age=11)]
    groups.fill(SCOPE, [8])
    old.look()
    assert exited == [RelayedWorker(7, age=11)]
    groups.remove(SCOPE)
    old.look()
    assert exited == [RelayedWorker(7, age=11), RelayedWorker(8, age=12)]


def test_without_a_scoreboard_workers_are_told_by_their_parents(
    without_boards: OldGenerations, groups: ControlGroups, exited: list[RelayedWorker]
) -> None:
    groups.fill(SCOPE, [7, 8])
    groups.add_process(8, SCOPE, parent=7)
    without_boards.look()
    groups.remove(SCOPE)
    without_boards.look()
    assert exited == [RelayedWorker(7, age=0)]


def test_workers_are_told_to_drain_once(
    old: OldGenerations, groups: ControlGroups, boards: Path, process: Process
) -> None:
    """It is noted, too, as an application can send SIGURG to its own process."""
    board = make_board(boards, process.pid)
    groups.fill(SCOPE, [process.pid])
    old.look()
    assert not board.is_retired
    old.retire(DRAIN_TIME)
    assert process.signals(1) == [signal.SIGURG]
    assert board.is_retired
    old.retire(DRAIN_TIME)
    assert process.signals() == []


@pytest.mark.parametrize("content", [None, b"something else"], ids=["no scoreboard", "of another version"])
def test_workers_of_another_scoreboard_get_sigterm(
    old: OldGenerations, groups: ControlGroups, boards: Path, process: Process, other: Process, content: bytes | None
) -> None:
    """They ignore SIGURG, as it cannot be noted. A child process of a request gets no signal: SIGTERM may end it."""
    if content is not None:
        boards.mkdir()
        (boards / f"board-{MASTER}").write_bytes(content)
    groups.fill(SCOPE, [process.pid, other.pid])
    groups.add_process(other.pid, SCOPE, parent=process.pid)
    old.look()
    for _ in range(2):
        old.retire(DRAIN_TIME)
    assert process.signals(1) == [signal.SIGTERM]
    assert process.signals() == other.signals() == []


def test_a_worker_that_the_last_look_has_not_seen_is_told_later(
    old: OldGenerations, groups: ControlGroups, boards: Path, process: Process
) -> None:
    make_board(boards, process.pid)
    groups.fill(SCOPE, [process.pid])
    old.retire(DRAIN_TIME)
    assert process.signals() == []
    old.look()
    old.retire(DRAIN_TIME)
    assert process.signals(1) == [signal.SIGURG]


def test_a_worker_that_does_not_begin_to_drain_gets_sigterm_once(
    old: OldGenerations,
    groups: ControlGroups,
    boards: Path,
    now: list[float],
    process: Process,
    other: Process,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The application may have taken SIGURG."""
    board = make_board(boards, process.pid, other.pid)
    groups.fill(SCOPE, [process.pid, other.pid])
    old.look()
    old.retire(DRAIN_TIME)
    assert process.signals(1) == other.signals(1) == [signal.SIGURG]
    next(board.taken()).begin_drain()
    now[0] += old_generations.REMINDER_AFTER
    old.retire(DRAIN_TIME)
    assert process.signals() == other.signals() == []
    for _ in range(2):
        now[0] += 0.1
        old.retire(DRAIN_TIME)
    assert process.signals() == []
    assert other.signals(1) == [signal.SIGTERM]
    (record,) = caplog.records
    assert str(other.pid) in record.getMessage()
    assert str(process.pid) not in record.getMessage()


def test_what_has_not_exited_after_the_drain_time_is_ended(
    old: OldGenerations,
    groups: ControlGroups,
    boards: Path,
    now: list[float],
    process: Process,
    caplog: pytest.LogCaptureFixture,
) -> None:
    next(make_board(boards, process.pid, drain_time=DRAIN_TIME).taken()).begin_drain()
    groups.fill(SCOPE, [process.pid])
    old.look()
    old.retire(DRAIN_TIME)
    assert process.signals(1) == [signal.SIGURG]
    now[0] = 100.0 + END
    old.retire(DRAIN_TIME)
    assert (process.signals(), caplog.records) == ([], [])
    for _ in range(2):
        now[0] += 0.1
        old.retire(DRAIN_TIME)
    assert process.signals(1) == [signal.SIGTERM]
    now[0] = 100.1 + END + old_generations.LAST_GRACE
    old.retire(DRAIN_TIME)
    assert process.wait() == -signal.SIGKILL
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["SIGTERM", "SIGKILL"]


@pytest.mark.parametrize("difference", [5, -0.5], ids=["longer", "shorter"])
def test_an_old_generation_keeps_its_own_drain_time(
    old: OldGenerations, groups: ControlGroups, boards: Path, now: list[float], process: Process, difference: float
) -> None:
    """The new settings may have another."""
    next(make_board(boards, process.pid, drain_time=DRAIN_TIME + difference).taken()).begin_drain()
    groups.fill(SCOPE, [process.pid])
    old.look()
    old.retire(DRAIN_TIME)
    assert process.signals(1) == [signal.SIGURG]
    now[0] = 99.9 + END + difference
    old.retire(DRAIN_TIME)
    assert process.signals() == []
    now[0] = 100.1 + END + difference
    old.retire(DRAIN_TIME)
    assert process.signals(1) == [signal.SIGTERM]


def test_another_process_that_has_got_the_pid_gets_no_signal(
    old: OldGenerations, groups: ControlGroups, process: Process
) -> None:
    groups.fill(SCOPE, [process.pid])
    groups.add_process(process.pid, f"{SLICE}/database.service")
    old.look()
    old.retire(DRAIN_TIME)
    assert process.signals() == []


def test_a_process_that_has_just_exited_does_not_stop_the_signals(
    old: OldGenerations, groups: ControlGroups, boards: Path, process: Process
) -> None:
    make_board(boards, process.pid)
    groups.fill(SCOPE, [MASTER, process.pid])
    old.look()
    old.retire(DRAIN_TIME)
    assert process.signals(1) == [signal.SIGURG]


def test_old_workers_are_superseded_by_this_master(old: OldGenerations, groups: ControlGroups, boards: Path) -> None:
    board = make_board(boards, 7)
    groups.fill(SCOPE, [7])
    assert not board.is_superseded
    old.supersede()
    assert board.is_superseded


def test_a_board_that_cannot_be_written_hinders_nothing(
    old: OldGenerations, without_boards: OldGenerations, groups: ControlGroups, boards: Path
) -> None:
    boards.mkdir()
    (boards / f"board-{MASTER}").write_bytes(b"something else")
    groups.fill(SCOPE, [7])
    old.supersede()
    without_boards.supersede()
    assert (boards / f"board-{MASTER}").read_bytes() == b"something else"


def test_log_files_are_reopened_by_processes_that_have_a_handler(
    old: OldGenerations, groups: ControlGroups, process: Process
) -> None:
    """SIGUSR1 would end a child process of a request."""
    child = Process(catches=(signal.SIGURG,))
    try:
        groups.fill(SCOPE, [process.pid, child.pid, MASTER])
        old.reopen_files()
        assert process.signals(1) == [signal.SIGUSR1]
        assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
    finally:
        with suppress(ProcessLookupError):
            child.close()
