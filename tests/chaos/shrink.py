"""Finds a shorter schedule that still shows a violation: delta debugging (Zeller and Hildebrandt, 2002)."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.schedule import CALM, Event, Schedule


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], runs: int) -> Schedule:
    """Return the shortest schedule found within a number of runs; `fails` runs one."""
    left = runs

    def still_fails(events: tuple[Event, ...]) -> bool:
        nonlocal left
        if left == 0:
            return False
        left -= 1
        return fails(_shorten(schedule.with_events(events)))

    events = schedule.events
    parts = 2
    while len(events) > 1 and left:
        size = max(1, len(events) // parts)
        for start in range(0, len(events), size):
            rest = events[:start] + events[start + size :]
            if rest and still_fails(rest):
                events, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(events), 2 * parts)
    return _shorten(schedule.with_events(events))


def _shorten(schedule: Schedule) -> Schedule:
    """Return the schedule without the time after its last event."""
    last = max((event.at for event in schedule.events), default=0.0)
    return Schedule(schedule.seed, schedule.setup, min(schedule.seconds, last + 2 * CALM), schedule.events)
