"""What a worker reports to its master: that it accepts, or why it never will."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flask_socketact.master.failures import Failure
from flask_socketact.master.worker_reports import WorkerReports
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Field


@pytest.fixture
def reports() -> Iterator[WorkerReports]:
    reports = WorkerReports()
    yield reports
    reports._read.close()
    reports._write.close()


def raising(error: BaseException) -> Callable[[], None]:
    def init_process() -> None:
        raise error

    return init_process


def worker(reports: WorkerReports, init_process: Callable[[], None] = lambda: None, **attributes: Any) -> Any:
    """Return a worker that is watched, outside systemd; `beats` has an entry for each of its heartbeats."""
    beats: list[None] = []
    worker = SimpleNamespace(
        notify=lambda: beats.append(None), init_process=init_process, beats=beats, alive=True, booted=True, cgroup=None
    )
    vars(worker).update(attributes)
    reports.watch(worker)
    return worker


def collect(reports: WorkerReports) -> Failure | None:
    """Let the master read, and return how this process has failed."""
    reports.collect({os.getpid()})
    return reports.failure(os.getpid())


def test_a_worker_accepts_from_its_first_heartbeat_on(reports: WorkerReports) -> None:
    each = worker(reports)
    each.init_process()
    assert collect(reports) is None
    assert reports.accepting == set()
    each.notify()
    assert collect(reports) is None
    assert reports.accepting == {os.getpid()}


def test_the_first_heartbeat_alone_is_reported(reports: WorkerReports) -> None:
    each = worker(reports)
    for _ in range(3):
        each.notify()
    assert len(each.beats) == 3
    collect(reports)
    with pytest.raises(BlockingIOError):
        reports._read.recv(1)


def test_reports_of_several_workers_are_kept_apart(reports: WorkerReports) -> None:
    children = []
    for number in range(12):  # more than a datagram socket takes
        pid = os.fork()
        if pid == 0:
            reports._report(Failure(f"text {number}", f"public {number}") if number % 2 else None)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    reports.collect(children)
    assert reports.accepting == set(children[::2])
    failures = [Failure(f"text {number}", f"public {number}") for number in range(1, 12, 2)]
    assert [reports.failure(pid) for pid in children[1::2]] == failures


def test_workers_that_have_exited_are_forgotten(reports: WorkerReports) -> None:
    worker(reports).notify()
    collect(reports)
    reports.collect(())
    assert reports.accepting == set()


def test_an_application_that_does_not_load_is_reported_once(reports: WorkerReports) -> None:
    each = worker(reports, raising(KeyError("secret")))
    with pytest.raises(KeyError):
        each.init_process()
    failure = collect(reports)
    assert failure is not None
    assert "secret" in failure.text
    assert failure.public.startswith(f"KeyError at {__file__}:")
    assert not each.booted
    assert reports.failure(os.getpid()) is None


def test_a_message_of_several_lines_stays_one_failure(reports: WorkerReports) -> None:
    with pytest.raises(ValueError, match="one"):
        worker(reports, raising(ValueError("one\ntwo\n\ud800"))).init_process()
    failure = collect(reports)
    assert failure is not None
    assert "one" in failure.text
    assert "\n" not in failure.text
    assert failure.public.startswith("ValueError at ")


def test_an_exit_before_the_first_heartbeat_is_a_failed_boot(reports: WorkerReports) -> None:
    """gunicorn would start the worker again and again."""
    each = worker(reports, raising(SystemExit(0)))
    with pytest.raises(RuntimeError, match="SystemExit"):
        each.init_process()
    assert not each.booted
    assert collect(reports) is not None


def test_a_worker_that_is_told_to_exit_while_it_loads_has_not_failed(reports: WorkerReports) -> None:
    each = worker(reports, raising(SystemExit(0)), alive=False)
    with pytest.raises(SystemExit):
        each.init_process()
    assert each.booted
    assert collect(reports) is None


def test_an_error_after_the_first_heartbeat_is_no_failed_boot(reports: WorkerReports) -> None:
    def init_process() -> None:
        each.notify()
        raise ValueError("in the loop")

    each = worker(reports, init_process)
    with pytest.raises(ValueError, match="in the loop"):
        each.init_process()
    assert each.booted
    assert collect(reports) is None


def test_an_exception_that_gunicorn_does_not_catch_becomes_one_that_it_does(reports: WorkerReports) -> None:
    """The worker would go on as a second master."""
    each = worker(reports, raising(KeyboardInterrupt()))
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        each.init_process()
    assert collect(reports) is not None


def test_a_lock_that_another_process_has_is_explained(reports: WorkerReports, tmp_path: Path) -> None:
    """Of a service whose control group has nothing to tell, the error itself is still reported."""
    path = tmp_path / "lock"

    def take_lock() -> None:
        with path.open("w") as first, path.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)

    board = Scoreboard()
    each = worker(reports, take_lock, cgroup="/system.slice/none.service", board=board, slot=board.take(1, 1))
    each.slot[Field.PID] = os.getpid()
    with pytest.raises(BlockingIOError):
        each.init_process()
    failure = collect(reports)
    assert failure is not None
    assert failure.public.startswith("BlockingIOError at ")
