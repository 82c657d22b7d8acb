"""Which process listens at an address, or holds a lock on a file: proc(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flask_socketact.linux import proc, socket_queues
from flask_socketact.systemd import cgroup

_LINK = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True)
class Holder:
    """A process, and the address or file that it holds."""

    pid: int
    what: str  #: an address, or a file

    @property
    def who(self) -> str:
        unit = os.path.basename(cgroup.of(self.pid) or "")
        return f"process {self.pid} ({proc.name_of(self.pid)}){f' of {unit}' if unit else ''}"

    def __str__(self) -> str:
        return f"{self.what} is held by {self.who}"


def listeners(pids: Iterable[int], but: Iterable[int] = ()) -> Iterator[Holder]:
    """Yield at which addresses processes listen, except for sockets whose inodes are in `but`."""
    addresses = dict(socket_queues.listening())
    for pid in pids:
        for inode in sockets_of(pid).difference(but):
            if inode in addresses:
                yield Holder(pid, addresses[inode])


def locks(pids: Iterable[int]) -> Iterator[Holder]:
    """Yield on which files processes hold locks: flock(2), fcntl(2)."""
    locked = dict[int, set[int]]()
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, _, owner, file, *_ = line.split()
        if kind in ("FLOCK", "POSIX", "OFDLCK"):
            # The inode without the device: stat(2) returns another device for layered file systems (overlayfs, btrfs).
            locked.setdefault(int(owner), set()).add(int(file.rpartition(":")[2]))
    for pid in pids:
        for path in _open_files(pid):
            with suppress(OSError):
                if os.stat(path).st_ino in locked.get(pid, ()):
                    yield Holder(pid, os.readlink(path))


def sockets_of(pid: int) -> set[int]:
    """Return the inodes of a process's sockets; none when it has exited, or belongs to another user."""
    inodes = set()
    for path in _open_files(pid):
        with suppress(OSError):
            if found := _LINK.fullmatch(os.readlink(path)):
                inodes.add(int(found[1]))
    return inodes


def _open_files(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []
