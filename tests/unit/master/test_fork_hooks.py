"""What a worker gets before it is forked, and the user's hooks around the fork."""

from __future__ import annotations

import signal
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from flask_socketact.master.fork_hooks import watch_forks
from flask_socketact.shared.slot import Field
from tests.support.child import in_child
from tests.unit.master.conftest import Master


def worker(age: int = 3) -> Any:
    """Return a worker as gunicorn makes it before the fork."""
    return SimpleNamespace(
        age=age, notify=lambda: None, init_process=lambda: None, init_signals=lambda: None, alive=True, booted=True
    )


def set_hooks(master: Master, calls: list[str], error: Exception | None = None) -> None:
    """Let the user have hooks; the one after the fork raises `error`."""

    def pre_fork(server: Any, each: Any) -> None:
        assert server is master
        assert each.slot[Field.TAKEN]
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        calls.append("pre_fork")

    def post_fork(server: Any, each: Any) -> None:  # noqa: ARG001 (gunicorn's hook)
        calls.append("post_fork")
        if error:
            raise error

    master.cfg.set("pre_fork", pre_fork)
    master.cfg.set("post_fork", post_fork)
    watch_forks(master)


def test_a_worker_gets_a_slot_and_what_its_master_shares(master: Master) -> None:
    def run() -> None:
        calls: list[str] = []
        set_hooks(master, calls)
        each = worker()
        master.generation = 2
        master.cfg.pre_fork(master, each)
        assert calls == ["pre_fork"]
        assert (each.board, each.mailbox, each.cgroup) == (master.board, master.mailbox, master.cgroup)
        assert (each.slot[Field.AGE], each.slot[Field.GENERATION]) == (3, 2)
        assert each.slot[Field.THREADS] == master.cfg.threads
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert in_child(run) == 0


def test_slots_of_workers_that_could_not_be_forked_are_free_again(master: Master) -> None:
    def run() -> None:
        set_hooks(master, [])
        lost = worker()
        master.cfg.pre_fork(master, lost)  # and the fork fails: it is none of the master's workers
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # as the master does
        master.cfg.pre_fork(master, worker())
        assert len(list(master.board.taken())) == len(master.WORKERS) + 1

    assert in_child(run) == 0


def test_listeners_that_a_reload_has_dropped_are_closed_in_new_workers(master: Master) -> None:
    def run() -> None:
        calls: list[str] = []
        set_hooks(master, calls)
        each = worker()
        with socket.create_server(("127.0.0.1", 0)) as dropped:
            master.dropped_listeners = [dropped]
            master.cfg.pre_fork(master, each)
            master.cfg.post_fork(master, each)
            assert dropped.fileno() == -1
        assert calls == ["pre_fork", "post_fork"]
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert in_child(run) == 0


def test_an_error_in_the_hook_after_the_fork_is_a_failed_boot(master: Master) -> None:
    def run() -> None:
        set_hooks(master, [], ValueError("of the user"))
        each = worker()
        master.cfg.pre_fork(master, each)
        each.cgroup = None
        with pytest.raises(ValueError, match="of the user"):
            master.cfg.post_fork(master, each)
        assert not each.booted

    assert in_child(run) == 0
