"""``units --from``: a service with units that were written by hand gets ours, and works as before."""

from __future__ import annotations

import re
import shutil
import sqlite3
from functools import partial
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from flask_socketact.errors import RequestError
from tests.support.http import ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, install
from tests.support.operations import CLIENTS, wait_for_old

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLI = "/srv/app/venv/bin/flask-socketact"
#: Writes next to its code, in its home and in its log; reads its secret, and settings with spaces and quotes.
SHOP = """
import os, sqlite3
database = sqlite3.connect("shop.sqlite", check_same_thread=False)
database.execute("CREATE TABLE IF NOT EXISTS orders (number)")
database.commit()

@app.get("/order")
def order():
    with database:
        database.execute("INSERT INTO orders VALUES (1)")
    for path in ("uploads/a", "~/.cache/b", "/var/log/shop/c"):
        with open(os.path.expanduser(path), "a") as file:
            file.write("x")
    return "|".join((os.environ["SECRET_KEY"], os.environ["GREETING"], os.environ["FROM_HOOK"], os.environ["HOME"]))
"""
UNIT = r"""
    [Unit]
    Description=The shop
    After=network.target

    [Service]
    User=shop
    Group=shop
    WorkingDirectory=/home/shop/site
    EnvironmentFile=/etc/shop.env
    EnvironmentFile=-/etc/shop.local.env
    Environment="GREETING=50%% off, \"today\"" \
        OTHER=1
    ExecStartPre=/bin/sh -c 'echo ran >/var/log/shop/pre'
    ExecStart=/srv/app/venv/bin/gunicorn --threads 8 \
        --timeout 90 --access-logformat '%%(h)s "%%(r)s"' --access-logfile - app:app
    ExecReload=/bin/kill -s HUP $MAINPID
    RuntimeDirectory=shop
    LimitNOFILE=5000
    MemoryMax=500M
    Restart=always
    PrivateTmp=true

    [Install]
    WantedBy=multi-user.target
    """


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine, "app")
        machine.run("useradd", "--system", "--create-home", "--home-dir", "/home/shop", "shop")
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """A service that an administrator has written for gunicorn, running."""
    folder = booted.path("/home/shop/site")
    for path in (folder / "uploads", booted.path("/home/shop/.cache"), booted.path("/var/log/shop")):
        path.mkdir(parents=True, exist_ok=True)
    (folder / "app.py").write_text((EXAMPLES / "app.py").read_text() + SHOP)
    (folder / "gunicorn.conf.py").write_text(
        "bind = '127.0.0.1:8100'\nworkers = 3\npidfile = '/tmp/pid'\n"
        "def post_fork(server, worker):\n    import os\n    os.environ['FROM_HOOK'] = 'hooked'\n"
    )
    booted.run("chown", "--recursive", "shop:shop", "/home/shop", "/var/log/shop")
    booted.path("/etc/shop.env").write_text("SECRET_KEY=secret\n")
    booted.path("/etc/systemd/system/shop.service").write_text(dedent(UNIT))
    booted.systemctl("daemon-reload")
    booted.systemctl("restart", "shop")
    booted.wait_for(lambda: page(booted)[0] == 200, "gunicorn")
    return booted


def page(machine: Machine) -> tuple[int, bytes]:
    try:
        return ask(partial(machine.connect, ("127.0.0.1", 8100)), "/order")
    except RequestError:
        return 0, b""


def test_a_service_works_as_before(machine: Machine, tmp_path: Path, figure: Callable[[str], None]) -> None:
    expected = page(machine)
    assert expected[1] == b'secret|50% off, "today"|hooked|/home/shop'
    done = machine.run(CLI, "units", "--from", "shop", "--install")
    (commands,) = re.findall(r"^  (systemctl stop .*)$", done.stdout, re.MULTILINE)
    machine.run("sh", "-c", commands)
    assert page(machine) == expected
    connect = partial(machine.connect, ("127.0.0.1", 8100))
    with Load(connect, CLIENTS) as load:
        for verb in ("restart", "reload", "restart"):
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 50, "responses")  # type: ignore[misc]
            machine.systemctl(verb, "shop")
            wait_for_old(machine, "shop")
    assert not load.failures()
    assert load.closed_by_server == 0
    assert page(machine) == expected
    copy = tmp_path / "shop.sqlite"
    shutil.copy(machine.path("/home/shop/site/shop.sqlite"), copy)
    with sqlite3.connect(copy) as database:
        assert database.execute("SELECT count(*) FROM orders").fetchone()[0] >= 3
    assert len(machine.workers("shop")) == 3
    assert machine.show("shop", "LimitNOFILE") == "5000"
    assert machine.show("shop", "MemoryMax") == str(500 * 1024 * 1024)
    assert machine.path("/var/log/shop/pre").read_text() == "ran\n"
    assert '"GET /order HTTP/1.1"' in machine.journal("shop")
    assert machine.run(CLI, "doctor", "shop").returncode == 0
    figure(f"{load.requests} requests, 0 failed, 0 closed; {done.stderr.count('Note: ')} notes")
    machine.run(CLI, "units", "--again", "shop", "--workers", "2")
    machine.systemctl("restart", "shop")
    wait_for_old(machine, "shop")
    assert len(machine.workers("shop")) == 2
    assert page(machine) == expected
    told = machine.run(CLI, "units", "--from", "shop", check=False)
    assert (told.returncode, told.stderr.count("\n")) == (3, 1)
    assert "was made by flask-socketact: use --again shop" in told.stderr
    remove(machine)


def remove(machine: Machine) -> None:
    """Remove the service; the command says what remains, and how to go back."""
    done = machine.run(CLI, "units", "--remove", "shop")
    assert page(machine) == (0, b"")
    folder = machine.path("/etc/systemd/system")
    assert sorted(path.name for path in folder.glob("shop*")) == ["shop.service.old"]
    assert machine.path("/usr/local/lib/flask-socketact/relay").exists()  # app needs it
    old, *others = re.findall(r"^  (.*)$", done.stdout, re.MULTILINE)
    assert others == [
        "/var/lib/shop: the data of the application",
        "/var/log/shop",
        "/home/shop/site: the application",
        "the user shop",
    ]
    told = machine.run(CLI, "units", "--remove", "shop", check=False)
    assert told.returncode == 3
    assert "there is no /etc/systemd/system/shop.service that flask-socketact has made" in told.stderr
    machine.run("sh", "-c", old.partition("type: ")[2])
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "shop")
    machine.wait_for(lambda: page(machine)[0] == 200, "the unit of before")
