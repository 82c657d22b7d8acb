"""What the processes of one master know of each other: counters in shared memory.

The master maps the memory before it forks: a file in the service's runtime folder, which ``flask-socketact status``
reads; without such a folder, anonymous memory. Each worker writes its own slot, which the master and the other workers
read. A field is eight bytes, aligned, and written at once, so no lock is needed; two may be of different moments.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path

from flask_socketact.linux import proc

#: Most workers of a master at one time, draining ones included.
SLOTS = 1024

_FIELDS = 32
_BYTES = 8
_SIZE = (1 + SLOTS) * _FIELDS * _BYTES
#: Bump when the layout changes: a reader of another version refuses the file then.
LAYOUT = 1
# Fields of the header, which has the size of a slot:
_STOPPING = 0
_HIGHEST = 1  # number of slots that were ever taken, from the first on
_READY = 2  # the newest generation whose workers have all accepted; 0: none yet
_BEGAN = 3  # when that generation began to load the application: CLOCK_MONOTONIC, nanoseconds
_READY_AT = 4  # when all its workers accepted; as above
_DRAIN_TIME = 5  # drain time, in nanoseconds
_LAYOUT = 6  # of the file
_SUCCESSOR = 7  # pid of the next master, whose workers accept the new connections from now on; 0: none
_RELOAD_FAILED = 9  # when the last reload failed: CLOCK_MONOTONIC, nanoseconds; 0: none has
_DEAF = 8  # 1: the workers that accept new connections do not read the mailbox


class Field(IntEnum):
    """The fields of a slot, all of them integers."""

    TAKEN = 0  #: 1 from before the fork until the master has reaped the worker
    PID = 1
    GENERATION = 2  #: 1 for the workers of the start; each reload adds 1
    THREADS = 3  #: number of requests that it can run at the same time
    ACCEPTING = 4  #: 1 while it accepts new connections
    DRAINING = 5  #: when its drain began: CLOCK_MONOTONIC, nanoseconds; 0: not yet
    REQUESTS = 6  #: number of requests since the worker was forked
    IN_FLIGHT = 7  #: requests that are read, run or responded to now
    OPEN = 8  #: connections, those in flight included
    IDLE = 9  #: idle keep-alive connections
    CARRIED_IN = 10
    CARRIED_OUT = 11
    ACCEPTED = 13  #: connections from a listener or the mailbox since the worker was forked
    PROGRESS = 14  #: when a thread was last free, or a request made progress: CLOCK_MONOTONIC, nanoseconds; 0: unknown
    RECYCLE = 15  #: 1 when it has reached max_requests, and is to be replaced
    OLDEST = 12  #: when the oldest request in flight began: CLOCK_MONOTONIC, nanoseconds; 0: none
    HOLDS = 16  #: pieces of work outside requests that a drain waits for
    ERRORS = 17  #: of the requests, those with a status of 500 or above
    AGE = 19  #: gunicorn's: how many workers the master had forked, this one included
    WEBSOCKETS = 20  #: open WebSockets
    STREAMS = 21  #: of the requests in flight, responses that last; in the thread worker they have threads of their own
    WAITED = 18  #: longest wait of a request in the worker's first seconds; nanoseconds


class Slot:
    """The fields of one worker: ``slot[Field.OPEN] += 1``."""

    def __init__(self, fields: memoryview, index: int) -> None:
        self.index = index
        self.fields = fields  #: for what is written for each request

    def __getitem__(self, field: int) -> int:
        return int(self.fields[field])

    def __setitem__(self, field: int, value: int) -> None:
        self.fields[field] = value

    def begin_drain(self) -> None:
        """Note that the worker accepts no new connections from now on. A second call changes nothing."""
        if not self[Field.DRAINING]:
            self[Field.DRAINING] = time.monotonic_ns()
            self[Field.ACCEPTING] = 0

    @property
    def is_alive(self) -> bool:
        """Whether the worker runs. A master that was killed has reaped no worker."""
        return bool(self[Field.PID]) and proc.exists(self[Field.PID])

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest request in flight began; 0.0 without one."""
        return (time.monotonic_ns() - self[Field.OLDEST]) / 1e9 if self[Field.OLDEST] else 0.0


