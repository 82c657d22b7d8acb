"""Which databases and address families an exception is about."""

from __future__ import annotations

import errno
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from flask import Flask, current_app

from flask_socketact.logs import refused_paths

CONFIGURED = "/nowhere/global.db"


def error_of(connect: Callable[[], object]) -> sqlite3.OperationalError:
    with pytest.raises(sqlite3.OperationalError) as caught:
        connect()
    return caught.value


def connect_to_argument(path: str | Path) -> object:
    return sqlite3.connect(path)


def connect_to_global() -> object:
    return sqlite3.connect(CONFIGURED)


def connect_to_constant() -> object:
    return sqlite3.connect("/nowhere/constant.db")


def connect_to_configured() -> object:
    return sqlite3.connect(current_app.config["PLACE"])


def test_open_databases(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("SQLite")
    with closing(sqlite3.connect(tmp_path / "a b.db")) as database, (tmp_path / "other").open():
        database.execute("create table orders (number)")
        found = [path for path, _ in refused_paths._open_databases() if path.startswith(str(tmp_path))]
        assert found == [str(tmp_path / "a b.db")]


@pytest.mark.parametrize(
    ("connect", "path"),
    [
        (partial(connect_to_argument, "/nowhere/shop.db"), "/nowhere/shop.db"),
        (partial(connect_to_argument, Path("/nowhere/shop.sqlite")), "/nowhere/shop.sqlite"),
        (connect_to_global, CONFIGURED),
        (connect_to_constant, "/nowhere/constant.db"),
        (connect_to_configured, "/nowhere/flask.db"),
    ],
)
def test_databases_by_name(connect: Callable[[], object], path: str) -> None:
    app = Flask(__name__)
    app.config["PLACE"] = "/nowhere/flask.db"
    with app.app_context():
        assert refused_paths._named_databases(error_of(connect)) == [path]


def test_a_database_without_a_name() -> None:
    assert refused_paths._named_databases(sqlite3.OperationalError()) == []


def test_family_of_a_socket() -> None:
    with pytest.raises(OSError, match="Errno") as caught:
        socket.socket(socket.AF_UNIX, 15)
    assert refused_paths._family(caught.value) == socket.AF_UNIX
    assert refused_paths._family(OSError(errno.EAFNOSUPPORT, "")) is None


def test_chains_end() -> None:
    error = OSError(errno.EROFS, "", "/none")
    error.__cause__ = error
    assert list(refused_paths.refusals(error)) == []
    assert list(refused_paths.refusals(OSError(errno.EACCES, "", 7))) == []
