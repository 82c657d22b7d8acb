"""A queue of tasks in SQLite: what is in it is done at least once, whoever is killed meanwhile.

A task is taken with a lease, which the worker renews while it works. One that has been killed renews nothing: when the
lease is over another takes the task up again. So a task may run twice, its end unseen: it must not matter. Let
what it does carry the task's id, as a key that the other side takes once.
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
    free_at REAL NOT NULL DEFAULT 0,     -- nobody takes it before: time.time(), of a lease, or of the next try
    tries INTEGER NOT NULL DEFAULT 0,
    done_at REAL
);
CREATE INDEX IF NOT EXISTS waiting ON task (free_at) WHERE done_at IS NULL;
"""
#: How long a worker waits for another's transaction. Seconds.
_BUSY_TIMEOUT = 10.0
#: Tries of a task, after which it stays where it is, for somebody to look at.
MAX_TRIES = 10


@dataclass(frozen=True)
class Task:
    """A task that this process has taken."""

    id: int
    kind: str
    payload: str
    tries: int


class Outbox:
    """The queue in one file. Each call has a connection of its own, so that any thread may call."""

    def __init__(self, path: Path, lease: float = 30.0) -> None:
        """Open `path`; a task whose worker gives no sign of life for `lease` seconds is taken by another."""
        self._path = path
        self._lease = lease
        with self._transaction() as database:
            database.executescript(_SCHEMA)

    def add(self, kind: str, payload: str, database: sqlite3.Connection | None = None) -> int:
        """Put a task into the queue, and return its id; when this returns, it is on the disk.

        With `database`, a connection to the same file, when the caller commits: together with what makes the task
        necessary, or not at all.
        """
        if database is None:
            with self._transaction() as own:
                return self.add(kind, payload, own)
        added = database.execute("INSERT INTO task (kind, payload) VALUES (?, ?)", (kind, payload))
        return int(added.lastrowid or 0)

    def take(self) -> Task | None:
        """Take the oldest task that is free; None when there is none."""
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
        """Renew the lease of `task` for the length of a block. It is done when the block ends, and free again, after
        a pause, when that raises."""
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
        """Return whether a task is done; None when there is none with this id."""
        with self._transaction() as database:
            row = database.execute("SELECT done_at IS NOT NULL FROM task WHERE id = ?", (task_id,)).fetchone()
        return bool(row[0]) if row else None

    def counts(self) -> dict[str, int]:
        """Return how many tasks are waiting (or worked on), done, and failed: in their last try, or after it."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT count(*) FILTER (WHERE done_at IS NULL AND tries < :most),"
                " count(done_at), count(*) FILTER (WHERE done_at IS NULL AND tries >= :most) FROM task",
                {"most": MAX_TRIES},
            ).fetchone()
        return dict(zip(("waiting", "done", "failed"), row, strict=True))

    def _end(self, ended: threading.Event, renewer: threading.Thread) -> None:
        ended.set()
        renewer.join()

    def _renew(self, task: Task, ended: threading.Event) -> None:
        while not ended.wait(self._lease / 3):
            with suppress(sqlite3.Error):  # the next turn may have more luck
                self._free_at(time.time() + self._lease, task)

    def _free_at(self, moment: float, task: Task) -> None:
        """Set when others may take `task`, unless one has: if this process was stopped for longer than its lease."""
        with self._transaction() as database:
            database.execute("UPDATE task SET free_at = ? WHERE id = ? AND tries = ?", (moment, task.id, task.tries))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")  # what was added outlives a power cut
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            if database.in_transaction:  # executescript has ended it
                database.execute("COMMIT")
