"""What systemd gets from the master, on a real notify socket."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from flask_socketact.master.notifier import EXTENSION_INTERVAL, Manager

LOG = logging.getLogger(__name__)


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def manager(systemd: socket.socket, now: list[float]) -> Manager:
    return Manager(systemd.getsockname(), LOG, clock=lambda: now[0])


def messages(systemd: socket.socket) -> list[str]:
    """Return what has come since the last look."""
    found = []
    while True:
        try:
            found.append(systemd.recv(4096).decode())
        except BlockingIOError:
            return found


def test_a_status_is_sent_once(systemd: socket.socket, manager: Manager) -> None:
    for text in ("one", "one", "two", "one"):
        manager.status(text)
    assert messages(systemd) == ["STATUS=one", "STATUS=two", "STATUS=one"]


def test_the_status_that_comes_with_ready_is_not_sent_again(systemd: socket.socket, manager: Manager) -> None:
    assert manager.ready("Serving")
    manager.status("Serving")
    assert messages(systemd) == ["READY=1\nSTATUS=Serving"]


def test_a_status_that_could_not_be_sent_is_sent_later(
    systemd: socket.socket, manager: Manager, tmp_path: Path
) -> None:
    (tmp_path / "notify").rename(tmp_path / "elsewhere")
    manager.status("Serving")
    (tmp_path / "elsewhere").rename(tmp_path / "notify")
    manager.status("Serving")
    assert messages(systemd) == ["STATUS=Serving"]


def test_a_manager_that_cannot_be_reached_is_logged_once(
    manager: Manager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notify").unlink()
    assert [manager.ready("Serving"), manager.reloading("Loading"), manager.ask_for_time()] == [False, False, True]
    manager.stopping("Stopping")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{tmp_path}/notify" in caplog.text


def test_time_is_asked_for_once_in_an_interval(systemd: socket.socket, manager: Manager, now: list[float]) -> None:
    asked = []
    for each in (0.0, 0.1, 0.9, 1.0, 1.1):
        now[0] = 100.0 + each * EXTENSION_INTERVAL
        asked.append(manager.ask_for_time())
    assert asked == [True, False, False, True, False]
    assert messages(systemd) == ["EXTEND_TIMEOUT_USEC=10000000"] * 2


def test_a_barrier_tells_when_systemd_has_acted(systemd: socket.socket, manager: Manager) -> None:
    assert manager.has_acted  # nothing to wait for
    manager.ask_for_barrier()
    message, (barrier,), _, _ = socket.recv_fds(systemd, 4096, 1)
    assert message == b"BARRIER=1"
    assert not manager.has_acted
    os.close(barrier)
    assert manager.has_acted
    assert manager.has_acted


def test_a_barrier_that_cannot_be_sent_is_not_waited_for(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "notify").unlink()
    manager.ask_for_barrier()
    assert manager.has_acted


def test_without_systemd_every_message_counts_as_sent(caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager(None, LOG)
    assert manager.ready("Serving")
    assert manager.reloading("Loading")
    assert manager.ask_for_time()
    manager.ask_for_barrier()
    assert manager.has_acted
    manager.watchdog()
    manager.stopping("Stopping")
    assert not caplog.records
