"""The symbolic link to the release that runs."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flask_socketact.errors import SocketActError


class ReleaseError(SocketActError):
    """There is no link to switch, or nothing to switch it to."""


@dataclass(frozen=True)
class Link:
    """A symbolic link, on the way to the folder that a service runs in."""

    path: Path
    inside: Path  #: of a release, the folder that the service runs in

    def leads_to_folder(self, target: str) -> bool:
        """Whether it would lead to a folder, if it said `target`."""
        return (self.path.parent / target).is_dir()

    def target(self) -> str:
        """Return what the link says, as it says it.

        :raises OSError: it is there no more.
        """
        return os.readlink(self.path)

    def check(self, release: Path) -> Path:
        """Return the release as the link is to name it.

        :raises ReleaseError: it is no folder, or has not what the service runs in.
        """
        folder = release.resolve()
        for needed in (folder, folder / self.inside):
            if not needed.is_dir():
                raise ReleaseError(f"{needed} is no folder: give --release the new release's")
        if folder == self.path.parent.resolve():
            raise ReleaseError(f"{folder} holds the link {self.path}: give --release a folder beside it")
        return folder

    def switch(self, target: str) -> None:
        """Let the link name another target: at every moment it names the one or the other.

        :raises OSError: it cannot be.
        """
        # Descriptors and not paths: whoever can write here cannot send us elsewhere meanwhile.
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        beside = f".{self.path.name}.{secrets.token_hex(8)}"
        try:
            os.symlink(target, beside, dir_fd=folder)
            try:
                os.rename(beside, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=folder)
                raise
            os.fsync(folder)
        finally:
            os.close(folder)


def find(directory: Path) -> Link:
    """Return the link on the way to a service's ``WorkingDirectory=``; of several the innermost.

    :raises ReleaseError: there is none.
    """
    for path in (directory, *directory.parents):
        if path.is_symlink():
            return Link(path, directory.relative_to(path))
    raise ReleaseError(
        f"WorkingDirectory={directory} is no symbolic link, nor below one: let the service run in a link to the "
        f"current release, as with flask-socketact units --directory {directory}/current"
    )