class Scoreboard:
    """The slots of one master's workers."""

    def __init__(self, memory: mmap.mmap | bytes | None = None) -> None:
        """Use `memory`, which may be a copy for reading; by default, new anonymous memory."""
        self._memory = memoryview(memory or mmap.mmap(-1, _SIZE)).cast("q")
        self.slots = [
            Slot(self._memory[start : start + _FIELDS], index)
            for index, start in enumerate(range(_FIELDS, (1 + SLOTS) * _FIELDS, _FIELDS))
        ]

    @property
    def stopping(self) -> bool:
        """Whether the service stops. The master notes it before it sends SIGTERM."""
        return bool(self._memory[_STOPPING])

    @stopping.setter
    def stopping(self, value: bool) -> None:
        self._memory[_STOPPING] = value

    @property
    def ready(self) -> int:
        """The newest generation that was ready; 0: none yet."""
        return int(self._memory[_READY])

    @property
    def loading_time(self) -> float:
        """How long that generation took to load the application, in seconds; 0.0: none yet."""
        return (self._memory[_READY_AT] - self._memory[_BEGAN]) / 1e9

    @property
    def ready_at(self) -> float:
        """When that generation was ready: CLOCK_MONOTONIC, seconds."""
        return self._memory[_READY_AT] / 1e9

    @property
    def drain_time(self) -> float:
        """The drain time, in seconds."""
        return self._memory[_DRAIN_TIME] / 1e9

    @drain_time.setter
    def drain_time(self, seconds: float) -> None:
        self._memory[_DRAIN_TIME] = int(seconds * 1e9)

    @property
    def is_superseded(self) -> bool:
        """Whether the next generation accepts the new connections, and its master runs."""
        successor = self._memory[_SUCCESSOR]
        return bool(successor) and proc.exists(successor)

    @property
    def is_deaf(self) -> bool:
        """Whether the workers that accept new connections do not read the mailbox: their class is not ours."""
        return bool(self._memory[_DEAF])

    @is_deaf.setter
    def is_deaf(self, value: bool) -> None:
        self._memory[_DEAF] = value

    def note_ready(self, generation: int, began: float) -> None:
        """Note that all workers of a generation accept, which `began` to load then (CLOCK_MONOTONIC, seconds)."""
        if self._memory[_READY] != generation:
            self._memory[_READY] = generation
            self._memory[_BEGAN] = int(began * 1e9)
            self._memory[_READY_AT] = time.monotonic_ns()

    def note_failed_reload(self) -> None:
        """Note that a reload has failed, for the relay."""
        self._memory[_RELOAD_FAILED] = time.monotonic_ns()

    def take(self, generation: int, threads: int) -> Slot:
        """Return a free slot, with all fields 0.

        :raises RuntimeError: there is no free slot.
        """
        for slot in self.slots:
            if not slot[Field.TAKEN]:
                for field in Field:
                    slot[field] = 0
                slot[Field.GENERATION] = generation
                slot[Field.THREADS] = threads
                slot[Field.TAKEN] = 1
                self._memory[_HIGHEST] = max(self._memory[_HIGHEST], slot.index + 1)
                return slot
        raise RuntimeError(f"more than {SLOTS} worker processes: set fewer workers")

    def taken(self) -> Iterator[Slot]:
        """Return the slots in use."""
        return (slot for slot in self.slots[: self._memory[_HIGHEST]] if slot[Field.TAKEN])

    def living(self) -> Iterator[Slot]:
        """Return the slots of workers that run."""
        return (slot for slot in self.taken() if slot.is_alive)

    def newest(self) -> list[Slot]:
        """Return the slots of workers that run, of the newest generation that was ready."""
        return [slot for slot in self.living() if slot[Field.GENERATION] == self.ready]

    def keep(self, slots: Iterable[Slot]) -> None:
        """Free all slots but these: the workers of the others have exited."""
        kept = {slot.index for slot in slots}
        for slot in self.taken():
            if slot.index not in kept:
                slot[Field.TAKEN] = 0


def private_slot() -> Slot:
    """Return a slot that no other process sees."""
    return Slot(memoryview(bytearray(_FIELDS * _BYTES)).cast("q"), -1)


def create(folder: Path, master: int) -> Scoreboard:
    """Make the scoreboard of a master, by its pid, in the folder of its service; and remove those of masters before it
    whose workers have all gone.

    :raises OSError: there is no room for it, or it must not be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in folder.glob("board-*"):
        if not _is_used(path):
            path.unlink(missing_ok=True)
    path = _path(folder, master)
    # An old master may have had our pid, and have workers that still drain with its file: create another file.
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)  # whatever the umask: all users may read it
        os.posix_fallocate(descriptor, 0, _SIZE)  # fails on a full disk now, instead of SIGBUS later
        board = Scoreboard(mmap.mmap(descriptor, _SIZE))
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
    board._memory[_LAYOUT] = LAYOUT
    return board


def read(folder: Path, master: int) -> Scoreboard | None:
    """Return a copy of the scoreboard of a master; None if there is none, or one of another version.

    :raises PermissionError: it may not be read.
    """
    try:
        return _read(_path(folder, master))
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None


def supersede(folder: Path, master: int, successor: int) -> None:
    """Let the workers of `master` pass new connections on to the workers of `successor`; both are pids of masters.

    :raises OSError: its scoreboard cannot be written.
    :raises ValueError: it is not a scoreboard of this version.
    """
    path = _path(folder, master)
    _read(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, successor.to_bytes(_BYTES, sys.byteorder), _SUCCESSOR * _BYTES)
    finally:
        os.close(descriptor)


def find(folders: Iterable[Path], master: int) -> Scoreboard | None:
    """Return a copy of the scoreboard of a master from the first folder that has one.

    :raises PermissionError: it may not be read.
    """
    boards = (read(folder, master) for folder in folders)
    return next(filter(None, boards), None)


def _is_used(path: Path) -> bool:
    try:
        return any(_read(path).living())
    except (OSError, ValueError):
        return False


def _path(folder: Path, master: int) -> Path:
    return folder / f"board-{master}"


def _read(path: Path) -> Scoreboard:
    """Read a file of the service's user, perhaps as root: follow no link, do not block, map nothing that may shrink.

    :raises OSError: it cannot be read.
    :raises ValueError: it is not a scoreboard of this version.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _SIZE + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)
    if len(content) == _SIZE:
        board = Scoreboard(content)
        if board._memory[_LAYOUT] == LAYOUT:
            return board
    raise ValueError(f"{path} is not a scoreboard of this version")
