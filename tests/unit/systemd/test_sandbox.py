"""What no sandbox has refused is not explained by one. ``tests/systemd/test_sandbox.py`` has the rest."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from flask_socketact.systemd import sandbox


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOENT, errno.EPERM])
def test_a_folder_that_can_be_written(tmp_path: Path, number: int) -> None:
    assert sandbox.of_path(str(tmp_path / "file"), number) is None
    assert sandbox.of_path(str(tmp_path / "missing/file"), number) is None


@pytest.mark.parametrize("path", ["/proc/sys/vm/swappiness", "/sys/power/state", "/home/none/file", "", "/", "a\0b"])
def test_other_places(path: str) -> None:
    assert sandbox.of_path(path, errno.EACCES) is None


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_NETLINK])
def test_a_family_that_is_allowed(family: int) -> None:
    assert sandbox.of_family(family) is None
