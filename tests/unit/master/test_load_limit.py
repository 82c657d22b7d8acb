"""How long workers may load the application."""

from __future__ import annotations

from flask_socketact.master.load_limit import STACK_TIME, LoadLimit, failure


def test_each_worker_has_its_own_load_timeout() -> None:
    clocks = LoadLimit()
    assert clocks.overdue([1], 10, 100.0) == []
    assert clocks.overdue([1, 2], 10, 105.0) == []
    assert clocks.overdue([1, 2], 10, 110.0 + STACK_TIME) == []
    assert clocks.overdue([1, 2], 10, 110.1 + STACK_TIME) == [1]
    assert clocks.overdue([1, 2], 10, 115.1 + STACK_TIME) == [2]


def test_all_overdue_workers_are_returned_together_and_once() -> None:
    clocks = LoadLimit()
    clocks.overdue([1, 2, 3], 10, 0.0)
    assert clocks.overdue([1, 3], 10, 20.0) == [1, 3]
    assert clocks.overdue([1, 3], 10, 30.0) == []


def test_a_worker_with_a_reused_pid_has_its_own_load_timeout() -> None:
    clocks = LoadLimit()
    clocks.overdue([1], 10, 0.0)
    clocks.overdue([], 10, 5.0)
    assert clocks.overdue([1], 10, 20.0) == []


def test_the_failure_names_the_setting_and_the_workers() -> None:
    assert failure([7], 1.5).text == (
        "worker 7 killed: did not load the application within SOCKETACT_LOAD_TIMEOUT = 1.5 s"
    )
    assert failure([7, 8], 1.5).text.startswith("workers 7, 8 killed: did not load")
