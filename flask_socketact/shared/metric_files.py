"""The files in which prometheus_client counts, shared by all workers of a service, and by later generations.

prometheus_client names the files of a process after its pid, and cannot remove the files of a process that has exited,
as its counts would be lost. So their number grows with each restart. Here a file belongs to a *page* instead: a worker
takes a free page, and continues the counts in it. There are as many pages as there were workers at one time, and their
sum is all that was ever counted, even by workers that were killed.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import sys
import threading
from pathlib import Path

from flask_socketact.errors import CountersError
from flask_socketact.shared.scoreboard import SLOTS

#: prometheus_client's environment variable: the folder for the files.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_LOCK = "pages.lock"
#: Size of the header of a file, which holds the length of the rest. Bytes.
_HEADER = 8
#: Disk space that is allocated in advance, as a memory-mapped file on a full disk ends the process with SIGBUS. When a
#: file needs more, prometheus_client doubles it, without allocation. Bytes.
_RESERVED = {
    "histogram": 1 << 15,
    "histogram_fast": 1 << 17,
    "counter": 1 << 14,
    "gauge_livesum": 1 << 14,
    "gauge_liveall": 1 << 14,
    "gauge_livemostrecent": 1 << 14,
}


class Pages:
    """The pages in a folder. A page's owner holds a lock on it, which the kernel releases when the process ends."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`; create it if it is missing.

        :raises OSError: it cannot be used.
        """
        self.folder = folder
        self._page: int | None = None
        self._among_threads = threading.Lock()  # file locks belong to the process, not to a thread
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never closed: that would release our locks (fcntl(2)).
        self._fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.register_at_fork(after_in_child=self._forget)

    def own(self) -> int:
        """Return the number of this process's page.

        :raises OSError: there is no free page, or no disk space.
        """
        if self._page is None:
            with self._among_threads:
                if self._page is None:
                    self._page = self._take()
        return self._page

    def make_room(self, kind: str, size: int) -> Path:
        """Return this process's file of a kind, with disk space allocated for `size` more bytes.

        :raises OSError: there is no disk space.
        """
        path = self.folder / f"{kind}_{self.own()}.db"
        with path.open("r+b") as file:
            used = int.from_bytes(file.read(4), sys.byteorder)
            capacity = os.fstat(file.fileno()).st_size
            while capacity < used + size:
                capacity *= 2
            os.posix_fallocate(file.fileno(), 0, capacity)
        return path

    def drop_dead_gauges(self) -> None:
        """Remove live gauges (``multiprocess_mode="live…"``) of processes that have exited."""
        with self._among_threads:
            for page in {_page_of(path) for path in self.folder.glob("gauge_live*.db")}:
                if page != self._page and self._lock(page):
                    _drop_gauges(self.folder, page)
                    fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, page)

    def _take(self) -> int:
        page = next((number for number in range(SLOTS) if self._lock(number)), None)
        if page is None:
            raise OSError(f"more than {SLOTS} processes")
        _drop_gauges(self.folder, page)
        for kind, size in _RESERVED.items():
            _reserve(self.folder / f"{kind}_{page}.db", size)
        return page

    def _lock(self, page: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, page)
        except (BlockingIOError, PermissionError):  # another process holds it
            return False
        return True

    def _forget(self) -> None:
        """Let a child process take a page of its own, when it counts something."""
        self._page, self._among_threads = None, threading.Lock()


_pages: Pages | None = None


def use() -> Pages | None:
    """Let prometheus_client count in pages, if it is installed and the environment names a folder.

    Call this before the first metric is created; later it has no effect. Return the pages; None when each process
    counts for itself.

    :raises CountersError: the folder cannot be used, so each process counts for itself.
    """
    global _pages  # noqa: PLW0603 (prometheus_client's choice is for the process, too)
    folder = os.environ.get(FOLDER)
    if _pages is not None or not folder or importlib.util.find_spec("prometheus_client") is None:
        return _pages
    from prometheus_client import values

    try:
        pages = Pages(Path(folder))
        pages.own()
    except OSError as error:
        del os.environ[FOLDER]  # or metrics of the application would use it
        values.ValueClass = values.MutexValue
        raise CountersError(
            f"{FOLDER}={folder}: {error.strerror or error}, so each worker counts for itself"
        ) from error
    values.ValueClass = values.MultiProcessValue(pages.own)  # type: ignore[no-untyped-call]
    _pages = pages
    return _pages


def _drop_gauges(folder: Path, page: int) -> None:
    """Remove the live gauges of the last owner of a page. The caller holds the lock on it."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(page, str(folder))  # type: ignore[no-untyped-call]


def _page_of(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _reserve(path: Path, size: int) -> None:
    """Allocate disk space for a file; a malformed file is emptied."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size and not _is_legible(path):
            os.truncate(descriptor, 0)
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _is_legible(path: Path) -> bool:
    """Whether prometheus_client can continue with a file; of a malformed one it would raise an error, or crash."""
    from prometheus_client.mmap_dict import MmapedDict

    try:
        content = path.read_bytes()
        used = int.from_bytes(content[:4], sys.byteorder, signed=True)
        keys = [json.loads(key) for key, *_ in MmapedDict.read_all_values_from_file(path)]  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 (any content)
        return False
    return used == 0 or (_HEADER <= used <= len(content) and all(isinstance(key, list) for key in keys))
