"""The symbolic link to the current release.

The service's user may own the folder of the link, and those above it. So the folder is opened once, only if that user
cannot redirect root to another user's folder (:class:`flask_socketact.files.Folder`), and used by its descriptor.
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
    """A new link under a temporary name."""

    name: str
    identity: str  #: as :meth:`Link.identity`; a rename keeps it


class Link:
    """A symbolic link on the path of ``WorkingDirectory=``. Its folder is open until :meth:`close`."""

    def __init__(self, folder: files.Folder, name: str, inside: Path) -> None:
        self.path = folder.path / name
        self.inside = inside  #: folder within a release that the service runs in
        self._folder = folder
        self._name = name

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._folder.close()

    def target(self) -> str:
        """Return the target of the link, as it is written.

        :raises ReleaseError: the link no longer exists.
        """
        try:
            return os.readlink(self._name, dir_fd=self._folder.descriptor)
        except OSError as error:
            raise ReleaseError(f"{self.path} is no longer a symbolic link: {error.strerror}") from None

    def identity(self) -> str:
        """Return an identity of this link, different from any other with the same target; empty if it is not a link.

        It is the inode number and the modification time, which survive a rename. The kernel reuses inode numbers.
        """
        try:
            found = os.stat(self._name, dir_fd=self._folder.descriptor, follow_symlinks=False)
        except OSError:
            return ""
        return _identity(found) if stat.S_ISLNK(found.st_mode) else ""

    def leads_to_folder(self, target: str) -> bool:
        """Return whether a link with this target would lead to a folder."""
        return _stat_folder(target, self._folder.descriptor) is not None

    def leads_to(self, folder: Path) -> bool:
        """Return whether the link leads to `folder`."""
        return _is_same(_stat_folder(self._name, self._folder.descriptor), _stat_folder(folder))

    def check(self, release: Path) -> Path:
        """Return the target of the link for a release.

        :raises ReleaseError: it is not a folder, or lacks the folder that the service runs in.
        """
        try:
            folder = release.resolve()
        except (OSError, RuntimeError):  # a loop of links; RuntimeError up to Python 3.12
            folder = release
        for needed in (folder, folder / self.inside):
            if _stat_folder(needed) is None:
                raise ReleaseError(f"{needed} is not a folder: set --release to the folder of the new release")
        if _is_same(_stat_folder(folder), os.fstat(self._folder.descriptor)):
            raise ReleaseError(f"{folder} contains the link {self.path}: set --release to a folder next to it")
        return folder

    @contextmanager
    def made_alongside(self, target: str) -> Iterator[NewLink]:
        """Create a link to `target` next to this one, for :meth:`replace`. Remove it at the end if it is still there.

        :raises ReleaseError: it cannot be created.
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
        """Replace this link with a new one atomically.

        :raises ReleaseError: it cannot be replaced, or is no longer a link.
        """
        if not self.identity():
            raise ReleaseError(f"{self.path} is no longer a symbolic link: check what it is")
        with self._unchanged():
            self._folder.rename(new.name, self._name)

    def sync(self) -> None:
        """Write the link to disk, to survive a power failure.

        :raises OSError: the disk fails.
        """
        os.fsync(self._folder.descriptor)

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Raise an error that names the link, not the temporary one."""
        try:
            yield
        except OSError as error:
            raise ReleaseError(
                f"{self.path} cannot be switched: {error.strerror}: make {self._folder.path} writable"
            ) from None


def find(directory: Path) -> Link:
    """Return the innermost link on the path of ``WorkingDirectory=``.

    :raises ReleaseError: there is none, or root must not write to its folder.
    """
    for path in (directory, *directory.parents):
        if os.path.islink(path):
            return _open(path, directory.relative_to(path))
    example = "/srv/app/current" if directory == Path("/") else directory / "current"
    raise ReleaseError(
        f"WorkingDirectory={directory} is not a symbolic link, nor inside one: run the service in a link to the "
        f"current release, as with flask-socketact units --directory {example}"
    )


def _open(path: Path, inside: Path) -> Link:
    try:
        folder = files.Folder(path.parent)
    except UnsafePathError as error:
        raise ReleaseError(
            f"{path} is not safe to switch: {error.strerror} {path.parent}: make root, or one user, own the whole path"
        ) from None
    except OSError as error:
        raise ReleaseError(f"{path} cannot be switched: {error.strerror}: see {path.parent}") from None
    link = Link(folder, path.name, inside)
    if not link.identity():
        link.close()
        raise ReleaseError(f"{path} is no longer a symbolic link: deploy again")
    return link


def _identity(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_mtime_ns}"


def _is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def _stat_folder(path: str | Path, above: int | None = None) -> os.stat_result | None:
    """Return the status of a folder; None if it is not a folder."""
    try:
        found = os.stat(path, dir_fd=above)
    except OSError:
        return None
    return found if stat.S_ISDIR(found.st_mode) else None
