"""How many workers load the application at once: real processes, of which some compute and some sleep."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from flask_socketact.master.load_pace import WINDOW, LoadPace

Start = Callable[[str], int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program, and return its pid when it runs."""
    with ExitStack() as stack:

        def start(program: str) -> int:
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", f"print(flush=True); {program}"], stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            return process.pid

        yield start


def computing(start: Start) -> int:
    return start("exec('while True: pass')")


def sleeping(start: Start) -> int:
    return start("import time; time.sleep(60)")


def looks(pace: LoadPace, loading: list[int]) -> bool:
    """Look twice, a window apart, and return what the second look says."""
    pace.has_room(loading, time.monotonic())
    time.sleep(WINDOW + 0.05)
    return pace.has_room(loading, time.monotonic())


def test_at_most_half_of_the_cpus_are_busy(start: Start) -> None:
    pids = [computing(start) for _ in range(2)]
    assert not looks(LoadPace(cpus=2), pids[:1])
    assert looks(LoadPace(cpus=4), pids[:1])
    assert not looks(LoadPace(cpus=4), pids)
    assert looks(LoadPace(cpus=6), pids)


def test_one_may_always_begin() -> None:
    assert LoadPace(cpus=1).has_room([], 0.0)


def test_a_new_worker_counts_until_it_is_known_what_it_does(start: Start) -> None:
    pace, pid = LoadPace(cpus=2), sleeping(start)
    assert not pace.has_room([pid], time.monotonic())
    assert looks(pace, [pid])


def test_a_worker_that_waits_for_a_cpu_is_busy(start: Start) -> None:
    """As on a machine whose CPUs are all in use."""
    pids = [computing(start) for _ in range(8)]
    assert not looks(LoadPace(cpus=2), pids[:1])


def test_a_worker_that_begins_to_compute_counts_again(start: Start) -> None:
    pace = LoadPace(cpus=2)
    pid = start("import time; time.sleep(0.4)\nwhile True: pass")
    assert looks(pace, [pid])
    time.sleep(0.4)
    pace.has_room([pid], time.monotonic())
    assert not looks(pace, [pid])


def test_a_worker_that_has_exited_does_not_count() -> None:
    assert looks(LoadPace(cpus=2), [2**22 + 1])
