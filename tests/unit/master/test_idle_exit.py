"""When a service without connections exits."""

from __future__ import annotations

import pytest

from flask_socketact.master.idle_exit import IdleExit
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Field


@pytest.fixture
def now() -> list[float]:
    return [100.0]


def test_the_idle_time_ends_when_there_was_no_connection_for_that_long(now: list[float]) -> None:
    clock, slot = IdleExit(5.0, lambda: now[0]), Scoreboard().take(1, 4)
    assert not clock.is_over([slot])
    now[0] = 104.9
    assert not clock.is_over([slot])
    now[0] = 105.1
    assert clock.is_over([slot])


@pytest.mark.parametrize("field", [Field.OPEN, Field.IN_FLIGHT, Field.HOLDS, Field.ACCEPTED, Field.REQUESTS])
def test_the_idle_time_begins_again_with_each_connection(now: list[float], field: Field) -> None:
    """Also with one that opened and closed between two looks."""
    clock, slot = IdleExit(5.0, lambda: now[0]), Scoreboard().take(1, 4)
    clock.is_over([slot])
    now[0] = 104.0
    slot[field] += 1
    assert not clock.is_over([slot])
    if field in (Field.OPEN, Field.IN_FLIGHT, Field.HOLDS):
        now[0] = 120.0
        assert not clock.is_over([slot])
        slot[field] -= 1
    now[0] += 4.0
    assert not clock.is_over([slot])
    now[0] += 1.1
    assert clock.is_over([slot])


def test_the_idle_time_begins_again_when_a_worker_is_replaced(now: list[float]) -> None:
    clock, board = IdleExit(5.0, lambda: now[0]), Scoreboard()
    first = board.take(1, 4)
    clock.is_over([first])
    now[0] = 104.0
    second = board.take(1, 4)
    second[Field.PID] = 4711
    assert not clock.is_over([second])
    now[0] = 106.0
    assert not clock.is_over([second])
