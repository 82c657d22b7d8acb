"""A worker that the relay may have moved, and what it knows of its master."""

from __future__ import annotations

import os

import pytest

from flask_socketact.workers import relayed
from flask_socketact.workers.relayed import Relayed
from flask_socketact.workers.thread import ThreadWorker
from tests.support.control_groups import SERVICE, SLICE, ControlGroups

SCOPE = f"{SLICE}/app-drain-1-2.scope"
OTHER_MASTER = 2**22 + 1  # no pid is so great


@pytest.fixture
def state(worker: ThreadWorker, groups: ControlGroups) -> Relayed:  # noqa: ARG001 (its /proc)
    worker.cgroup = SERVICE
    return worker.relayed


def move(groups: ControlGroups, group: str = SCOPE) -> None:
    groups.add_process(os.getpid(), group)


def test_a_worker_is_relayed_when_it_is_in_another_control_group(state: Relayed, groups: ControlGroups) -> None:
    assert not state.is_moved()
    move(groups)
    assert state.is_moved()


def test_a_relayed_worker_stays_one(state: Relayed, groups: ControlGroups) -> None:
    """It may have no free descriptor to look again."""
    move(groups)
    assert state.is_moved()
    move(groups, SERVICE)
    assert state.is_moved()


def test_a_worker_outside_systemd_is_never_relayed(worker: ThreadWorker, state: Relayed, groups: ControlGroups) -> None:
    worker.cgroup = None
    move(groups)
    assert not state.is_moved()


def test_a_worker_whose_master_runs_serves(worker: ThreadWorker, state: Relayed) -> None:
    assert state.check_master()
    assert worker.alive


def test_a_worker_that_was_relayed_serves_without_its_master(
    worker: ThreadWorker, state: Relayed, groups: ControlGroups, caplog: pytest.LogCaptureFixture
) -> None:
    worker.ppid = OTHER_MASTER
    move(groups)
    for _ in range(2):
        assert state.check_master()
    assert worker.alive
    assert worker.ppid == os.getppid()
    assert len([record for record in caplog.records if record.levelname == "INFO"]) == 1


def test_a_worker_whose_master_has_died_drains_after_a_while(
    worker: ThreadWorker, state: Relayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay may still move it."""
    worker.ppid = OTHER_MASTER
    assert state.check_master()
    assert worker.alive
    monkeypatch.setattr(relayed, "RELAY_TIMEOUT", -1.0)
    for _ in range(2):
        assert not state.check_master()
    assert not worker.alive


def test_a_worker_that_is_relayed_in_time_does_not_drain(
    worker: ThreadWorker, state: Relayed, groups: ControlGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.ppid = OTHER_MASTER
    assert state.check_master()
    move(groups)
    monkeypatch.setattr(relayed, "RELAY_TIMEOUT", -1.0)
    assert state.check_master()
    assert worker.alive
