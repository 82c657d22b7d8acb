"""Schedules of a seed, their text, and how they are shortened."""

from __future__ import annotations

import pytest

from tests.chaos.schedule import (
    FAULTS,
    OPERATIONS,
    Distance,
    Event,
    Schedule,
    ScheduleError,
    Setup,
    generate,
    parse,
)
from tests.chaos.shrink import shrink


def test_a_seed_gives_one_schedule() -> None:
    assert generate(7, 30.0) == generate(7, 30.0)
    assert generate(7, 30.0) != generate(8, 30.0)


@pytest.mark.parametrize("seed", range(50))
def test_what_is_printed_can_be_read_again(seed: int) -> None:
    schedule = generate(seed, 30.0)
    assert parse(str(schedule)) == schedule
    assert parse(str(schedule).replace("\n", "; ")) == schedule
    assert all(0 < event.at < 30.0 for event in schedule.events)


@pytest.mark.parametrize("fault", FAULTS)
def test_only_the_faults_that_are_asked_for(fault: str) -> None:
    given = Setup("sync", preload=True, hostile=True, distance=Distance(120, 2.5))
    schedules = [generate(seed, 30.0, [fault], given) for seed in range(5)]
    assert {event.what for schedule in schedules for event in schedule.events} - {*OPERATIONS} == {fault}
    assert {schedule.setup for schedule in schedules} == {given}
    assert [parse(str(schedule)) for schedule in schedules] == schedules


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.0 restart",
        "seed x seconds 30 thread",
        "seed 1 seconds 30 tornado",
        "seed 1 seconds 30 thread; restart",
        "seed 1 seconds 30 thread; 1.0 explode",
        "seed 1 seconds 30 thread; 1.0 step no-step kill",
        "seed 1 seconds 30 thread; 1.0 step worker-loads",
        "seed 1 seconds 30 thread; 1.0 kill worker",
        "seed 1 seconds 30 thread; 1.0 freeze master 0",
        "seed 1 seconds 30 thread; 1.0 restart now",
        "seed 1 seconds 30 thread; 1.0 clock 5",
        "seed 1 seconds 30 thread; 1.0 memory worker 0",
        "seed 1 seconds 30 thread unix link 20 1",
        "seed 1 seconds 30 thread link 20",
        "seed 1 seconds 30 thread hostile preload",
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError):
        parse(text)


def schedule(*events: str) -> Schedule:
    return parse("\n".join(("seed 1 seconds 60 thread", *events)))


LONG = schedule(*(f"{number} restart" for number in range(1, 20)), "7.5 kill worker 0", "12.5 kill master 0")


def test_one_culprit_is_found() -> None:
    culprit = Event(7.5, "kill", ("worker", "0"))
    tried: list[Schedule] = []

    def fails(shorter: Schedule) -> bool:
        tried.append(shorter)
        return culprit in shorter.events

    assert shrink(LONG, fails, runs=60).events == (culprit,)
    assert len(tried) < 30
    assert min(each.seconds for each in tried) < 20.0  # a shorter schedule takes less time


def test_two_culprits_are_found() -> None:
    culprits = {Event(7.5, "kill", ("worker", "0")), Event(12.5, "kill", ("master", "0"))}
    assert set(shrink(LONG, lambda shorter: culprits <= set(shorter.events), runs=100).events) == culprits


def test_what_cannot_be_shortened_stays() -> None:
    assert shrink(LONG, lambda _: False, runs=60).events == LONG.events


def test_runs_are_limited() -> None:
    tried: list[Schedule] = []

    def fails(shorter: Schedule) -> bool:
        tried.append(shorter)
        return False

    shrink(LONG, fails, runs=5)
    assert len(tried) == 5


def test_the_setup_stays() -> None:
    preloaded = Schedule(1, Setup("gevent", preload=True), 30.0, LONG.events)
    assert shrink(preloaded, lambda _: True, runs=60).setup == preloaded.setup
