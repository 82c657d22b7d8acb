"""What the sandbox refuses: the journal and ``doctor`` name the directive, and that directive helps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect, ask
from tests.support.machine import Machine, drop_in, release

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
#: Each view does what applications do that were moved below the units.
APPLICATION = """
import os, socket, sqlite3
from contextlib import closing
from flask import Flask

app = Flask(__name__)
app.config["DATABASE"] = "/srv/app/instance/new.db"
DATABASE = "/srv/app/instance/shop.db"

@app.get("/upload/<name>")
def upload(name):
    with open(os.path.join("/srv/app/uploads", name), "w") as file:
        return str(file.write("x"))

@app.get("/handled")
def handled():
    try:
        return upload("picture")
    except OSError as error:
        app.logger.warning("not saved: %s", error)
        return "kept"

@app.get("/database")
def database():
    with closing(sqlite3.connect(DATABASE)) as connection:
        connection.execute("create table if not exists orders (number integer)")
        connection.execute("insert into orders values (1)")
        connection.commit()
    return "sold"

@app.get("/new-database")
def new_database():
    with closing(sqlite3.connect(app.config["DATABASE"])) as connection:
        connection.execute("create table if not exists orders (number integer)")
    return "made"

@app.get("/engine/<name>")
def engine(name):
    from sqlalchemy import create_engine, text
    with create_engine(f"sqlite:////srv/app/instance/{name}.db").begin() as connection:
        connection.execute(text("create table if not exists orders (number integer)"))
        connection.execute(text("insert into orders values (1)"))
    return "sold"

@app.get("/cache")
def cache():
    os.makedirs("/home/app/.cache/shop", exist_ok=True)
    return "cached"

@app.get("/log")
def log():
    os.makedirs("/var/log/shop", exist_ok=True)
    with open("/var/log/shop/access.log", "a") as file:
        return str(file.write("x"))

@app.get("/interfaces")
def interfaces():
    return str(len(socket.if_nameindex()))

@app.get("/packets")
def packets():
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    except OSError as error:
        app.logger.exception("no packets")
        return str(error.errno)

@app.get("/never/<what>")
def never(what):
    if what == "shadow":
        open("/etc/shadow")
    elif what == "etc":
        open("/etc/shop.conf", "w")
    elif what == "folder":
        open("/srv/app/rooted/file", "w")
    elif what == "proc":
        open("/proc/sys/vm/swappiness", "w")
    else:
        raise OSError(30, "Read-only file system")
