"""Counters that several processes share."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import SLOTS, Scoreboard
from flask_socketact.shared.slot import Field, private_slot


def test_a_parent_reads_what_its_child_writes() -> None:
    board = Scoreboard()
    slot = board.take(generation=7, threads=4)
    pid = os.fork()
    if pid == 0:
        slot[Field.REQUESTS] += 41
        slot[Field.REQUESTS] += 1
        os._exit(0)
    os.waitpid(pid, 0)
    assert (slot[Field.REQUESTS], slot[Field.GENERATION], slot[Field.THREADS]) == (42, 7, 4)
    assert not board.stopping
    board.stopping = True
    assert board.stopping


def test_the_slot_of_an_exited_worker_is_emptied_and_reused() -> None:
    board = Scoreboard()
    first, second = board.take(1, 1), board.take(1, 1)
    first[Field.OPEN] = second[Field.OPEN] = 5
    board.keep([second])
    assert list(board.taken()) == [second]
    again = board.take(2, 1)
    assert again is first
    assert again[Field.OPEN] == 0
    assert second[Field.OPEN] == 5


def test_more_workers_than_slots_is_an_error() -> None:
    board = Scoreboard()
    for _ in range(SLOTS):
        board.take(1, 1)
    with pytest.raises(RuntimeError, match=f"more than {SLOTS} worker processes"):
        board.take(1, 1)


def test_the_age_of_the_oldest_request() -> None:
    slot = Scoreboard().take(1, 1)
    assert slot.oldest_age == 0.0
    slot[Field.OLDEST] = time.monotonic_ns() - 3_000_000_000
    assert 3.0 <= slot.oldest_age < 60.0


def test_another_process_reads_what_workers_write(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        board = scoreboard.create(tmp_path / "app-metrics", 4711)
    finally:
        os.umask(before)
    slot = board.take(1, 4)
    slot[Field.REQUESTS] = 42
    board.drain_time = 30.0
    board.note_ready(1, time.monotonic() - 1.5)
    seen = scoreboard.read(tmp_path / "app-metrics", 4711)
    assert seen is not None
    assert [each[Field.REQUESTS] for each in seen.taken()] == [42]
    assert (seen.ready, seen.drain_time, round(seen.loading_time, 1)) == (1, 30.0, 1.5)
    assert 0 <= time.monotonic() - seen.ready_at < 5
    with pytest.raises(TypeError):
        next(seen.taken())[Field.REQUESTS] = 0
    assert (tmp_path / "app-metrics/board-4711").stat().st_mode & 0o777 == 0o644


def test_requests_of_monitors_are_not_among_the_counts() -> None:
    """Also after their worker has exited."""
    board = Scoreboard()
    slot = board.take(1, 4)
    board.note_ready(1, time.monotonic())
    for field, value in {"REQUESTS": 10, "ERRORS": 4, "MONITORED": 5, "MONITORED_ERRORS": 3}.items():
        slot[Field[field]] = value
    assert board.counts() == (5, 1)
    board.free(slot)
    assert board.counts() == (5, 1)


def test_boards_whose_workers_have_exited_are_removed(tmp_path: Path) -> None:
    scoreboard.create(tmp_path, 1).take(1, 1)[Field.PID] = os.getpid()
    scoreboard.create(tmp_path, 2).take(1, 1)[Field.PID] = 2**22 + 1  # no pid is so great
    (tmp_path / "board-3").write_bytes(b"something else")
    (tmp_path / "board-4").touch()
    (tmp_path / "counter_0.db").touch()
    scoreboard.create(tmp_path, 5)
    assert {path.name for path in tmp_path.iterdir()} == {"board-1", "board-5", "counter_0.db"}


def test_the_board_of_an_old_master_with_our_pid_is_not_overwritten(tmp_path: Path) -> None:
    """Its workers still drain, and write to it."""
    before = scoreboard.create(tmp_path, 1)
    slot = before.take(1, 1)
    slot[Field.PID], slot[Field.REQUESTS] = os.getpid(), 42
    ours = scoreboard.create(tmp_path, 1)
    assert list(ours.taken()) == []
    slot[Field.REQUESTS] += 1
    assert [each[Field.REQUESTS] for each in before.taken()] == [43]
    assert list(ours.taken()) == []


def test_a_file_of_another_version_is_not_read(tmp_path: Path) -> None:
    assert scoreboard.read(tmp_path, 1) is None
    for content in (b"", b"something else", bytes(262_400)):
        (tmp_path / "board-1").write_bytes(content)
        assert scoreboard.read(tmp_path, 1) is None


def test_links_and_special_files_are_not_read(tmp_path: Path) -> None:
    """Root may read the folder of a hostile service."""
    scoreboard.create(tmp_path, 1)
    (tmp_path / "board-2").symlink_to("board-1")
    os.mkfifo(tmp_path / "board-3")
    (tmp_path / "board-4").mkdir()
    assert [scoreboard.read(tmp_path, number) for number in (2, 3, 4)] == [None] * 3


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            scoreboard.create(tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_drain_begins_once() -> None:
    slot = Scoreboard().take(1, 1)
    slot[Field.ACCEPTING] = 1
    slot.begin_drain()
    began = slot[Field.DRAINING]
    slot.begin_drain()
    assert (slot[Field.DRAINING], slot[Field.ACCEPTING]) == (began, 0)
    assert 0 <= time.monotonic_ns() - began < 5e9


def test_workers_are_superseded_as_long_as_the_next_master_runs(tmp_path: Path) -> None:
    """If it dies at once, they accept new connections again."""
    board = scoreboard.create(tmp_path, 1)
    assert not board.is_superseded
    scoreboard.supersede(tmp_path, 1, os.getpid())
    assert board.is_superseded
    scoreboard.supersede(tmp_path, 1, 2**22 + 1)  # no pid is so great
    assert not board.is_superseded


def test_the_next_master_notes_that_workers_are_to_drain(tmp_path: Path) -> None:
    board = scoreboard.create(tmp_path, 1)
    assert not board.is_retired
    scoreboard.retire(tmp_path, 1)
    assert board.is_retired
    assert not board.is_superseded


def test_what_is_no_board_is_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scoreboard.supersede(tmp_path, 1, os.getpid())
    (tmp_path / "board-1").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a scoreboard of this version"):
        scoreboard.supersede(tmp_path, 1, os.getpid())
    assert (tmp_path / "board-1").read_bytes() == b"something else"
    board = scoreboard.create(tmp_path, 2)
    (tmp_path / "board-3").symlink_to("board-2")
    with pytest.raises(OSError, match="symbolic links"):
        scoreboard.supersede(tmp_path, 3, os.getpid())
    assert not board.is_superseded


def test_a_board_is_found_in_the_first_folder_that_has_it(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("none", "one", "two")]
    assert scoreboard.find(folders, 1) is None
    for folder, drain_time in zip(folders[1:], (10.0, 20.0), strict=True):
        scoreboard.create(folder, 1).drain_time = drain_time
    found = scoreboard.find(folders, 1)
    assert found is not None
    assert found.drain_time == 10.0


def test_workers_that_run_are_told_from_those_that_have_exited() -> None:
    board = Scoreboard()
    living, dead, booting = (board.take(generation, 1) for generation in (1, 1, 2))
    living[Field.PID], dead[Field.PID] = os.getpid(), 2**22 + 1
    assert [slot.is_alive for slot in (living, dead, booting)] == [True, False, False]
    assert list(board.living()) == [living]
    assert list(board.taken()) == [living, dead, booting]


def test_the_newest_workers_are_those_of_the_generation_that_was_ready_last() -> None:
    board = Scoreboard()
    old, new = board.take(1, 1), board.take(2, 1)
    old[Field.PID] = new[Field.PID] = os.getpid()
    assert board.newest() == []
    board.note_ready(1, time.monotonic())
    assert board.newest() == [old]
    board.note_ready(2, time.monotonic())
    assert board.newest() == [new]


def test_a_generation_becomes_ready_once() -> None:
    board = Scoreboard()
    began = time.monotonic()
    board.note_ready(1, began - 2)
    ready_at = board.ready_at
    board.note_ready(1, began - 5)
    assert (board.ready_at, round(board.loading_time)) == (ready_at, 2)


def test_what_an_exited_worker_has_counted_is_kept_until_the_next_generation_is_ready() -> None:
    board = Scoreboard()
    draining, dead, living = board.take(1, 1), board.take(2, 1), board.take(2, 1)
    board.note_ready(2, time.monotonic())
    dead[Field.REQUESTS], dead[Field.ERRORS], dead[Field.IN_FLIGHT] = 10, 3, 2
    living[Field.REQUESTS] = draining[Field.ERRORS] = 5
    assert board.counts() == (15, 3)
    board.free(draining)
    board.free(dead)  # its slot is taken for the next worker
    assert board.take(2, 1).index == draining.index
    assert board.take(2, 1).index == dead.index
    assert board.counts() == (17, 5)  # the requests in flight have failed
    board.note_ready(3, time.monotonic())
    assert board.counts() == (0, 0)


def test_a_private_slot_is_no_other_process_s() -> None:
    """A process that the application forks counts there."""
    board, slot = Scoreboard(), private_slot()
    slot[Field.REQUESTS] += 1
    assert slot[Field.REQUESTS] == 1
    assert list(board.taken()) == []
