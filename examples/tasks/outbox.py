"""A queue of tasks in SQLite. Each task is done at least once, even if processes are killed.

A task is taken with a lease, which the worker renews while it works. If the worker is killed, the lease expires, and
another worker takes the task. So a task may run twice, and the second time must be harmless: send the task's id along
as a key, and let the other side accept each key once.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    free_at REAL NOT NULL DEFAULT 0,     -- not taken before this time.time(): end of a lease, or next try
    tries INTEGER NOT NULL DEFAULT 0,
    done_at REAL
);
CREATE INDEX IF NOT EXISTS waiting ON task (free_at) WHERE done_at IS NULL;
"""
#: How long to wait for the transaction of another worker. Seconds.
_BUSY_TIMEOUT = 10.0
#: After this number of tries a task stays in the queue until a person looks at it.
MAX_TRIES = 10


@dataclass(frozen=True)
class Task:
    """A task that this process has taken."""

    id: int
    kind: str
    payload: str
    tries: int


class Outbox:
    """The queue, in one file. Each call opens its own connection, so any thread may call."""

    def __init__(self, path: Path, lease: float = 30.0) -> None:
        """Open `path`; if a worker does not renew its lease for `lease` seconds, another takes the task."""
        self._path = path
        self._lease = lease
        deadline = time.monotonic() + _BUSY_TIMEOUT
        while not self._create():
            if time.monotonic() > deadline:
                raise sqlite3.OperationalError(f"{path} is locked")
            time.sleep(0.05)

    def add(self, kind: str, payload: str, database: sqlite3.Connection | None = None) -> int:
        """Add a task to the queue, and return its id. When this returns, the task is on disk.

        With `database`, a connection to the same file, the task becomes part of the caller's transaction.
        """
        if database is None:
            with self._transaction() as own:
                return self.add(kind, payload, own)
        added = database.execute("INSERT INTO task (kind, payload) VALUES (?, ?)", (kind, payload))
        return int(added.lastrowid or 0)

    def take(self) -> Task | None:
        """Take the oldest free task; return None if there is none."""
        now = time.time()
        with self._transaction() as database:
            row = database.execute(
                "UPDATE task SET free_at = ?, tries = tries + 1 WHERE id = ("
                "  SELECT id FROM task WHERE done_at IS NULL AND free_at <= ? AND tries < ? ORDER BY id LIMIT 1"
                ") RETURNING id, kind, payload, tries",
                (now + self._lease, now, MAX_TRIES),
            ).fetchone()
        return Task(*row) if row else None

    @contextmanager
    def working(self, task: Task) -> Iterator[None]:
        """Renew the lease of `task` during a block.

        If the block succeeds, the task is done. If it raises, the task is free again after a pause.
        """
        ended = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(task, ended), daemon=True)
        renewer.start()
        try:
            yield
        except BaseException:
            self._end(ended, renewer)
            self._free_at(time.time() + 2.0**task.tries, task)
            raise
        self._end(ended, renewer)
        with self._transaction() as database:
            database.execute("UPDATE task SET done_at = ? WHERE id = ?", (time.time(), task.id))

    def is_done(self, task_id: int) -> bool | None:
        """Return whether a task is done; None if there is no task with this id."""
        with self._transaction() as database:
            row = database.execute("SELECT done_at IS NOT NULL FROM task WHERE id = ?", (task_id,)).fetchone()
        return bool(row[0]) if row else None

    def counts(self) -> dict[str, int]:
        """Return how many tasks are waiting (or in work), done, and failed (in their last try, or after it)."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT count(*) FILTER (WHERE done_at IS NULL AND tries < :most),"
                " count(done_at), count(*) FILTER (WHERE done_at IS NULL AND tries >= :most) FROM task",
                {"most": MAX_TRIES},
            ).fetchone()
        return dict(zip(("waiting", "done", "failed"), row, strict=True))

    def _create(self) -> bool:
        """Create the file and its table, if they are missing; return False if another process is doing it.

        SQLite does not wait for the lock that a change of the journal mode needs.
        """
        with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)) as database:
            try:
                database.execute("PRAGMA journal_mode = WAL")  # the file keeps this setting
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                return False
            database.executescript(_SCHEMA)
        return True

    def _end(self, ended: threading.Event, renewer: threading.Thread) -> None:
        ended.set()
        renewer.join()

    def _renew(self, task: Task, ended: threading.Event) -> None:
        while not ended.wait(self._lease / 3):
            with suppress(sqlite3.Error):  # the next turn may succeed
                self._free_at(time.time() + self._lease, task)

    def _free_at(self, moment: float, task: Task) -> None:
        """Set when `task` may be taken again, unless another worker has taken it after the lease expired."""
        with self._transaction() as database:
            database.execute("UPDATE task SET free_at = ? WHERE id = ? AND tries = ?", (moment, task.id, task.tries))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = FULL")  # committed tasks survive a power cut
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
