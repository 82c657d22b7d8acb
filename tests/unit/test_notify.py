"""Messages on a real datagram socket."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from flask_socketact import notify
from flask_socketact.errors import NotifyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        yield manager


@pytest.mark.parametrize(
    ("message", "state"), [(notify.ready, b"READY=1\n"), (notify.stopping, b"STOPPING=1\n"), (notify.status, b"")]
)
def test_one_datagram_with_state_and_status(
    manager: socket.socket, message: Callable[[str | None, str], None], state: bytes
) -> None:
    message(manager.getsockname(), "Wörking")
    assert manager.recv(4096) == state + "STATUS=Wörking".encode()
    assert notify.NOTIFY_SOCKET not in os.environ


def test_text_cannot_add_a_field(manager: socket.socket) -> None:
    notify.status(manager.getsockname(), "fine\nMAINPID=1\r\nREADY=1 \udcff")
    assert manager.recv(4096) == b"STATUS=fine MAINPID=1 READY=1 ?"


def test_no_manager() -> None:
    notify.ready(None, "")


def test_manager_that_has_gone(tmp_path: Path) -> None:
    with pytest.raises(NotifyError, match=r"at NOTIFY_SOCKET=.*/gone \(No such file or directory\)"):
        notify.ready(str(tmp_path / "gone"), "")
    assert notify.NOTIFY_SOCKET not in os.environ


def test_address_is_taken_once() -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "HOME": "/"}
    assert notify.take_address(environ) == "/run/notify"
    assert notify.take_address(environ) is None
    assert environ == {"HOME": "/"}
