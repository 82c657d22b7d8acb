"""Files are replaced atomically, and in the intended folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flask_socketact import files
from flask_socketact.errors import UnsafePathError


@pytest.mark.parametrize("durable", [False, True])
def test_new_content_replaces_the_old(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old, and longer")
    files.write(path, "new", mode=0o600, durable=durable)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / "file").symlink_to("elsewhere")
    files.write(tmp_path / "file", "ours")
    assert (tmp_path / "elsewhere").read_text() == "theirs"
    assert not (tmp_path / "file").is_symlink()


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        files.write(path, "new \ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_unused_temporary_file_is_removed(tmp_path: Path) -> None:
    with files.Folder(tmp_path) as folder, folder.temporary("file", "whole") as whole:
        assert (tmp_path / whole).read_text() == "whole"
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "none/file", "text")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        files.write(tmp_path / "loop/file", "text")


def test_replaced_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "roots").mkdir()
    with files.Folder(tmp_path / "theirs") as folder:
        (tmp_path / "theirs").rename(tmp_path / "moved")
        (tmp_path / "theirs").symlink_to("roots")
        folder.write("file", "text")
    assert os.listdir(tmp_path / "roots") == []
    assert os.listdir(tmp_path / "moved") == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
@pytest.mark.parametrize("absolute", [False, True])
def test_root_is_not_redirected_to_other_users_folders(tmp_path: Path, absolute: bool) -> None:
    """A user's link may lead root to folders of the same user; root's own links may lead anywhere."""
    user, other = 12345, 23456
    for name, owner in (("theirs", user), ("theirs/own", user), ("roots", 0), ("others", other)):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, owner, owner)
    for name, target in (("to-own", "own"), ("to-roots", "../roots"), ("to-others", "../others")):
        link = tmp_path / "theirs" / name
        link.symlink_to((link.parent / target).resolve() if absolute else target)
        os.chown(link, user, user, follow_symlinks=False)
    (tmp_path / "roots/to-theirs").symlink_to(tmp_path / "theirs")
    for name in ("theirs", "theirs/own", "theirs/to-own", "roots", "others", "roots/to-theirs"):
        files.Folder(tmp_path / name).close()
    for name in ("theirs/to-roots", "theirs/to-others", "roots/to-theirs/to-roots"):
        with pytest.raises(UnsafePathError, match="owns a part of the path"):
            files.Folder(tmp_path / name)
