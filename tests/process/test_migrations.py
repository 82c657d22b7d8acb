"""docs/migrations.md: a column gets another name, while clients read and write."""

from __future__ import annotations

import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.http import Client, ask
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.conftest import Folder

PAGE = (Path(__file__).parents[2] / "docs/migrations.md").read_text()
EXPAND, FILL, CONTRACT = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
(MIGRATE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TABLE = "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT)"
CLIENTS = 3
SOURCE = """
import sqlite3
from contextlib import closing
from flask import Flask
from flask_socketact import SocketAct

app = Flask(__name__)
SocketAct(app)

def execute(statement, *values):
    with closing(sqlite3.connect("app.db", timeout=20)) as db, db:
        return db.execute(statement, values).fetchall()

@app.get("/")
def names():
    rows = execute("SELECT {read} FROM customer ORDER BY id DESC LIMIT 20")
    assert all(name for (name,) in rows), rows
    return "RELEASE " + str(len(rows))

@app.post("/<name>")
def add(name):
    execute("INSERT INTO customer ({columns}) VALUES ({marks})", *[name] * {number})
    return name
"""


def release(name: str, read: str, *columns: str) -> str:
    marks = ", ".join("?" * len(columns))
    source = SOURCE.format(read=read, columns=", ".join(columns), marks=marks, number=len(columns))
    return source.replace("RELEASE", name)


OLD = release("old", "name", "name")
BOTH = release("both", "COALESCE(full_name, name)", "name", "full_name")
NEW = release("new", "full_name", "full_name")


class Service:
    """The service with its database, and clients that read and write."""

    def __init__(self, folder: Folder, http: socket.socket) -> None:
        self._folder = folder
        self._connect = partial(dial, http)
        self.path = folder(OLD)
        self.database = self.path / "app.db"
        self.migrate(TABLE)
        self.statuses: list[int] = []
        self._done = threading.Event()
        self._clients = [threading.Thread(target=self._visit) for _ in range(CLIENTS)]
        self.server = Server(self.path, *CONF, "-w", "2", "app:app", listeners={"http": http})

    def migrate(self, statement: str) -> None:
        with closing(sqlite3.connect(self.database, timeout=20)) as db, db:
            db.execute(statement)

    def deploy(self, source: str) -> None:
        self._folder(source)
        done = self.server.log.count("Reloaded")
        self.server.signal(signal.SIGHUP)
        self.server.wait_for(lambda: self.server.log.count("Reloaded") > done, "the reload")

    def begin(self) -> None:
        for client in self._clients:
            client.start()

    def end(self) -> None:
        self._done.set()
        for client in self._clients:
            client.join()

    def wait_for_requests(self) -> None:
        wanted = len(self.statuses) + 30
        self.server.wait_for(lambda: len(self.statuses) >= wanted, "requests")

    def ask(self) -> tuple[int, bytes]:
        return ask(self._connect)

    def _visit(self) -> None:
        client = Client(self._connect)
        while not self._done.wait(0.02):
            for method, target in (("POST", "/Ada"), ("GET", "/")):
                self.statuses.append(client.exchange(method, target)[0])
        client.close()


def test_expand_and_contract(folder: Folder, http: socket.socket, figure: Callable[[str], None]) -> None:
    """Old and new releases run at the same time, and with each state of the database."""
    service = Service(folder, http)
    with service.server as served:
        served.wait_until_ready()
        service.begin()
        try:
            for step in (
                partial(service.migrate, EXPAND),
                partial(service.deploy, BOTH),
                partial(service.migrate, FILL),
                partial(service.deploy, NEW),
                partial(service.migrate, CONTRACT),
            ):
                service.wait_for_requests()
                step()
            service.wait_for_requests()
        finally:
            service.end()
        assert service.ask() == (200, b"new 20")
    assert set(service.statuses) == {200}
    figure(f"{len(service.statuses)} requests during three migrations and two reloads, none failed")


def test_rename_breaks_the_old_release(folder: Folder, http: socket.socket) -> None:
    service = Service(folder, http)
    with service.server as served:
        served.wait_until_ready()
        assert service.ask()[0] == 200
        service.migrate("ALTER TABLE customer RENAME COLUMN name TO full_name")
        assert service.ask()[0] == 500


def test_several_processes_migrate(tmp_path: Path) -> None:
    code = f"{MIGRATE}\nimport sys\nmigrate(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "app.db")]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    with closing(sqlite3.connect(tmp_path / "app.db")) as db:
        assert db.execute("SELECT count(*) FROM customer").fetchone() == (0,)
