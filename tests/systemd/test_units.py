"""The unit files in examples/units, unchanged."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Client, Connect, ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, release

if TYPE_CHECKING:
    from collections.abc import Callable

#: The first worker serves, the second loads forever.
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

#: Responds when the request's child process has ended.
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


def test_systemd_analyze_accepts_the_example_units(machine: Machine) -> None:
    done = machine.run("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}" for unit in UNITS))
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("service", ["app", "app-unix"])
def test_the_exposure_of_the_service_is_low(machine: Machine, service: str) -> None:
    done = machine.run("systemd-analyze", "security", "--threshold=20", service)
    assert "Overall exposure level" in done.stdout


def test_the_service_can_write_only_to_its_own_folders(machine: Machine, tcp: Connect) -> None:
    release(machine, PROGRAM)
    assert ask(tcp, "/write/var/lib/app/file") == (200, b"written")
    assert ask(tcp, "/write/tmp/file") == (200, b"written")
    assert not machine.path("/tmp/file").exists()  # noqa: S108 (the service has its own)
    for path in ("srv/app/app.py", "etc/file", "var/tmp/../file", "usr/file"):
        assert ask(tcp, f"/write/{path}")[1] in (b"Read-only file system", b"Permission denied")


@pytest.mark.parametrize("verb", ["restart", "stop"])
def test_a_child_process_of_a_request_survives(machine: Machine, tcp: Connect, verb: str) -> None:
    """It moves with its worker, and no signal of the relay ends it; in a stop, only the master gets SIGTERM."""
    release(machine, PROGRAM)
    machine.systemctl("start", "app")
    answers: list[tuple[int, bytes]] = []
    request = threading.Thread(target=lambda: answers.append(ask(tcp)))
    request.start()
    machine.wait_for(lambda: "sleep" in machine.systemctl("status", "app").stdout, "the program to run")
    machine.systemctl(verb, "app")
    request.join()
    assert answers == [(200, b"done\n")]


def test_a_stop_during_a_start_finishes_requests(machine: Machine, tcp: Connect) -> None:
    """One worker serves already; systemd runs no ``ExecStop=`` for a service that is not ready."""
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


def test_a_killed_master_interrupts_no_request(machine: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    """Idle connections are handed over to the workers that systemd starts."""
    machine.systemctl("start", "app")
    idle = Client(tcp)
    idle.exchange("GET", "/")
    with Load(tcp) as load:
        for _ in range(KILLS):
            seen, restarts = load.requests, int(machine.show("app", "NRestarts"))
            machine.wait_for(lambda seen=seen: load.requests > seen + 50, "responses")  # type: ignore[misc]
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
