"""Which workers are stuck."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flask_socketact.master.watchdog import Watchdog
from flask_socketact.shared.scoreboard import Field, Scoreboard

NOW = 1000.0


def worker(*, silent_for: float = 0.0, blocked_for: float = 0.0) -> Any:
    slot = Scoreboard().take(1, 4)
    if blocked_for:
        slot[Field.PROGRESS] = int((NOW - blocked_for) * 1e9)
    return SimpleNamespace(tmp=SimpleNamespace(last_update=lambda: NOW - silent_for), slot=slot)


@pytest.fixture
def watchdog() -> Watchdog:
    return Watchdog(60.0, lambda: NOW)


def test_the_limits_follow_from_watchdog_sec(watchdog: Watchdog) -> None:
    """systemd acts within 1.5 times ``WatchdogSec=``; a worker has a heartbeat each second."""
    assert (watchdog.interval, watchdog.limit) == (15.0, 30.0)
    assert Watchdog(1.0).limit == 2.0


@pytest.mark.parametrize(
    ("seconds", "is_stuck"),
    [(0.0, False), (29.0, False), (31.0, True)],
)
def test_a_worker_is_stuck_after_half_of_watchdog_sec(watchdog: Watchdog, seconds: float, is_stuck: bool) -> None:
    assert watchdog.is_silent(worker(silent_for=seconds)) is is_stuck
    assert watchdog.is_blocked(worker(blocked_for=seconds)) is is_stuck


def test_one_worker_that_moves_is_progress(watchdog: Watchdog) -> None:
    stuck = [worker(silent_for=40.0), worker(blocked_for=40.0)]
    assert not watchdog.has_progress(stuck)
    assert watchdog.has_progress([*stuck, worker()])


def test_a_service_without_workers_is_not_stuck(watchdog: Watchdog) -> None:
    """New ones are about to be forked."""
    assert watchdog.has_progress([])


def test_a_worker_that_has_just_exited_is_not_silent(watchdog: Watchdog) -> None:
    def gone() -> float:
        raise ValueError("I/O operation on closed file")

    each = worker()
    each.tmp.last_update = gone
    assert not watchdog.is_silent(each)
