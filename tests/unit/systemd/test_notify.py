"""Messages on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from flask_socketact.errors import NotifyError, SettingsError
from flask_socketact.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("message", "state"), [(notify.ready, b"READY=1\n"), (notify.stopping, b"STOPPING=1\n"), (notify.status, b"")]
)
def test_state_and_status_are_one_datagram(
    systemd: socket.socket, message: Callable[[str | None, str], None], state: bytes
) -> None:
    message(systemd.getsockname(), "Wörking")
    assert systemd.recv(4096) == state + "STATUS=Wörking".encode()
    assert notify.NOTIFY_SOCKET not in os.environ


def test_the_status_text_cannot_add_a_field(systemd: socket.socket) -> None:
    notify.status(systemd.getsockname(), "fine\nMAINPID=1\r\nREADY=1 \udcff")
    assert systemd.recv(4096) == b"STATUS=fine MAINPID=1 READY=1 ?"


def test_without_a_manager_nothing_is_sent() -> None:
    notify.ready(None, "")


def test_a_manager_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotifyError, match=r"at NOTIFY_SOCKET=.*/gone \(No such file or directory\)"):
        notify.ready(str(tmp_path / "gone"), "")
    assert notify.NOTIFY_SOCKET not in os.environ


def test_the_address_is_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "HOME": "/"}
    assert notify.take_address(environ) == "/run/notify"
    assert notify.take_address(environ) is None
    assert environ == {"HOME": "/"}


def test_reloading_has_the_monotonic_time(systemd: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    notify.reloading(systemd.getsockname(), "Loading")
    state, since, status = systemd.recv(4096).decode().split("\n")
    assert (state, status) == ("RELOADING=1", "STATUS=Loading")
    assert since.startswith("MONOTONIC_USEC=")
    assert before <= int(since.partition("=")[2]) <= time.monotonic_ns() // 1000


def test_timeout_and_watchdog_messages_have_no_status(systemd: socket.socket) -> None:
    notify.extend_timeout(systemd.getsockname(), 1.5)
    notify.watchdog(systemd.getsockname())
    assert systemd.recv(4096) == b"EXTEND_TIMEOUT_USEC=1500000"
    assert systemd.recv(4096) == b"WATCHDOG=1"
    notify.extend_timeout(None, 1)
    notify.watchdog(None)
    notify.reloading(None, "")


def test_a_manager_that_does_not_read_is_an_error(systemd: socket.socket) -> None:
    """sd_notify(3) would block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"", systemd.getsockname())
    with pytest.raises(NotifyError, match="it does not read earlier messages"):
        notify.watchdog(systemd.getsockname())
    with suppress(BlockingIOError):
        while True:
            systemd.recv(4096)
    notify.watchdog(systemd.getsockname())


def test_the_watchdog_time_is_taken_out_of_the_environment() -> None:
    environ = {"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    assert notify.take_watchdog(environ) == 2.5
    assert notify.take_watchdog(environ) is None
    assert environ == {"HOME": "/"}
    assert notify.take_watchdog({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}) is None
    with pytest.raises(SettingsError, match="WATCHDOG_USEC='1s' is not a positive number"):
        notify.take_watchdog({"WATCHDOG_USEC": "1s"})
