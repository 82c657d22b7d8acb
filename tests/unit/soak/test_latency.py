"""The histogram of response times."""

from __future__ import annotations

import random

import pytest

from tests.soak.latency import LONGEST, Latency


def test_percentiles_are_those_of_the_values() -> None:
    chance = random.Random(1)  # noqa: S311
    values = [chance.lognormvariate(-6, 1.5) for _ in range(20_000)]
    latency = Latency()
    for value in values:
        latency.record(value)
    assert len(latency) == len(values)
    values.sort()
    for percent in (50.0, 99.0, 99.9, 99.99):
        expected = values[round(len(values) * percent / 100) - 1]
        assert latency.percentile(percent) == pytest.approx(expected, rel=0.002, abs=2e-6)
    assert latency.maximum == pytest.approx(values[-1], rel=0.002)


def test_values_out_of_range_count_as_the_nearest() -> None:
    latency = Latency()
    for seconds in (0.0, -1.0, 10 * LONGEST):
        latency.record(seconds)
    assert len(latency) == 3
    assert latency.percentile(50.0) == pytest.approx(1e-6)
    assert latency.maximum == pytest.approx(LONGEST, rel=0.002)


def test_sum_of_encoded_histograms_is_that_of_all_values() -> None:
    parts = [Latency(), Latency(), Latency()]
    whole = Latency()
    for number in range(3000):
        for latency in (parts[number % 3], whole):
            latency.record(number / 1000)
    total = Latency.of(part.encode() for part in parts)
    assert len(total) == 3000
    assert [total.percentile(p) for p in (50.0, 99.9, 100.0)] == [whole.percentile(p) for p in (50.0, 99.9, 100.0)]


def test_nothing_recorded() -> None:
    assert Latency().percentile(99.9) == Latency.of([Latency().encode()]).maximum == 0.0
