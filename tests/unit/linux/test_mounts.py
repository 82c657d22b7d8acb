"""Mounts as this process sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flask_socketact.linux import mounts

LINE = r"36 35 98:0 /a\040b /mnt/c\134d rw,ro,noatime master:1 shared:2 - ext4 /dev/root {},errors=continue"


@pytest.mark.parametrize(("option", "is_read_only"), [("rw", False), ("ro", True)])
def test_a_line(option: str, is_read_only: bool) -> None:
    """The mount's own ``ro`` is not that of the file system."""
    assert mounts._parse(LINE.format(option)) == mounts.Mount("/a b", "/mnt/c\\d", "ext4", is_read_only=is_read_only)


def test_the_innermost_mount() -> None:
    assert mounts.mount_of("/proc/self").point == "/proc"
    assert mounts.mount_of("/proc/self").kind == "proc"
    assert mounts.mount_of("/procession").point == mounts.mount_of("/").point == "/"


def test_what_can_be_written(tmp_path: Path) -> None:
    assert not mounts.is_read_only(str(tmp_path))
    assert not mounts.only_mount_forbids_writing(str(tmp_path))
    assert not mounts.only_mount_forbids_writing(str(tmp_path / "missing"))
    assert os.access(tmp_path, os.W_OK)
