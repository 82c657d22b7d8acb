"""Counters that several processes share."""

from __future__ import annotations

import os
import time

import pytest

from flask_socketact.scoreboard import SLOTS, Field, Scoreboard


def test_what_a_child_writes_is_read_by_its_parent() -> None:
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


def test_slots_of_the_dead_are_used_again_and_emptied() -> None:
    board = Scoreboard()
    first, second = board.take(1, 1), board.take(1, 1)
    first[Field.OPEN] = second[Field.OPEN] = 5
    board.keep([second])
    assert list(board.taken()) == [second]
    again = board.take(2, 1)
    assert again is first
    assert again[Field.OPEN] == 0
    assert second[Field.OPEN] == 5


def test_more_workers_than_slots() -> None:
    board = Scoreboard()
    for _ in range(SLOTS):
        board.take(1, 1)
    with pytest.raises(RuntimeError, match=f"more than {SLOTS} worker processes"):
        board.take(1, 1)


def test_age_of_the_oldest_request() -> None:
    slot = Scoreboard().take(1, 1)
    assert slot.oldest_age == 0.0
    slot[Field.OLDEST] = time.monotonic_ns() - 3_000_000_000
    assert 3.0 <= slot.oldest_age < 60.0
