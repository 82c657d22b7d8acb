"""How long workers may load the application."""

from __future__ import annotations

from flask_socketact.master.load_limit import STACK_TIME, LoadLimit


def limit(seconds: float) -> LoadLimit:
    made = LoadLimit()
    made.seconds = seconds
    return made


def test_each_worker_has_its_own_time() -> None:
    clocks = limit(10)
    assert clocks.overdue([1], 100.0) == []
    assert clocks.overdue([1, 2], 105.0) == []
    assert clocks.overdue([1, 2], 110.0 + STACK_TIME) == []
    assert clocks.overdue([1, 2], 110.1 + STACK_TIME) == [1]
    assert clocks.overdue([1, 2], 115.1 + STACK_TIME) == [2]


def test_all_that_are_late_are_told_at_once_and_once() -> None:
    clocks = limit(10)
    clocks.overdue([1, 2, 3], 0.0)
    assert clocks.overdue([1, 3], 20.0) == [1, 3]
    assert clocks.overdue([1, 3], 30.0) == []


def test_number_of_a_worker_that_comes_again_has_a_time_of_its_own() -> None:
    clocks = limit(10)
    clocks.overdue([1], 0.0)
    clocks.overdue([], 5.0)
    assert clocks.overdue([1], 20.0) == []


def test_failure_names_the_setting() -> None:
    clocks = limit(1.5)
    assert clocks.failure([7]).text == (
        "worker 7 has not loaded the application in SOCKETACT_LOAD_TIMEOUT = 1.5 s, and is killed"
    )
    assert clocks.failure([7, 8]).text.startswith("workers 7, 8 have not loaded")