"""
PREPARE = """
mkdir -p /srv/app/uploads /srv/app/instance /srv/app/rooted /home/app/.cache
rm -rf /srv/app/uploads/* /srv/app/instance/* /home/app/.cache/* /var/log/shop
python3 - <<'END'
import sqlite3
with sqlite3.connect("/srv/app/instance/shop.db") as database:
    database.execute("create table orders (number integer)")
END
chown -R app:app /srv/app/uploads /srv/app/instance /home/app
"""
LINE = r"The sandbox of app\.service .+"


@pytest.fixture
def shop(machine: Machine) -> Iterator[Machine]:
    machine.run("sh", "-c", PREPARE)
    machine.run("journalctl", "--rotate")
    machine.run("journalctl", "--vacuum-size=1K")
    release(machine, APPLICATION)
    yield machine
    machine.run("rm", "-rf", "/srv/app/uploads", "/srv/app/instance", "/srv/app/rooted", "/home/app", "/var/log/shop")


def lines(machine: Machine) -> list[str]:
    machine.run("journalctl", "--sync")
    return re.findall(LINE, machine.journal("app.service"))


def allow(machine: Machine, line: str) -> None:
    """Do what a line tells."""
    assert line.endswith(" with: systemctl edit app.service")
    directive = re.search(r": add (\S+=\S+) with: ", line)
    assert directive, line
    drop_in(machine, "app.service", f"[Service]\n{directive[1]}\n", "allowed.conf")
    machine.systemctl("restart", "app")


@WORKERS
def test_what_is_refused_is_told_once(shop: Machine, tcp: Connect, worker: str) -> None:
    drop_in(shop, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS=-k flask_socketact.workers.{worker}"\n')
    for name in ("a", "b", "c", "d"):
        assert ask(tcp, f"/upload/{name}")[0] == 500
    (line,) = lines(shop)
    assert line == (
        "The sandbox of app.service made writing to /srv/app/uploads/a fail (Read-only file system): "
        "add ReadWritePaths=/srv/app/uploads with: systemctl edit app.service"
    )
    allow(shop, line)
    assert ask(tcp, "/upload/a") == (200, b"1")
    assert len(lines(shop)) == 1


@pytest.mark.parametrize(
    ("path", "directive"),
    [
        ("/handled", "ReadWritePaths=/srv/app/uploads"),
        ("/database", "ReadWritePaths=/srv/app/instance"),
        ("/new-database", "ReadWritePaths=/srv/app/instance"),
        ("/engine/shop", "ReadWritePaths=/srv/app/instance"),
        ("/engine/new", "ReadWritePaths=/srv/app/instance"),
        ("/log", "LogsDirectory=shop"),
        ("/interfaces", "RestrictAddressFamilies=AF_NETLINK"),
        ("/packets", "RestrictAddressFamilies=AF_PACKET"),
    ],
)
def test_the_directive_helps(shop: Machine, tcp: Connect, path: str, directive: str) -> None:
    before = ask(tcp, path)
    (line,) = lines(shop)
    assert f": add {directive} with: " in line
    allow(shop, line)
    assert ask(tcp, path) != before
    assert lines(shop) == [line]


#: The second does what ``tmpfs`` does, with kernels that ignore its options in a container, too.
@pytest.mark.parametrize("hides", ["ProtectHome=yes", "ProtectHome=no\nTemporaryFileSystem=/home:ro"])
def test_a_hidden_home(shop: Machine, tcp: Connect, hides: str) -> None:
    drop_in(shop, "app.service", f"[Service]\n{hides}\n")
    assert ask(tcp, "/cache")[0] == 500
    (line,) = lines(shop)
    assert line.startswith("The sandbox of app.service hides /home and so made /home/app")
    assert "set ProtectHome=read-only, and ReadWritePaths= for what it writes there, with: systemctl edit" in line
    drop_in(shop, "app.service", "[Service]\nProtectHome=read-only\nReadWritePaths=/home/app/.cache\n")
    shop.systemctl("restart", "app")
    assert ask(tcp, "/cache") == (200, b"cached")


def test_what_the_sandbox_has_not_refused_is_not_told(shop: Machine, tcp: Connect) -> None:
    for what in ("shadow", "etc", "folder", "proc", "unknown"):
        assert ask(tcp, f"/never/{what}")[0] == 500
    assert lines(shop) == []
    assert "/etc/shop.conf" in shop.journal("app.service")  # the errors themselves are


def test_a_client_cannot_break_the_line(shop: Machine, tcp: Connect) -> None:
    assert ask(tcp, "/upload/a%0AForged%1b%5b31m%E2%80%AE")[0] == 500
    (line,) = lines(shop)
    assert "/srv/app/uploads/a?Forged?[31m? fail" in line


@pytest.mark.parametrize("preload", ["", "--preload"])
def test_at_import(shop: Machine, tcp: Connect, preload: str) -> None:
    """A release that writes while it is imported, below the logging that it sets up."""
    drop_in(shop, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={preload}"\n')
    sets_up = "import logging.config\nlogging.config.dictConfig({'version': 1})\n"
    release(shop, f"{sets_up}open('/srv/app/uploads/started', 'w')\n{APPLICATION}")
    assert shop.systemctl("start", "app", check=False).returncode != 0
    shop.wait_for(lambda: bool(lines(shop)), "a line in the journal")
    assert ": add ReadWritePaths=/srv/app/uploads with: " in lines(shop)[0]
    allow(shop, lines(shop)[0])
    assert ask(tcp, "/upload/a") == (200, b"1")


def test_doctor_names_data_that_cannot_be_written(shop: Machine) -> None:
    shop.run("chown", "app", "/srv/app")
    shop.run("cp", "--preserve", "/srv/app/instance/shop.db", "/srv/app/shop.sqlite")
    shop.run("ln", "-s", "/etc", "/srv/app/media")
    try:
        found = sandbox(shop)
        assert found.startswith(
            "warning  sandbox: app.service may write to /var/lib/app, /run/app-metrics and a private"
        )
        assert "not to its data: /srv/app/instance/, /srv/app/shop.sqlite and /srv/app/uploads/. Set Read" in found
        assert "ReadWritePaths=/srv/app (systemctl edit app.service), or move the data to /var/lib/app" in found
        drop_in(shop, "app.service", "[Service]\nReadWritePaths=/srv/app\nBindPaths=/srv/app/uploads:/run/uploads\n")
        found = sandbox(shop)
        assert found.startswith("ok ")
        assert "may write to /var/lib/app, /run/app-metrics, /srv/app, /run/uploads and a private /tmp; for" in found
    finally:
        shop.run("rm", "/srv/app/media", "/srv/app/shop.sqlite")
        shop.run("chown", "root", "/srv/app")


def sandbox(machine: Machine) -> str:
    """Return doctor's line about the sandbox."""
    done = machine.run("/srv/app/venv/bin/flask-socketact", "doctor", "app", check=False)
    return next(line for line in done.stdout.splitlines() if " sandbox: " in line)
