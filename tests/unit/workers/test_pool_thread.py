"""Threads that never run."""

from __future__ import annotations

import pytest

from flask_socketact.workers import pool_thread
from flask_socketact.workers.pool_thread import PoolThread


def test_a_thread_that_runs() -> None:
    done: list[int] = []
    thread = PoolThread(target=done.append, args=(1,))
    thread.start()
    thread.join(10)
    assert done == [1]


def test_the_start_of_a_thread_that_never_runs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one without memory: CPython has reported an error in it, before it could say that it runs."""
    monkeypatch.setattr(PoolThread, "_bootstrap", lambda _: None)
    monkeypatch.setattr(pool_thread, "LIMIT", 0.05)
    with pytest.raises(RuntimeError, match="a new thread does not run"):
        PoolThread().start()
