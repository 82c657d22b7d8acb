"""examples/tasks: no task is lost when processes stop or are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from examples.tasks.outbox import MAX_TRIES, Outbox
from tests.support.http import Client, ask
from tests.support.machine import EXAMPLES
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    import socket
    from pathlib import Path

LEASE = 1.0  #: seconds


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for name in ("app.py", "outbox.py"):
        shutil.copy(EXAMPLES / "tasks" / name, tmp_path)
    return tmp_path


def serving(folder: Path, http: socket.socket, seconds: float) -> Server:
    environ = {"LEASE": str(LEASE), "SECONDS": str(seconds)}
    return Server(folder, *CONF, "-w", "2", "app:app", listeners={"http": http}, environ=environ)


def add(http: socket.socket, customer: str) -> int:
    client = Client(partial(dial, http))
    status, content = client.exchange("POST", f"/invoices/{customer}")
    client.close()
    assert status == 202
    return int(json.loads(content)["id"])


def sent(folder: Path) -> Counter[str]:
    path = folder / "sent"
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def are_done(folder: Path, numbers: list[int]) -> bool:
    return set(sent(folder)) == set(map(str, numbers))


def is_taken(folder: Path) -> bool:
    """Return whether a process works on a task."""
    with closing(sqlite3.connect(folder / "outbox.db")) as database:
        return database.execute("SELECT 1 FROM task WHERE tries > 0 AND done_at IS NULL").fetchone() is not None


def test_across_a_reload(tasks: Path, http: socket.socket) -> None:
    with serving(tasks, http, 0.01) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(8) as clients:
            numbers = list(clients.map(lambda number: add(http, f"a{number}"), range(40)))
            server.signal(signal.SIGHUP)
            numbers += list(clients.map(lambda number: add(http, f"b{number}"), range(40)))
        server.wait_for(lambda: are_done(tasks, numbers), "all tasks")
        assert set(sent(tasks).values()) == {1}
        server.wait_for(
            lambda: ask(partial(dial, http), f"/invoices/{numbers[0]}")[1] == b'{"sent":true}\n', "the note"
        )
        assert ask(partial(dial, http), "/invoices/999999")[0] == 404


def test_stop_waits_for_the_current_task(tasks: Path, http: socket.socket) -> None:
    with serving(tasks, http, 1.5) as server:
        server.wait_until_ready()
        numbers = [add(http, "c") for _ in range(6)]
        server.wait_for(lambda: is_taken(tasks), "a task to be taken")
        server.process.terminate()
        assert server.wait_until_gone() == 0
    done = sum(sent(tasks).values())
    assert 1 <= done <= 4
    with serving(tasks, http, 0.01) as server:
        server.wait_for(lambda: are_done(tasks, numbers), "the others")
    assert set(sent(tasks).values()) == {1}


def test_kill_in_the_middle_of_a_task(tasks: Path, http: socket.socket) -> None:
    with serving(tasks, http, 60) as server:
        server.wait_until_ready()
        numbers = [add(http, "c") for _ in range(3)]
        server.wait_for(lambda: is_taken(tasks), "a task to be taken")
        os.killpg(server.process.pid, signal.SIGKILL)
        server.wait_until_gone()
        server.wait_for(lambda: not server.workers(), "all processes to exit")
    assert not sent(tasks)
    with serving(tasks, http, 0.01) as server:
        server.wait_for(lambda: are_done(tasks, numbers), "all tasks")


def test_threads_survive_errors_of_the_queue(tasks: Path, http: socket.socket) -> None:
    """Nothing would start them again."""
    with serving(tasks, http, 0.01) as server:
        server.wait_until_ready()
        with closing(sqlite3.connect(tasks / "outbox.db", timeout=5)) as database:
            database.execute("ALTER TABLE task RENAME TO away")
            workers = len(server.workers())
            server.wait_for(lambda: server.log.count("no such table") >= workers, "every thread to see it")
            database.execute("ALTER TABLE away RENAME TO task")
        numbers = [add(http, "c") for _ in range(3)]
        server.wait_for(lambda: are_done(tasks, numbers), "all tasks", 5.0)


def test_add_in_the_transaction_of_the_caller(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database:
        database.execute("CREATE TABLE bill (customer TEXT)")
        with database:
            database.execute("INSERT INTO bill VALUES ('kept')")
            outbox.add("invoice", "kept", database)
        database.execute("INSERT INTO bill VALUES ('dropped')")
        outbox.add("invoice", "dropped", database)
        database.rollback()
        assert database.execute("SELECT customer FROM bill").fetchall() == [("kept",)]
    task = outbox.take()
    assert task is not None
    assert task.payload == "kept"
    assert outbox.take() is None


def test_failed_task_is_tried_later_a_limited_number_of_times(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add("invoice", "c")
    for number in range(1, MAX_TRIES + 1):
        task = outbox.take()
        assert task is not None
        assert task.tries == number
        with pytest.raises(KeyError), outbox.working(task):
            raise KeyError
        assert outbox.take() is None  # later
        lapse(tmp_path)
    assert outbox.take() is None
    assert outbox.counts() == {"waiting": 0, "done": 0, "failed": 1}


def test_process_without_a_lease_does_not_free_the_task(tmp_path: Path) -> None:
    """The process was stopped for longer than its lease, and another works on the task."""
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add("invoice", "c")
    late = outbox.take()
    assert late is not None
    lapse(tmp_path)
    other = outbox.take()
    assert other is not None
    before = free_at(tmp_path)
    with pytest.raises(KeyError), outbox.working(late):
        raise KeyError
    assert free_at(tmp_path) == before
    with outbox.working(other):
        pass
    assert outbox.counts() == {"waiting": 0, "done": 1, "failed": 0}


def lapse(folder: Path) -> None:
    """Let the lease, or the pause, of a task expire."""
    with closing(sqlite3.connect(folder / "outbox.db")) as database, database:
        database.execute("UPDATE task SET free_at = 0")


def free_at(folder: Path) -> float:
    with closing(sqlite3.connect(folder / "outbox.db")) as database:
        return float(database.execute("SELECT free_at FROM task").fetchone()[0])
