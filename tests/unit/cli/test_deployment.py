"""The files of a deploy: the link to the release, and the record."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from flask_socketact.cli import main
from flask_socketact.cli.deploy import health_watch, release_link
from flask_socketact.cli.deploy.health_watch import Baseline, Health
from flask_socketact.cli.deploy.record import Pending, Record
from flask_socketact.cli.deploy.release_link import Link
from flask_socketact.cli.deploy.service import Counts
from flask_socketact.errors import RecordError, ReleaseError, UnhealthyError
from flask_socketact.linux import socket_queues
from flask_socketact.text import duration
from tests.support import server

PENDING = Pending("releases/1", "/srv/app/releases/2", "restart", 4711, "2026-01-01T00:00:00+00:00", ["7-1"])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with two releases, whose application is in a subfolder, and a link to the first."""
    for name in ("1", "2"):
        (tmp_path / "releases" / name / "src").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1")
    return tmp_path


def switch(link: Link, target: str) -> str:
    """Switch a link to another target; return its identity."""
    with link.made_alongside(target) as new:
        link.replace(new)
    return new.identity


def test_the_link_is_found_on_the_path(site: Path) -> None:
    with release_link.find(site / "current") as link:
        assert link.path == site / "current"
    with release_link.find(site / "current/src") as below:
        assert (below.path, below.inside) == (site / "current", Path("src"))
        assert below.target() == "releases/1"
    (site / "current/src/inner").symlink_to(site)
    with release_link.find(site / "current/src/inner") as inner:
        assert inner.path == site / "current/src/inner"


def test_without_a_link_the_message_says_how_to_get_one(site: Path) -> None:
    with pytest.raises(
        ReleaseError, match=r"is not a symbolic link, nor inside one: .* --directory \S+/releases/1/current$"
    ):
        release_link.find(site / "releases/1")
    with pytest.raises(ReleaseError, match=r"^WorkingDirectory=/ is .* --directory /srv/app/current$"):
        release_link.find(Path("/"))


def test_invalid_releases(site: Path) -> None:
    (site / "releases/3").mkdir()
    (site / "loop").symlink_to("loop")
    with release_link.find(site / "current/src") as current:
        assert current.check(site / "releases/2") == site / "releases/2"
        for release, why in (
            ("releases/4", "4 is not a folder"),
            ("releases/3", "3/src is not a folder"),
            ("loop", "loop is not a folder"),
            ("x" * 300, "x is not a folder"),
        ):
            with pytest.raises(ReleaseError, match=why):
                current.check(site / release)
    with release_link.find(site / "current") as current, pytest.raises(ReleaseError, match="contains the link"):
        current.check(site)


def test_the_release_in_place_is_recognized(site: Path) -> None:
    (site / "other").symlink_to("releases/1")
    with release_link.find(site / "current") as current:
        assert current.leads_to(site / "releases/1")
        assert current.leads_to(site / "other")
        assert not current.leads_to(site / "releases/2")
        assert not current.leads_to(site / "releases/4")


def test_the_link_is_switched_atomically(site: Path) -> None:
    seen, done = set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add((site / "current").resolve(strict=True).name)

    thread = threading.Thread(target=look)
    thread.start()
    with release_link.find(site / "current") as current:
        for number in range(2000):
            switch(current, f"releases/{number % 2 + 1}")
    done.set()
    thread.join()
    assert seen == {"1", "2"}
    assert {path.name for path in site.iterdir()} == {"current", "releases"}


@pytest.mark.parametrize("instead", ["folder", "file", "nothing"])
def test_only_a_link_is_replaced(site: Path, instead: str) -> None:
    with release_link.find(site / "current") as current:
        (site / "current").unlink()
        if instead == "folder":
            (site / "current").mkdir()
        elif instead == "file":
            (site / "current").write_text("theirs")
        with pytest.raises(ReleaseError, match=r"/current is no longer a symbolic link: check what it is$"):
            switch(current, "releases/2")
        with pytest.raises(ReleaseError, match="is no longer a symbolic link"):
            current.target()
        assert current.identity() == ""
    left = {path.name for path in site.iterdir()}
    assert left == ({"releases"} if instead == "nothing" else {"current", "releases"})


def test_a_folder_that_is_not_writable(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error does not name the hidden link next to it."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", ".current.0123")

    monkeypatch.setattr(os, "symlink", refuse)
    text = f"{site}/current cannot be switched: Read-only file system: make {site} writable"
    with release_link.find(site / "current") as current, pytest.raises(ReleaseError, match=f"^{text}$"):
        switch(current, "releases/2")
    assert os.readlink(site / "current") == "releases/1"


def test_a_folder_that_is_replaced_meanwhile_is_not_followed(site: Path) -> None:
    """The service's user owns the release, and the folder in it whose link is switched."""
    (site / "roots").mkdir()
    (site / "roots/web").write_text("root's")
    (site / "releases/1/inner").mkdir()
    (site / "releases/1/inner/web").symlink_to("../src")
    with release_link.find(site / "current/inner/web") as link:
        (site / "releases/1/inner").rename(site / "moved")
        (site / "releases/1/inner").symlink_to(site / "roots")
        switch(link, "elsewhere")
    assert os.readlink(site / "moved/web") == "elsewhere"
    assert (site / "roots/web").read_text() == "root's"
    assert os.listdir(site / "roots") == ["web"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, as only root may")
def test_a_path_through_a_folder_of_a_user_to_one_of_root(site: Path) -> None:
    (site / "roots").mkdir()
    (site / "roots/web").symlink_to("/")
    (site / "releases/1/inner").symlink_to(site / "roots")
    os.chown(site / "releases/1", 12345, 12345)
    text = "is not safe to switch: uid 12345 owns a part of the path, but uid 0 owns the folder"
    with pytest.raises(ReleaseError, match=text):
        release_link.find(site / "current/inner/web")


def test_a_link_has_an_identity_of_its_own(site: Path) -> None:
    with release_link.find(site / "current") as current:
        by_hand = current.identity()
        made = switch(current, "releases/1")
        assert current.identity() == made != by_hand
        (site / "current").unlink()
        (site / "current").symlink_to("releases/1")
        assert current.identity() not in (made, "")


@contextmanager
def another_deployment(record: Record) -> Iterator[int]:
    """Hold the lock in another process, and yield its pid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with record.locked():
            os.write(write, b".")
            signal.pause()
        os._exit(0)
    os.read(read, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_running_deploy_excludes_others_and_a_killed_one_does_not(tmp_path: Path) -> None:
    record = Record(tmp_path / "state", "app")
    with another_deployment(record) as pid:
        text = f"another deploy is running, process {pid}: wait until it ends"
        with pytest.raises(RecordError, match=text), record.locked():
            pass
        with Record(tmp_path / "state", "other").locked():
            pass
    with record.locked():
        pass


def test_the_record_exists_until_the_deploy_ends(tmp_path: Path) -> None:
    record = Record(tmp_path, "app")
    assert record.read() is None
    record.begin(PENDING)
    assert Record(tmp_path, "app").read() == PENDING
    record.end()
    record.end()
    assert record.read() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"old": "1"}', b"\xff", b'{"old": "1", "other": 2}', b"null"])
def test_malformed_records(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "app.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"app\.json is malformed: check that the link"):
        Record(tmp_path, "app").read()


def test_a_full_disk_stops_the_deploy_before_a_change(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(RecordError, match="File too large: nothing was deployed"):
            Record(tmp_path, "app").begin(PENDING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Record(tmp_path, "app").read() is None


def test_a_disk_too_full_for_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    text = r"app\.lock cannot be written: No space left on device: nothing was deployed"
    with pytest.raises(RecordError, match=text), Record(tmp_path, "app").locked():
        pass


def test_a_record_that_cannot_be_removed(tmp_path: Path) -> None:
    (tmp_path / "app.json").mkdir()
    with pytest.raises(RecordError, match=r"app\.json: .*: remove it, or the next deploy rolls this one back"):
        Record(tmp_path, "app").end()


@pytest.mark.parametrize(
    ("before", "now", "is_bad"),
    [
        (Counts(), (0, 0), False),
        (Counts(), (2, 2), False),  # too few to tell
        (Counts(), (3, 3), True),
        (Counts(100, 0), (100, 5), False),
        (Counts(100, 0), (100, 6), True),
        (Counts(100, 20), (100, 40), False),  # no worse than twice
        (Counts(100, 20), (100, 41), True),
        (Counts(1, 1), (3, 3), True),  # one request is no measure
        (Counts(100, 60), (100, 79), False),
        (Counts(100, 60), (100, 81), True),  # halfway to all
    ],
)
def test_errors_are_compared_with_those_before(before: Counts, now: tuple[int, int], is_bad: bool) -> None:
    baseline = Baseline(responded=True, good_pages=("/",), readyz=(), counts=before)
    if not is_bad:
        health_watch._check_errors(Counts(*now), Health(("/",), 5.0, 0.05), baseline)
        return
    with pytest.raises(UnhealthyError, match=f"^{now[1]} of {now[0]} responses had a status of 5xx"):
        health_watch._check_errors(Counts(*now), Health(("/",), 5.0, 0.05), baseline)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "Missing argument 'NAME'"),
        (["../app"], 2, "'../app' is not the name of a service"),
        (["app", "--page", "index"], 2, "'index' is not a path"),
        (["app", "--page", "/a b"], 2, "'/a b' is not a path"),
        (["app", "--healthy", "0"], 2, "is not in the range"),
        (["app", "--max-errors", "101"], 2, "is not in the range"),
        (["app", "--healthy", "nan"], 2, "'nan' is not a number"),
        (["app", "--timeout", "nan"], 2, "'nan' is not a number"),
        (["app", "--timeout", "inf"], 2, "is not in the range"),
        (["app", "--max-errors", "nan"], 2, "'nan' is not a number"),
        (["app", "--release", ""], 2, "'' is not a folder: is a variable empty?"),
        (["app"], 3, "Error: "),  # there is no such service here, or no systemd
    ],
)
def test_errors_are_one_line(arguments: list[str], status: int, text: str) -> None:
    result = CliRunner().invoke(main, ["deploy", *arguments])
    assert result.exit_code == status
    assert text in result.output.splitlines()[-1]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_queue_of_an_address_is_read_without_its_listener(family: socket.AddressFamily) -> None:
    with server.tcp(family) as listener:
        host, port, *_ = listener.getsockname()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        assert socket_queues.length_at(address) == 0
        clients = [server.dial(listener) for _ in range(3)]
        assert socket_queues.length_at(address) == socket_queues.length(listener) == 3
        for client in clients:
            client.close()
    assert socket_queues.length_at(address) is None


def test_the_queue_of_a_unix_socket_is_unknown_when_no_socket_listens(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(address)
        assert socket_queues.length_at(address) is None
        listener.listen()
        assert socket_queues.length_at(address) == 0
        client.connect(address)
        assert socket_queues.length_at(address) == 1
    assert socket_queues.length_at(address) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 ms"),
        (0.00421, "4.2 ms"),
        (1.0, "1.00 s"),
        (119.0, "119.00 s"),
        (120.0, "2 min"),
        (7199.0, "120 min"),
        (7200.0, "2 h"),
        (864000.0, "10 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
