"""Read and write files safely where other users can write: no blocking, no partial files, no redirection."""

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

#: Larger than any file that we expect to read. Bytes.
LIMIT = 1024 * 1024
#: More symbolic links than this on one path are a loop, as for the kernel (path_resolution(7)).
_MAX_LINKS = 40


def read(path: str | Path, *, limit: int = LIMIT) -> str:
    """Return the text of a regular file.

    :raises OSError: it cannot be read, is not a regular file (a FIFO would block), or has more than `limit` bytes.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return data.decode(errors="replace")


class Folder:
    """An open folder. A later change of its path cannot redirect what we write."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        :raises OSError: as :func:`open_folder` does.
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
        """Replace the file `name` atomically: it has all of `text`, or stays as it was.

        A symbolic link of that name is replaced, not followed. With `durable`, the file survives a power failure after
        this returns.

        :raises OSError: it cannot be written; the old file is unchanged.
        """
        with self.temporary(name, text, mode=mode, durable=durable) as temporary:
            self.rename(temporary, name)
        if durable:
            os.fsync(self.descriptor)

    @contextmanager
    def temporary(self, name: str, text: str, *, mode: int = 0o644, durable: bool = False) -> Iterator[str]:
        """Write `text` to a temporary file next to `name`, and yield its name for :meth:`rename`.

        On exit the temporary file is removed, unless it was renamed.

        :raises OSError: it cannot be written.
        """
        temporary = temporary_name(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=self.descriptor)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(descriptor, mode)
                if durable:
                    file.flush()
                    os.fsync(descriptor)
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self.descriptor)

    def rename(self, source: str, name: str) -> None:
        """Rename `source` to `name`, both in this folder. An existing `name` is replaced."""
        os.rename(source, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)


def temporary_name(name: str) -> str:
    """Return a random name for a file next to `name`. At a name that can be guessed, another user can plant a link."""
    return f".{name[:200]}.{secrets.token_hex(8)}"


def write(path: Path, text: str, *, mode: int = 0o644, durable: bool = False) -> None:
    """Replace a file atomically, as :meth:`Folder.write` does.

    :raises OSError: it cannot be written; the old file is unchanged.
    """
    with Folder(path.parent) as folder:
        folder.write(path.name, text, mode=mode, durable=durable)


def open_folder(path: Path) -> int:
    """Return a descriptor of the folder `path`, with all symbolic links resolved.

    The owner of a folder or link on the path can replace what is below it. As root we therefore follow a user's folder
    or link only to a folder of the same user (systemd's rule, CHASE_SAFE).

    :raises UnsafePathError: the path leads through what a user owns to what root or another user owns.
    :raises OSError: it does not exist, or is not a folder.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    owners = [0]  # of all folders and links on the path
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
                parts.extendleft(reversed(Path(target).parts))  # an absolute target begins with "/"
            else:
                os.close(here)
                here = below
            owners.append(found.st_uid)
        owner, users = owners.pop(), set(owners) - {0}
        if os.geteuid() == 0 and users and owner not in users:
            raise UnsafePathError(
                errno.EPERM, f"uid {min(users)} owns a part of the path, but uid {owner} owns the folder", str(path)
            )
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)
