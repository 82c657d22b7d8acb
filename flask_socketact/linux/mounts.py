"""What this process may write: its own view of the file systems, which may differ from that of others."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
#: How proc(5) writes a blank, a tab, a line feed and a backslash.
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo (proc(5))."""

    root: str  #: the folder of the file system that is mounted
    point: str
    kind: str  #: ``ext4``, ``tmpfs``, …
    is_read_only: bool  #: for all who use the file system, and not only at this place


def mounts() -> list[Mount]:
    """Return the mounts that this process sees; a later one may cover an earlier one.

    :raises OSError: they cannot be read.
    """
    return [_parse(line) for line in _MOUNTS.read_text(errors="surrogateescape").splitlines()]


def mount_of(path: str) -> Mount:
    """Return the mount that `path`, without symbolic links, is on.

    :raises OSError: the mounts cannot be read.
    """
    above = [mount for mount in mounts() if f"{path}/".startswith(f"{mount.point.rstrip('/')}/")]
    return max(reversed(above), key=lambda mount: len(mount.point))


def is_read_only(folder: str) -> bool:
    """Return whether nothing below `folder` can be written through the mount that it is on.

    :raises OSError: it does not exist, or cannot be reached.
    """
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def only_mount_forbids_writing(path: str) -> bool:
    """Return whether this user may write to `path` by its permissions, and cannot because its mount is read-only.

    The kernel looks at permissions first: access(2) fails with EROFS only if they suffice. ``os.access`` hides why.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.access(os.fsencode(path), os.W_OK) != 0 and ctypes.get_errno() == errno.EROFS


def _parse(line: str) -> Mount:
    place, _, system = line.partition(" - ")
    _, _, _, root, point, *_ = map(_unescape, place.split())
    kind, _, options = system.split(" ", 2)
    return Mount(root, point, kind, is_read_only="ro" in options.split(","))


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
