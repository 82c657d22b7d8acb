"""Which workers are stuck."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flask_socketact.master.watchdog import Watchdog
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Field
from tests.unit.master.conftest import Master

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


def test_systemd_is_told_of_progress_in_each_interval(master: Master, messages: Callable[[], list[str]]) -> None:
    now = [NOW]
    watchdog = Watchdog(60.0, lambda: now[0])
    messages()
    for worker in master.WORKERS.values():
        worker.tmp.last_update = lambda: now[0]
    for now[0] in (NOW, NOW + 14.0, NOW + 15.0):
        watchdog.look(master)
    assert messages() == ["WATCHDOG=1"] * 2


def test_a_stuck_worker_is_replaced_while_another_makes_progress(
    master: Master, messages: Callable[[], list[str]]
) -> None:
    first, second = master.WORKERS
    third = master.spawn_worker()
    master.accept()
    messages()
    master.WORKERS[first].tmp.last_update = lambda: NOW - 40.0
    for pid in (second, third):
        master.WORKERS[pid].tmp.last_update = lambda: NOW
    master.WORKERS[second].slot[Field.PROGRESS] = int((NOW - 40.0) * 1e9)
    now = [NOW]
    watchdog = Watchdog(60.0, lambda: now[0])
    watchdog.look(master)
    assert master.sent == [(first, signal.SIGABRT), (second, signal.SIGTERM)]
    assert messages() == ["WATCHDOG=1"]
    now[0] += watchdog.interval
    master.WORKERS[third].tmp.last_update = lambda: now[0]
    master.WORKERS[second].tmp.last_update = lambda: now[0]
    watchdog.look(master)
    assert master.sent[2:] == [(first, signal.SIGKILL)]  # it has not heard; the other one drains


def test_systemd_is_not_told_while_all_workers_are_stuck(
    master: Master, messages: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """It restarts the service, then."""
    now = [NOW]
    watchdog = Watchdog(60.0, lambda: now[0])
    messages()
    for worker in master.WORKERS.values():
        worker.tmp.last_update = lambda: NOW - 40.0
    for now[0] in (NOW, NOW + 15.0):
        watchdog.look(master)
    assert (messages(), master.sent) == ([], [])
    assert len([record for record in caplog.records if record.levelname == "CRITICAL"]) == 1
