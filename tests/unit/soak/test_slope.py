"""Whether a line rises."""

from __future__ import annotations

import random

import pytest

from tests.soak.slope import LEAST, _quantile, fit

#: Restarts in thousands.
X = [number / 1000 for number in range(200)]


def noise(seed: int, size: float = 1.0) -> list[float]:
    chance = random.Random(seed)  # noqa: S311
    return [chance.gauss(0, size) for _ in X]


def test_a_straight_line_rises() -> None:
    slope = fit([[(x, 5 + 30 * x) for x in X]])
    assert slope.slope == pytest.approx(30)
    assert slope.error == pytest.approx(0, abs=1e-6)
    assert slope.growth == pytest.approx(30 * X[-1])
    assert slope.rises


def test_a_constant_line_is_level() -> None:
    slope = fit([[(x, 7.0) for x in X]])
    assert (slope.slope, slope.error, slope.rises) == (0.0, 0.0, False)


def test_a_leak_is_found_in_noise_and_noise_is_no_leak() -> None:
    """One file descriptor in twenty restarts; and a hundred lines that scatter, of which none rises."""
    assert all(fit([[(x, y + 50 * x) for x, y in zip(X, noise(seed), strict=True)]]).rises for seed in range(100))
    assert not any(fit([list(zip(X, noise(seed), strict=True))]).rises for seed in range(100))


def test_a_line_that_wanders_and_comes_back_is_level() -> None:
    """Neighbors that are alike make the interval wider."""
    level, wandering = 0.0, []
    for x, step in zip(X, noise(3), strict=True):
        level = 0.97 * level + step
        wandering.append((x, level))
    shuffled = [(x, y) for x, (_, y) in zip(X, random.Random(1).sample(wandering, len(X)), strict=True)]  # noqa: S311
    assert fit([wandering]).error > 3 * fit([shuffled]).error


def test_a_tiny_rise_is_level() -> None:
    """It is certain, and less than the points scatter."""
    slope = fit([[(x, 2 * x + number % 2) for number, x in enumerate(X)]])
    assert slope.slope > 0
    assert not slope.rises


def test_a_falling_line_does_not_rise() -> None:
    assert not fit([[(x, -30 * x) for x in X]]).rises


def test_each_session_has_its_own_offset() -> None:
    first = [(x, 100.0) for x in X[:100]]
    second = [(x, 200.0) for x in X[100:]]
    assert not fit([first, second]).rises
    assert fit([first + second]).slope == pytest.approx(750, rel=0.01)
    climbing = fit([[(x, 100 + 30 * x) for x in X[:100]], [], [(x, 30 * x) for x in X[100:]]])
    assert climbing.slope == pytest.approx(30)


def test_too_few_points_are_not_judged() -> None:
    few = fit([[(x, 30 * x) for x in X[: LEAST - 1]]])
    assert few.slope == pytest.approx(30)
    assert not few.is_judged
    assert not few.rises
    assert fit([]).points == fit([[]]).points == 0


def test_quantile_is_that_of_tables() -> None:
    """Student's t, two-sided 99 %."""
    assert _quantile(20) == pytest.approx(2.845, abs=0.01)
    assert _quantile(30) == pytest.approx(2.750, abs=0.005)
    assert _quantile(120) == pytest.approx(2.617, abs=0.002)
