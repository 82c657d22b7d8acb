"""``preload_app`` keeps the promises, in restarts and reloads of the unit that ``flask-socketact units`` writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect
from tests.support.load import Load
from tests.support.machine import Machine, drop_in, release
from tests.support.operations import BROKEN, CLIENTS, LONGEST_WAIT, SHORT, SLOW, held_release, wait_for_old

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPERATIONS = ("restart", "reload", "restart", "reload")


def preload(machine: Machine, arguments: str = "") -> None:
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS=--preload --threads 8 {arguments}"\n')


def loads(machine: Machine) -> int:
    return machine.journal("app").count("Loading the application for all workers")


@pytest.mark.parametrize("worker", ["thread", "gevent"])
def test_no_client_notices_restarts_and_reloads(
    rendered: Machine, tcp: Connect, figure: Callable[[str], None], worker: str
) -> None:
    """Of a release that loads for 1.5 s, with four workers that are recycled, too."""
    machine = rendered
    preload(machine, f"-w 4 --max-requests 500 -k flask_socketact.workers.{worker}.{worker.title()}Worker")
    release(machine, SLOW)
    before = loads(machine)
    machine.systemctl("start", "app")
    took = []
    with Load(tcp, CLIENTS) as load:
        for verb in OPERATIONS:
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 100, "responses")  # type: ignore[misc]
            began = time.monotonic()
            machine.systemctl(verb, "app")
            took.append(time.monotonic() - began)
            wait_for_old(machine)
    assert not load.failures()
    assert load.closed_by_server == 0
    assert load.longest_wait(*SHORT) < LONGEST_WAIT
    assert loads(machine) - before == 1 + len(OPERATIONS)
    machine.wait_for(lambda: len(machine.processes("app.service")) == 2 + 4, "a master, a loader and four workers")
    assert "Serving with 4 of 4 workers" in machine.show("app", "StatusText")
    figure(
        f"{worker}: {len(OPERATIONS)} restarts and reloads, {load.requests} requests, {load.failures().total()} "
        f"failed, {load.closed_by_server} connections closed, longest wait {load.longest_wait(*SHORT):.3f} s, "
        f"longest operation {max(took):.1f} s for a load of 1.5 s"
    )


def test_a_release_that_does_not_load_changes_nothing(rendered: Machine, tcp: Connect) -> None:
    machine = rendered
    preload(machine)
    machine.systemctl("start", "app")
    release(machine, BROKEN)
    with Load(tcp, CLIENTS) as load:
        assert machine.systemctl("reload", "app", check=False).returncode != 0
        assert "Reload failed (RuntimeError at /srv/app/app.py:" in machine.show("app", "StatusText")
        assert machine.systemctl("restart", "app", check=False).returncode != 0
        machine.wait_for(lambda: int(machine.show("app", "NRestarts")) >= 1, "another try")
        release(machine)
        machine.systemctl("restart", "app")
    assert not load.failures()
    assert load.closed_by_server == 0
    assert "RuntimeError: no database" in machine.journal("app")


def test_a_restart_and_a_stop_while_the_application_loads(rendered: Machine, tcp: Connect, hold: Path) -> None:
    """The loader that is at work ends with its master."""
    machine = rendered
    preload(machine)
    before = loads(machine)
    held_release(machine, hold)
    with Load(tcp, CLIENTS) as load:
        for number in (1, 2):
            machine.systemctl("restart", "--no-block", "app")
            machine.wait_for(lambda number=number: loads(machine) - before == 1 + number, "the loader")  # type: ignore[misc]
        hold.unlink()
        machine.wait_for(lambda: machine.show("app", "ActiveState") == "active", "the second restart")
        wait_for_old(machine)
    assert not load.failures()
    assert load.closed_by_server == 0
    hold.touch()
    machine.systemctl("restart", "--no-block", "app")
    machine.wait_for(lambda: loads(machine) - before == 4, "the loader")
    began = time.monotonic()
    machine.systemctl("stop", "app.socket", "app.service")
    assert time.monotonic() - began < 10
    assert machine.show("app", "Result") == "success"
    assert machine.run("pgrep", "--uid", "app", check=False).stdout == ""


def test_doctor_and_status_see_only_workers(rendered: Machine) -> None:
    machine = rendered
    preload(machine)
    machine.systemctl("start", "app")
    doctor = machine.run("/srv/app/venv/bin/flask-socketact", "doctor", "app", check=False)
    assert "error" not in doctor.stdout.lower(), doctor.stdout
    status = machine.run("/srv/app/venv/bin/flask-socketact", "status", "app").stdout
    assert "loader" not in status
