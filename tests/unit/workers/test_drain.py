"""The drain of a worker. It ends the process, so each test that begins one runs in a process of its own."""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from flask_socketact.bridge import holds, server_info
from flask_socketact.shared.slot import Field
from flask_socketact.workers import drain
from flask_socketact.workers.thread import ThreadWorker
from tests.support.child import in_child
from tests.unit.workers.conftest import DRAIN_TIME


class Application:
    """Records its callbacks."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        server_info.register(self)

    def has_receivers(self, signal: str) -> bool:
        return signal == server_info.DRAIN_BEGUN

    def send(self, signal: str) -> None:
        self.heard.append(signal)

    def drained(self, *, cut_short: bool) -> None:
        self.heard.append(cut_short)

    def loaded(self) -> None: ...

    def beat(self) -> None: ...


@pytest.fixture
def at_once(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a drain time of 0, and a short grace until the process ends."""
    cfg.set("graceful_timeout", 0)
    monkeypatch.setattr(drain, "OVERDUE_GRACE", 0.1)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hang() -> None:
    """Block for longer than the test."""
    time.sleep(20)
    raise AssertionError("the process has not exited")


def test_a_worker_that_does_not_drain_has_no_deadline(worker: ThreadWorker) -> None:
    assert worker.drain.deadline == math.inf


def test_the_drain_time_begins_once(worker: ThreadWorker) -> None:
    def run() -> None:
        worker.drain.begin()
        deadline = worker.drain.deadline
        assert deadline == pytest.approx(time.monotonic() + DRAIN_TIME, abs=5)
        time.sleep(0.01)
        worker.drain.begin()
        worker.drain.announce()
        assert worker.drain.deadline == deadline

    assert in_child(run) == 0


def test_applications_hear_of_the_drain_once(worker: ThreadWorker) -> None:
    def run() -> None:
        application = Application()
        worker.drain.announce()
        worker.drain.announce()
        wait_until(lambda: application.heard)
        worker.drain.finish()
        assert application.heard == [server_info.DRAIN_BEGUN, False]

    assert in_child(run) == 0


def test_a_drain_waits_for_holds(worker: ThreadWorker) -> None:
    def run() -> None:
        application = Application()
        hold = holds.take("send mail")
        threading.Timer(0.2, holds.release, [hold]).start()
        began = time.monotonic()
        worker.drain.finish()
        assert 0.2 <= time.monotonic() - began < DRAIN_TIME
        assert application.heard[-1] is False

    assert in_child(run) == 0


@pytest.mark.usefixtures("at_once")
def test_a_hold_is_cut_short_when_the_drain_time_is_over(log_file: Path, worker: ThreadWorker) -> None:
    def run() -> None:
        application = Application()
        holds.take("send mail")
        worker.drain.finish()
        assert application.heard[-1] is True

    assert in_child(run) == 0
    assert "send mail (0." in log_file.read_text()


def test_a_request_in_flight_is_cut_short(log_file: Path, worker: ThreadWorker) -> None:
    def run() -> None:
        application = Application()
        worker.slot[Field.IN_FLIGHT] = worker.slot[Field.OPEN] = 2
        worker.drain.finish()
        assert application.heard[-1] is True

    assert in_child(run) == 0
    text = log_file.read_text()
    assert "2 requests" in text
    assert "Drained" not in text


def test_the_log_tells_what_was_carried_and_that_nothing_is_left(log_file: Path, worker: ThreadWorker) -> None:
    def run() -> None:
        worker.slot[Field.CARRIED_OUT] = 7
        worker.drain.finish()

    assert in_child(run) == 0
    text = log_file.read_text()
    assert " 7 " in text
    assert "Drained" in text


@pytest.mark.usefixtures("at_once")
def test_a_worker_that_is_kept_exits_by_itself(log_file: Path, worker: ThreadWorker) -> None:
    """By a view in the main thread, or a signal handler that does not return."""

    def run() -> None:
        worker.slot[Field.IN_FLIGHT] = 1
        worker.drain.begin()
        hang()

    assert in_child(run) == 0
    assert "1 requests" in log_file.read_text()


@pytest.mark.usefixtures("at_once")
def test_a_thread_of_the_application_does_not_keep_a_worker_that_has_drained(
    log_file: Path, worker: ThreadWorker
) -> None:
    """Exit functions are called nevertheless: the interpreter would call them after the thread."""

    def run() -> None:
        atexit._clear()
        atexit.register(worker.log.info, "exit function")
        threading.Thread(target=hang, name="poller").start()
        worker.drain.finish()
        hang()

    assert in_child(run) == 0
    text = log_file.read_text()
    assert "poller" in text
    assert "exit function" in text


@pytest.mark.usefixtures("at_once")
def test_an_error_in_an_exit_function_does_not_keep_the_worker(worker: ThreadWorker) -> None:
    def fail() -> Any:
        raise ValueError("no")

    def run() -> None:
        atexit._clear()
        atexit.register(fail)
        worker.drain.finish()
        hang()

    assert in_child(run) == 0
