"""Why a worker cannot have an address or a file: which other process holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_socketact.master import conflicts
from tests.support import server
from tests.support.child import child
from tests.support.control_groups import SERVICE, SLICE, ControlGroups


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlGroups:
    return ControlGroups(tmp_path, monkeypatch)


def error_of(function: Callable[[], object]) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the caller chooses)
        function()
    return caught.value


def lock(path: Path) -> object:
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def bind_again(address: tuple[str, int]) -> None:
    with socket.socket() as listener:
        listener.bind(address)


def test_a_worker_from_before_a_restart_that_holds_the_address_is_named(groups: ControlGroups) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = reserved.getsockname()

    def listen() -> object:
        return socket.create_server(address)

    with child(listen) as pid:
        groups.fill(f"{SLICE}/app-drain-1-2.scope", [pid])
        (line,) = conflicts.explain(error_of(lambda: bind_again(address)), SERVICE, siblings=())
        assert f"{address[0]}:{address[1]} is held by process {pid}" in line
        assert "of app-drain-1-2.scope" in line
        assert "--workers 1" not in line


def test_a_sibling_that_holds_the_file_has_another_remedy(groups: ControlGroups, tmp_path: Path) -> None:
    path = tmp_path / "database"
    with child(lambda: lock(path)) as pid, path.open("w") as ours:
        groups.fill(SERVICE, [os.getpid(), pid])
        error = error_of(lambda: fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB))
        (line,) = conflicts.explain(error, SERVICE, siblings={pid})
        assert f"{path} is held by process {pid}" in line
        assert "--workers 1" in line
        (line,) = conflicts.explain(error, SERVICE, siblings=())
        assert "--workers 1" not in line


def test_the_error_may_be_a_cause_of_the_one_that_is_raised(groups: ControlGroups, tmp_path: Path) -> None:
    """A library wraps what the kernel says."""
    path = tmp_path / "database"
    with child(lambda: lock(path)) as pid:
        groups.fill(SERVICE, [pid])
        inner = BlockingIOError(errno.EAGAIN, "locked")
        middle, outer = RuntimeError("cannot open"), ValueError("cannot start")
        middle.__cause__, outer.__context__ = inner, middle
        assert len(conflicts.explain(outer, SERVICE, siblings=())) == 1


def test_what_systemd_has_passed_is_no_conflict(groups: ControlGroups) -> None:
    """Every worker has the listeners."""
    with server.tcp() as passed, child(lambda: None) as pid:
        groups.fill(SERVICE, [pid])
        error = error_of(lambda: bind_again(passed.getsockname()))
        assert error.errno == errno.EADDRINUSE
        assert conflicts.explain(error, SERVICE, siblings=()) == []


def test_processes_of_other_services_are_not_looked_at(groups: ControlGroups, tmp_path: Path) -> None:
    path = tmp_path / "database"
    with child(lambda: lock(path)) as pid:
        groups.fill(f"{SLICE}/other.service", [pid])
        groups.fill(SERVICE, [os.getpid()])
        assert conflicts.explain(BlockingIOError(errno.EAGAIN, "locked"), SERVICE, siblings=()) == []


@pytest.mark.parametrize("error", [KeyError("x"), OSError(errno.ENOENT, "no file")])
def test_other_errors_are_not_explained(groups: ControlGroups, tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "database"
    with child(lambda: lock(path)) as pid:
        groups.fill(SERVICE, [pid])
        assert conflicts.explain(error, SERVICE, siblings=()) == []
