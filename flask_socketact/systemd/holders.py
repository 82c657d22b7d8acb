"""Which process listens where, or has locked what: proc(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flask_socketact.linux import socket_queues
from flask_socketact.systemd import cgroup
from flask_socketact.text import printable

_LINK = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True)
class Holder:
    """A process that holds what another wants."""

    pid: int
    what: str  #: an address, or a file

    @property
    def who(self) -> str:
        unit = os.path.basename(cgroup.of(self.pid) or "")
        return f"process {self.pid} ({name_of(self.pid)}){f' of {unit}' if unit else ''}"

    def __str__(self) -> str:
        return f"{self.what} is held by {self.who}"


def listeners(pids: Iterable[int], but: Iterable[int] = ()) -> Iterator[Holder]:
    """Yield which of the processes listen at which addresses, without some sockets, by their inodes."""
    addresses = dict(socket_queues.listening())
    for pid in pids:
        for inode in sockets_of(pid).difference(but):
            if inode in addresses:
                yield Holder(pid, addresses[inode])


def locks(pids: Iterable[int]) -> Iterator[Holder]:
    """Yield which of the processes have locked which files: flock(2), fcntl(2)."""
    locked = dict[int, set[int]]()
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, _, owner, file, *_ = line.split()
        if kind in ("FLOCK", "POSIX", "OFDLCK"):
            # Without the device, which stat(2) does not tell of a file system in several layers (overlayfs, btrfs).
            locked.setdefault(int(owner), set()).add(int(file.rpartition(":")[2]))
    for pid in pids:
        for path in _open_files(pid):
            with suppress(OSError):
                if os.stat(path).st_ino in locked.get(pid, ()):
                    yield Holder(pid, os.readlink(path))


def sockets_of(pid: int) -> set[int]:
    """Return the inodes of the sockets that a process has; none of one that has gone, or is another user's."""
    inodes = set()
    for path in _open_files(pid):
        with suppress(OSError):
            if found := _LINK.fullmatch(os.readlink(path)):
                inodes.add(int(found[1]))
    return inodes


def name_of(pid: int) -> str:
    """Return the name of a process, which it gives itself; ``?`` of one that has gone."""
    try:
        return printable(Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n"))
    except OSError:
        return "?"


def _open_files(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []
