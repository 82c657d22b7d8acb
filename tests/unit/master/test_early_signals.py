"""Signals for a worker that has been forked, and has no handlers yet. Each test is a process of its own."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

from flask_socketact.master import early_signals
from tests.support.child import in_child


def worker(heard: list[int], *numbers: int) -> Any:
    """Return a worker whose own handlers note which of `numbers` have come."""

    def init_signals() -> None:
        for number in numbers:
            signal.signal(number, lambda number, _: heard.append(number))

    return SimpleNamespace(init_signals=init_signals)


def blocked() -> set[Any]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_signal_that_comes_before_the_handlers_reaches_them() -> None:
    def run() -> None:
        heard: list[int] = []
        each = worker(heard, signal.SIGTERM, signal.SIGUSR1)
        early_signals.block()
        os.kill(os.getpid(), signal.SIGTERM)  # before the fork has returned
        early_signals.remember_for(each)
        os.kill(os.getpid(), signal.SIGUSR1)  # while the application is loaded
        assert heard == []
        each.init_signals()
        assert sorted(heard) == sorted([signal.SIGTERM, signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGTERM)  # and from now on as any other
        assert heard.count(signal.SIGTERM) == 2

    assert in_child(run) == 0


def test_signals_are_blocked_from_the_fork_until_they_are_remembered() -> None:
    def run() -> None:
        before = blocked()
        early_signals.block()
        assert {signal.SIGTERM, signal.SIGQUIT, signal.SIGURG} <= blocked() - before
        early_signals.remember_for(worker([]))
        assert blocked() == before

    assert in_child(run) == 0


def test_a_signal_without_a_handler_of_the_worker_keeps_that_of_the_master() -> None:
    def run() -> None:
        heard: list[int] = []
        signal.signal(signal.SIGWINCH, lambda number, _: heard.append(number))
        each = worker([], signal.SIGTERM)
        early_signals.block()
        early_signals.remember_for(each)
        each.init_signals()
        os.kill(os.getpid(), signal.SIGWINCH)
        assert heard == [signal.SIGWINCH]

    assert in_child(run) == 0


def test_a_process_that_a_hook_has_forked_is_ended_by_its_signal() -> None:
    def run() -> None:
        early_signals.block()
        early_signals.remember_for(worker([]))
        assert in_child(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM

    assert in_child(run) == 0
