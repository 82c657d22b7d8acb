"""What a reload changes in the master, and what it rolls back when it fails."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gunicorn.pidfile import Pidfile

from flask_socketact import env
from flask_socketact.master.failures import Failure
from flask_socketact.shared.slot import Field
from tests.unit.master.conftest import Master


def begin(master: Master) -> list[int]:
    """Begin a reload, and return the pids of its workers."""
    before = set(master.WORKERS)
    master.reloads.ask()
    master.reloads.begin()
    return sorted(master.WORKERS.keys() - before)


def told_to_drain(master: Master) -> list[int]:
    return [pid for pid, number in master.sent if number == signal.SIGTERM]


def test_a_reload_forks_new_workers_and_leaves_the_old_ones(master: Master, messages: Callable[[], list[str]]) -> None:
    old = list(master.WORKERS)
    messages()
    new = begin(master)
    assert len(new) == 2
    assert {master.WORKERS[pid].slot[Field.GENERATION] for pid in new} == {2}
    assert told_to_drain(master) == []
    assert master.serving == set(old)
    assert messages() == ["RELOADING=1"]


def test_old_workers_drain_when_all_new_workers_accept(master: Master, messages: Callable[[], list[str]]) -> None:
    old = list(master.WORKERS)
    new = begin(master)
    messages()
    master.accept(new[0])
    assert master.reloads.is_loading
    assert (told_to_drain(master), messages()) == ([], [])
    master.accept(new[1])
    assert not master.reloads.is_loading
    assert told_to_drain(master) == old
    assert master.retired == set(old)
    assert messages() == ["READY=1"]
    assert master.board.ready == 2


def test_a_new_worker_that_drains_already_has_accepted(master: Master) -> None:
    """It may have served ``max_requests`` before its siblings have loaded."""
    new = begin(master)
    master.accept(new[0])
    master.kill_worker(new[0], signal.SIGTERM)
    master.accept(new[1])
    assert not master.reloads.is_loading


def test_a_new_worker_that_exits_fails_the_reload(master: Master, messages: Callable[[], list[str]]) -> None:
    old = list(master.WORKERS)
    first, second = begin(master)
    messages()
    reason = Failure("KeyError: secret", "KeyError at app.py:3")
    worker = master.lose(first)
    assert master.reloads.has_lost(first, worker, reason)
    assert master.reloads.failure is reason
    assert told_to_drain(master) == [second]
    assert (master.generation, master.serving) == (1, set(old))
    assert messages() == ["READY=1"]


def test_a_worker_that_exits_after_its_reload_has_failed_changes_nothing(master: Master) -> None:
    first, second = begin(master)
    master.reloads.has_lost(first, master.lose(first), None)
    failure = master.reloads.failure
    assert failure is not None
    assert str(first) in failure.text
    assert master.reloads.has_lost(second, master.lose(second), Failure.known("told to exit"))
    assert master.reloads.failure is failure


def test_an_old_worker_that_exits_does_not_fail_the_reload(master: Master) -> None:
    old = next(iter(master.WORKERS))
    begin(master)
    assert not master.reloads.has_lost(old, master.lose(old), None)
    assert master.reloads.is_loading


def test_the_number_of_a_failed_generation_is_not_used_again(master: Master) -> None:
    begin(master)
    master.reloads.fail(Failure.known("no"))
    assert master.generation == 1
    begin(master)
    assert master.generation == 3


def test_a_reload_waits_for_the_one_at_work(master: Master) -> None:
    begin(master)
    master.reloads.ask()
    assert not master.reloads.is_due
    master.accept()
    assert master.reloads.is_due


def test_a_reload_that_succeeds_forgets_the_failure_of_the_one_before(master: Master) -> None:
    begin(master)
    master.reloads.fail(Failure.known("no"))
    begin(master)
    assert master.reloads.failure is not None
    master.accept()
    assert master.reloads.failure is None


def test_a_failure_without_a_reload_changes_nothing(master: Master) -> None:
    master.reloads.fail(Failure.known("no"))
    assert master.reloads.failure is None


def test_a_stop_cancels_what_is_asked_for_and_what_is_at_work(master: Master) -> None:
    begin(master)
    master.reloads.ask()
    master.reloads.cancel()
    assert not master.reloads.is_loading
    assert not master.reloads.is_due


def test_a_reload_is_refused_where_generations_must_not_overlap(
    master: Master, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(env.OVERLAP, "no")
    master.reloads.ask()
    assert not master.reloads.is_due
    assert f"{env.OVERLAP}=no" in caplog.text


def test_missing_new_workers_are_forked_and_old_ones_are_not_replaced(master: Master) -> None:
    old = list(master.WORKERS)
    new = begin(master)
    master.lose(old[0])
    master.lose(new[0])
    master.reloads.keep_number()
    assert [pid for pid in master.WORKERS if pid not in (*old, *new)] == [max(new) + 1]
    assert master.WORKERS[max(new) + 1].slot[Field.GENERATION] == 2


def test_a_worker_that_cannot_be_forked_fails_the_reload(master: Master) -> None:
    begin(master)
    master.lose(max(master.WORKERS))
    master.has_processes = False
    master.reloads.keep_number()
    assert not master.reloads.is_loading
    assert master.generation == 1


def test_new_settings_are_taken_and_those_before_are_back_after_a_failure(master: Master) -> None:
    before = master.cfg
    master.app.settings |= {"workers": 3, "raw_env": ["COLOR=blue"], "graceful_timeout": 7}
    assert len(begin(master)) == 3
    assert (os.environ["COLOR"], master.cfg.graceful_timeout) == ("blue", 7)
    master.reloads.fail(Failure.known("no"))
    assert master.num_workers == 2
    assert master.cfg is master.app.cfg is before
    assert "COLOR" not in os.environ


def test_a_configuration_that_cannot_be_read_fails_the_reload(
    master: Master, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (master.cfg, list(master.WORKERS))
    master.app.settings["workers"] = "many"
    assert begin(master) == []
    assert not master.reloads.is_loading
    assert (master.cfg, list(master.WORKERS)) == before
    assert master.app.cfg is master.cfg
    assert "many" in caplog.text
    assert "many" in capsys.readouterr().err  # gunicorn's traceback


def test_a_hook_that_raises_fails_the_reload(master: Master) -> None:
    def on_reload(server: Any) -> None:  # noqa: ARG001 (gunicorn's hook)
        raise ValueError("secret")

    master.app.settings["on_reload"] = on_reload
    begin(master)
    assert master.reloads.failure is not None
    assert "secret" in master.reloads.failure.text
    assert "secret" not in master.reloads.failure.public
    assert master.generation == 1


def test_a_changed_bind_opens_what_is_new_and_keeps_the_rest(master: Master) -> None:
    (kept,) = master.LISTENERS
    path = f"{master.cfg.chdir}/socket"
    master.app.settings["bind"] = ["127.0.0.1:0", f"unix:{path}"]
    begin(master)
    assert master.LISTENERS[0] is kept
    assert master.LISTENERS[1].getsockname() == path
    opened = master.LISTENERS[1]
    master.reloads.fail(Failure.known("no"))
    (left,) = master.LISTENERS
    assert left is kept
    assert (opened.sock, kept.sock is None) == (None, False)


def test_a_listener_that_is_not_in_bind_any_more_is_closed_when_new_workers_accept(
    master: Master, tmp_path: Path
) -> None:
    (old,) = master.LISTENERS
    master.app.settings["bind"] = [f"unix:{tmp_path}/socket"]
    begin(master)
    assert old.sock is not None
    assert master.dropped_listeners == [old]
    master.accept()
    assert old.sock is None
    assert not master.dropped_listeners


def test_the_pid_file_moves_when_new_workers_accept(master: Master, tmp_path: Path) -> None:
    before, after = tmp_path / "before.pid", tmp_path / "after.pid"
    master.pidfile = Pidfile(str(before))
    master.pidfile.create(os.getpid())
    master.cfg.set("pidfile", str(before))
    master.app.settings["pidfile"] = str(after)
    begin(master)
    assert (before.exists(), after.exists()) == (True, False)
    master.accept()
    assert (before.exists(), after.read_text().strip()) == (False, str(os.getpid()))


def test_the_environment_of_the_old_settings_is_back_after_a_failure(master: Master) -> None:
    master.cfg.set("raw_env", ["COLOR=red"])
    os.environ["COLOR"] = "red"
    master.app.settings["raw_env"] = ["SHAPE=round"]
    begin(master)
    assert ("COLOR" in os.environ, os.environ["SHAPE"]) == (False, "round")
    master.reloads.fail(Failure.known("no"))
    assert (os.environ["COLOR"], "SHAPE" in os.environ) == ("red", False)


def test_the_modules_of_the_old_settings_are_back_after_a_failure(master: Master, tmp_path: Path) -> None:
    module = ModuleType("site_settings")
    module.__file__ = str(tmp_path / "site_settings.py")
    sys.modules["site_settings"] = module
    try:
        begin(master)
        assert "site_settings" not in sys.modules
        master.reloads.fail(Failure.known("no"))
        assert sys.modules["site_settings"] is module
    finally:
        sys.modules.pop("site_settings", None)
