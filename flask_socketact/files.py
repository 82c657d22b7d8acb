"""Files where others may write, too: read without waiting, written whole, and where they were meant to be."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flask_socketact.errors import UnsafePathError

#: Longer than any honest file that we read. Bytes.
LIMIT = 1024 * 1024
#: As the kernel has it: so many symbolic links on the way are a loop.
_MAX_LINKS = 40


def read(path: str | Path, *, limit: int = LIMIT) -> str:
    """Return the text of a regular file.

    :raises OSError: it cannot be read, is no regular file (a FIFO would be waited for), or has more than `limit` bytes.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is longer than {limit} bytes", str(path))
    return data.decode(errors="replace")


class Folder:
    """A folder that is open: whoever can write above it cannot send us elsewhere from now on."""

    def __init__(self, path: Path) -> None:
        """Open `path`, as :func:`open_folder`.

        :raises OSError: as that.
        """
        self.path = path
        self.descriptor = open_folder(path)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    def write(self, name: str, text: str, *, mode: int = 0o644, durable: bool = False) -> None:
        """Put `text` into the file `name`, whole or (the disk is full) not at all.

        A link in its place is replaced, not followed. `durable`: it outlives a power cut from when this returns.

        :raises OSError: it cannot be written; what was there is still there.
        """
        with self.temporary(name, text, mode=mode, durable=durable) as whole:
            self.rename(whole, name)
        if durable:
            os.fsync(self.descriptor)

    @contextmanager
    def temporary(self, name: str, text: str, *, mode: int = 0o644, durable: bool = False) -> Iterator[str]:
        """Write `text` to a file beside `name`, and return its name. It is for `rename`, and removed at the end if it
        is still there.

        :raises OSError: it cannot be written.
        """
        whole = temporary_name(name)
        descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.descriptor)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(descriptor, mode)
                if durable:
                    file.flush()
                    os.fsync(descriptor)
            yield whole
        finally:
            with suppress(FileNotFoundError):
                os.unlink(whole, dir_fd=self.descriptor)

    def rename(self, whole: str, name: str) -> None:
        """Put a file of the folder in the place of another."""
        os.rename(whole, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)


def temporary_name(name: str) -> str:
    """Return the name of a file beside `name` that nobody knows: at any other a link of somebody's may wait."""
    return f".{name[:200]}.{secrets.token_hex(8)}"


def write(path: Path, text: str, *, mode: int = 0o644, durable: bool = False) -> None:
    """Write a file as :meth:`Folder.write` does.

    :raises OSError: it cannot be written; what was there is still there.
    """
    with Folder(path.parent) as folder:
        folder.write(path.name, text, mode=mode, durable=durable)


def open_folder(path: Path) -> int:
    """Return a descriptor of the folder `path`, after all symbolic links.

    As root only where nobody has led us: whoever owns a folder or a link on the way can put another there, and so may
    lead to his own folders, and not to those of others (systemd's rule, CHASE_SAFE).

    :raises UnsafePathError: the way leads through what a user owns to what another, or root, owns.
    :raises OSError: it is not there, or no folder.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    owners = [0]  # of all folders and links on the way
    links = 0
    parts = deque(Path(os.path.abspath(path)).parts[1:])
    here = os.open("/", flags)
    try:
        while parts:
            below = os.open(parts.popleft(), flags, dir_fd=here)
            found = os.fstat(below)
            if stat.S_ISLNK(found.st_mode):
                target = os.readlink("", dir_fd=below)
                os.close(below)
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                parts.extendleft(reversed(Path(target).parts))  # of an absolute one the first is "/"
            else:
                os.close(here)
                here = below
            owners.append(found.st_uid)
        owner, users = owners.pop(), set(owners) - {0}
        if os.geteuid() == 0 and users and owner not in users:
            raise UnsafePathError(
                errno.EPERM, f"user {min(users)} owns a part of the way, and user {owner} the folder", str(path)
            )
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)
