"""The symbolic link to the release that runs.

The service's user may own the folder of the link, and those above it. So the folder is opened once, only if that user
cannot have led us to another user's folder (:class:`flask_socketact.files.Folder`), and used by its descriptor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flask_socketact import files
from flask_socketact.errors import ReleaseError, UnsafePathError


@dataclass(frozen=True)
class NewLink:
    """A link that has been made, but not yet put in its place."""

    name: str
    identity: str  #: as of :meth:`Link.identity`; the same when it is in its place


class Link:
    """A symbolic link, on the way to the folder that a service runs in. Its folder is open until :meth:`close`."""

    def __init__(self, folder: files.Folder, name: str, inside: Path) -> None:
        self.path = folder.path / name
        self.inside = inside  #: of a release, the folder that the service runs in
        self._folder = folder
        self._name = name

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._folder.close()

    def target(self) -> str:
        """Return what the link says, as it says it.

        :raises ReleaseError: it is there no more.
        """
        try:
            return os.readlink(self._name, dir_fd=self._folder.descriptor)
        except OSError as error:
            raise ReleaseError(f"{self.path} is no symbolic link any more: {error.strerror}") from None

    def identity(self) -> str:
        """Return what tells this link from any other, also of the same text; empty if it is no link any more.

        Both parts, the number of the inode and the time at which it was made, survive a rename; a number alone comes
        again.
        """
        try:
            found = os.stat(self._name, dir_fd=self._folder.descriptor, follow_symlinks=False)
        except OSError:
            return ""
        return _identity(found) if stat.S_ISLNK(found.st_mode) else ""

    def leads_to_folder(self, target: str) -> bool:
        """Whether it would lead to a folder, if it said `target`."""
        return _stat_folder(target, self._folder.descriptor) is not None

    def leads_to(self, folder: Path) -> bool:
        """Whether it leads to `folder` now."""
        return _is_same(_stat_folder(self._name, self._folder.descriptor), _stat_folder(folder))

    def check(self, release: Path) -> Path:
        """Return the release as the link is to name it.

        :raises ReleaseError: it is no folder, or has not what the service runs in.
        """
        try:
            folder = release.resolve()
        except (OSError, RuntimeError):  # a link to itself; up to Python 3.12 the latter
            folder = release
        for needed in (folder, folder / self.inside):
            if _stat_folder(needed) is None:
                raise ReleaseError(f"{needed} is no folder: give --release the new release's")
        if _is_same(_stat_folder(folder), os.fstat(self._folder.descriptor)):
            raise ReleaseError(f"{folder} holds the link {self.path}: give --release a folder beside it")
        return folder

    @contextmanager
    def made_alongside(self, target: str) -> Iterator[NewLink]:
        """Make a link to `target` next to this one, for :meth:`replace`; removed at the end if it is still there.

        :raises ReleaseError: it cannot be made.
        """
        name = files.temporary_name(self._name)
        with self._unchanged():
            os.symlink(target, name, dir_fd=self._folder.descriptor)
            made = os.stat(name, dir_fd=self._folder.descriptor, follow_symlinks=False)
        try:
            yield NewLink(name, _identity(made))
        finally:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder.descriptor)

    def replace(self, new: NewLink) -> None:
        """Put a link in the place of this one: at every moment it names the one or the other.

        :raises ReleaseError: it cannot be put there, or what is there is no link any more.
        """
        if not self.identity():
            raise ReleaseError(f"{self.path} is no symbolic link any more: see what it is")
        with self._unchanged():
            self._folder.rename(new.name, self._name)

    def sync(self) -> None:
        """Let the link outlive a power cut.

        :raises OSError: the disk fails.
        """
        os.fsync(self._folder.descriptor)

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Turn an error into one that names the link, and not the hidden one next to it."""
        try:
            yield
        except OSError as error:
            raise ReleaseError(
                f"{self.path} cannot be switched: {error.strerror}: see that {self._folder.path} can be written to"
            ) from None


def find(directory: Path) -> Link:
    """Return the link on the way to a service's ``WorkingDirectory=``; of several the innermost.

    :raises ReleaseError: there is none, or its folder is one that we must not write to as root.
    """
    for path in (directory, *directory.parents):
        if os.path.islink(path):
            return _open(path, directory.relative_to(path))
    example = "/srv/app/current" if directory == Path("/") else directory / "current"
    raise ReleaseError(
        f"WorkingDirectory={directory} is no symbolic link, nor below one: let the service run in a link to the "
        f"current release, as with flask-socketact units --directory {example}"
    )


def _open(path: Path, inside: Path) -> Link:
    try:
        folder = files.Folder(path.parent)
    except UnsafePathError as error:
        raise ReleaseError(
            f"{path} is not switched: {error.strerror} {path.parent}: let root, or one user, own all of the way"
        ) from None
    except OSError as error:
        raise ReleaseError(f"{path} is not switched: {error.strerror}: see {path.parent}") from None
    link = Link(folder, path.name, inside)
    if not link.identity():
        link.close()
        raise ReleaseError(f"{path} is no symbolic link any more: deploy again")
    return link


def _identity(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_mtime_ns}"


def _is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def _stat_folder(path: str | Path, above: int | None = None) -> os.stat_result | None:
    """Return what the kernel says of a folder; None if it is none."""
    try:
        found = os.stat(path, dir_fd=above)
    except OSError:
        return None
    return found if stat.S_ISDIR(found.st_mode) else None
