"""The phases of a run, and what is left of them after an interruption."""

from __future__ import annotations

import pytest

from tests.soak.plan import WITH, WITHOUT, Settings, phases, remaining, restarts_in, verb


def settings(restarts: int, every: float = 10.0) -> Settings:
    return Settings(restarts, every, 1000.0, 64, "thread", preload=False, tree="/")


def test_hours_are_used() -> None:
    of_eight = settings(restarts_in(8, 10))
    planned = phases(of_eight)
    seconds = sum(phase.seconds + phase.restarts * of_eight.every for phase in planned)
    assert seconds == pytest.approx(8 * 3600, rel=0.01)
    assert restarts_in(0.0001, 10) == 1


@pytest.mark.parametrize("restarts", [1, 30, 31, 500])
def test_phases_alternate_and_have_all_restarts(restarts: int) -> None:
    planned = phases(settings(restarts))
    names = [phase.name for phase in planned]
    assert names == [WITHOUT, WITH] * (len(names) // 2) + [WITHOUT]
    assert sum(phase.restarts for phase in planned) == restarts
    assert [phase.index for phase in planned] == list(range(len(planned)))
    assert all(0 < phase.restarts <= 30 for phase in planned if phase.name == WITH)
    assert all(phase.seconds >= 2 for phase in planned if phase.name == WITHOUT)


def test_a_run_that_was_interrupted_goes_on_where_it_was() -> None:
    asked = settings(60)
    assert [phase.restarts for phase in phases(asked)] == [0, 30, 0, 30, 0]
    assert [phase.restarts for phase in remaining(asked, 0, 0)] == [0, 30, 0, 30, 0]
    assert [phase.restarts for phase in remaining(asked, 1, 20)] == [10, 0, 30, 0]
    assert [phase.restarts for phase in remaining(asked, 1, 30)] == [0, 0, 30, 0]
    assert [phase.restarts for phase in remaining(asked, 2, 30)] == [0, 30, 0]
    assert [phase.restarts for phase in remaining(asked, 3, 59)] == [1, 0]
    assert remaining(asked, 5, 60) == []


def test_every_third_is_a_reload() -> None:
    assert [verb(number) for number in range(1, 7)] == ["restart", "restart", "reload"] * 2
