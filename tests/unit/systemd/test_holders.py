"""Which process listens where, or has locked what."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from flask_socketact.linux import proc
from flask_socketact.systemd import holders
from flask_socketact.systemd.holders import Holder
from tests.support import server
from tests.support.child import child
from tests.support.control_groups import NO_PROCESS, SERVICE, ControlGroups


def name_itself(name: str) -> None:
    Path("/proc/self/comm").write_text(name)


def test_the_addresses_that_a_process_listens_at(tmp_path: Path) -> None:
    def listen() -> object:
        return server.tcp(), server.tcp(socket.AF_INET6), server.unix(tmp_path / "http"), socket.socket()

    with child(listen) as pid:
        found = {each.what for each in holders.listeners([pid, NO_PROCESS])}
        assert len(found) == 3
        assert str(tmp_path / "http") in found
        assert {address.rpartition(":")[0] for address in found if ":" in address} == {"127.0.0.1", "[::1]"}


def test_sockets_that_both_have_are_left_out() -> None:
    with server.tcp() as shared, child(server.tcp) as pid:
        ours = holders.sockets_of(os.getpid())
        assert os.fstat(shared.fileno()).st_ino in ours
        assert len(list(holders.listeners([pid]))) == 2
        (found,) = holders.listeners([pid], but=ours)
        assert found.what != f"127.0.0.1:{shared.getsockname()[1]}"


def test_only_sockets_are_sockets(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, socket.socket() as end:
        inodes = holders.sockets_of(os.getpid())
        assert os.fstat(end.fileno()).st_ino in inodes
        assert os.fstat(file.fileno()).st_ino not in inodes


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_the_files_that_a_process_has_locked(tmp_path: Path, lock: object) -> None:
    path = tmp_path / "database"
    (tmp_path / "unlocked").touch()

    def lock_file() -> object:
        file = path.open("w")
        assert callable(lock)
        lock(file, fcntl.LOCK_EX)
        return file, (tmp_path / "unlocked").open("w")

    with child(lock_file) as pid:
        assert list(holders.locks([pid, os.getpid()])) == [Holder(pid, str(path))]


def test_a_process_that_has_exited_holds_nothing() -> None:
    assert holders.sockets_of(NO_PROCESS) == set()
    assert list(holders.locks([NO_PROCESS])) == []
    assert list(holders.listeners([NO_PROCESS])) == []
    assert proc.name_of(NO_PROCESS) == "?"


def test_a_process_chooses_its_name_and_cannot_break_a_line() -> None:
    with child(lambda: name_itself("a\nb")) as pid:
        assert "\n" not in proc.name_of(pid)


def test_a_holder_is_described_with_name_and_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with child(lambda: name_itself("worker")) as pid:
        groups = ControlGroups(tmp_path, monkeypatch)
        groups.add_process(pid, "/")
        assert Holder(pid, "127.0.0.1:80").who == f"process {pid} (worker)"
        groups.add_process(pid, SERVICE)
        assert str(Holder(pid, "127.0.0.1:80")) == f"127.0.0.1:80 is held by process {pid} (worker) of app.service"
