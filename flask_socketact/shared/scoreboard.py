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
from pathlib import Path

from flask_socketact.linux import proc
from flask_socketact.shared.slot import BYTES, FIELDS, Field, Slot

#: Most workers of a master at one time, draining ones included.
SLOTS = 1024

_SIZE = (1 + SLOTS) * FIELDS * BYTES
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
_GONE_REQUESTS = 10  # of workers of the newest generation that have exited
_GONE_ERRORS = 11  # of these requests, those that failed
_DEAF = 8  # 1: the workers that accept new connections do not read the mailbox
_RETIRED = 12  # 1: the next master has told the workers to drain


class Scoreboard:
    """The slots of one master's workers."""

    def __init__(self, memory: mmap.mmap | bytes | None = None) -> None:
        """Use `memory`, which may be a copy for reading; by default, new anonymous memory."""
        self._memory = memoryview(memory or mmap.mmap(-1, _SIZE)).cast("q")
        self.slots = [
            Slot(self._memory[start : start + FIELDS], index)
            for index, start in enumerate(range(FIELDS, (1 + SLOTS) * FIELDS, FIELDS))
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
    def is_retired(self) -> bool:
        """Whether the next master has told the workers to drain."""
        return bool(self._memory[_RETIRED])

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
            self._memory[_GONE_REQUESTS] = self._memory[_GONE_ERRORS] = 0
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

    def free(self, slot: Slot) -> None:
        """Free the slot of a worker that has exited. While its generation is the newest, its counts are kept; requests
        that were in flight have failed."""
        slot[Field.TAKEN] = 0
        if slot[Field.GENERATION] == self.ready:
            lost = slot[Field.IN_FLIGHT]
            requests, errors = slot.judged
            self._memory[_GONE_REQUESTS] += requests + lost
            self._memory[_GONE_ERRORS] += errors + lost

    def counts(self) -> tuple[int, int]:
        """Return how many requests the newest generation has had, and how many of them failed (a status of 500 or
        above, or no response, as the worker has exited). Requests of monitors do not count."""
        newest = [slot.judged for slot in self.taken() if slot[Field.GENERATION] == self.ready]
        return (
            self._memory[_GONE_REQUESTS] + sum(requests for requests, _ in newest),
            self._memory[_GONE_ERRORS] + sum(errors for _, errors in newest),
        )

    def keep(self, slots: Iterable[Slot]) -> None:
        """Free all slots but these: the workers of the others have exited."""
        kept = {slot.index for slot in slots}
        for slot in self.taken():
            if slot.index not in kept:
                self.free(slot)


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
    _write(_path(folder, master), _SUCCESSOR, successor)


def retire(folder: Path, master: int) -> None:
    """Note for the workers of `master` that they are to drain when they get SIGURG.

    :raises OSError: its scoreboard cannot be written.
    :raises ValueError: it is not a scoreboard of this version.
    """
    _write(_path(folder, master), _RETIRED, 1)


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


def _write(path: Path, field: int, value: int) -> None:
    """Write a field of the header in the file of another master."""
    _read(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, value.to_bytes(BYTES, sys.byteorder), field * BYTES)
    finally:
        os.close(descriptor)


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
