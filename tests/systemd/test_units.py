"""The files in examples/units, as they stand."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Client, Connect, ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, release

if TYPE_CHECKING:
    from collections.abc import Callable

#: The first worker serves, the second loads for ever.
ONE_LOADS = """
import os, time
from flask import Flask
app = Flask(__name__)

try:
    os.close(os.open("/var/lib/app/first", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    time.sleep(3600)

@app.get("/")
def asked():
    open("/var/lib/app/asked", "w").close()
    time.sleep(2)
    return "done\\n"
"""

KILLS = 3

UNITS = sorted(path.name for path in (EXAMPLES / "units").iterdir())

#: Answers after a program that the request has started is done.
PROGRAM = """
import subprocess
from flask import Flask
app = Flask(__name__)

@app.get("/")
def program():
    return subprocess.run(["sh", "-c", "sleep 3; echo done"], capture_output=True, check=True).stdout

@app.get("/write/<path:path>")
def write(path):
    try:
        open("/" + path, "w").close()
    except OSError as error:
        return error.strerror
    return "written"
"""


def test_units_are_correct(machine: Machine) -> None:
    done = machine.run("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}" for unit in UNITS))
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("service", ["app", "app-unix"])
def test_exposure_is_low(machine: Machine, service: str) -> None:
    done = machine.run("systemd-analyze", "security", "--threshold=20", service)
    assert "Overall exposure level" in done.stdout


def test_service_writes_only_where_it_should(machine: Machine, tcp: Connect) -> None:
    release(machine, PROGRAM)
    assert ask(tcp, "/write/var/lib/app/file") == (200, b"written")
    assert ask(tcp, "/write/tmp/file") == (200, b"written")
    assert not machine.path("/tmp/file").exists()  # noqa: S108 (the service has its own)
    for path in ("srv/app/app.py", "etc/file", "var/tmp/../file", "usr/file"):
        assert ask(tcp, f"/write/{path}")[1] in (b"Read-only file system", b"Permission denied")


@pytest.mark.parametrize("verb", ["restart", "stop"])
def test_program_of_a_request_survives(machine: Machine, tcp: Connect, verb: str) -> None:
    """It moves with its worker, and the relay's signals do not end it; in a stop SIGTERM is the master's alone."""
    release(machine, PROGRAM)
    machine.systemctl("start", "app")
    answers: list[tuple[int, bytes]] = []
    request = threading.Thread(target=lambda: answers.append(ask(tcp)))
    request.start()
    machine.wait_for(lambda: "sleep" in machine.systemctl("status", "app").stdout, "the program to run")
    machine.systemctl(verb, "app")
    request.join()
    assert answers == [(200, b"done\n")]


def test_stop_while_it_starts(machine: Machine, tcp: Connect) -> None:
    """systemd runs no ExecStop= for a service that is not ready; one worker answers a request already."""
    release(machine, ONE_LOADS)
    answers: list[tuple[int, bytes]] = []
    request = threading.Thread(target=lambda: answers.append(ask(tcp)))
    request.start()
    machine.wait_for(machine.path("/var/lib/app/asked").exists, "the request to be in the view")
    assert machine.show("app", "ActiveState") == "activating"
    machine.systemctl("stop", "app")
    request.join()
    assert answers == [(200, b"done\n")]
    assert machine.show("app", "Result") == "success"


def test_master_that_is_killed_takes_no_request_with_it(
    machine: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    """Nor an idle connection: the workers leave it in the mailbox for those that systemd starts."""
    machine.systemctl("start", "app")
    idle = Client(tcp)
    idle.exchange("GET", "/")
    with Load(tcp) as load:
        for _ in range(KILLS):
            seen, restarts = load.requests, int(machine.show("app", "NRestarts"))
            machine.wait_for(lambda seen=seen: load.requests > seen + 50, "answers")  # type: ignore[misc]
            machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", "app")
            machine.wait_for(
                lambda restarts=restarts: int(machine.show("app", "NRestarts")) > restarts,  # type: ignore[misc]
                "systemd to restart the service",
            )
            machine.systemctl("start", "app")
    assert not load.failures()
    assert load.closed_by_server == 0
    assert idle.exchange("GET", "/")[0] == 200
    assert idle.closed_by_server == 0
    idle.close()
    figure(f"{KILLS} kills, {load.requests} requests, {load.failures().total()} failed, 0 connections closed")
