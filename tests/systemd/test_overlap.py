"""Applications whose old and new workers cannot run at the same time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect, ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, drop_in, release
from tests.support.operations import wait_for_old

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = (EXAMPLES / "app.py").read_text()
#: A port, and an exclusive lock, of its own.
PORT = SOURCE + "import socket\nowned = socket.create_server(('127.0.0.1', 9100))\n"
LOCK = (
    SOURCE + "import fcntl\nowned = open('/var/lib/app/lock', 'w')\nfcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
)
CLI = "/srv/app/venv/bin/flask-socketact"


@pytest.fixture
def alone(rendered: Machine) -> Machine:
    """With one worker: two of one generation could not both hold the resource, either."""
    drop_in(rendered, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--workers 1 --threads 8"\n')
    return rendered


@pytest.mark.parametrize(("source", "what"), [(PORT, "127.0.0.1:9100"), (LOCK, "/var/lib/app/lock")])
@pytest.mark.parametrize("verb", ["restart", "reload"])
def test_the_journal_names_the_process_that_holds_the_resource(
    alone: Machine, tcp: Connect, source: str, what: str, verb: str
) -> None:
    machine = alone
    release(machine, source)
    machine.systemctl("start", "app")
    (before,) = machine.workers("app")
    with Load(tcp, {"new connection": 2}) as load:
        assert machine.systemctl(verb, "app", check=False).returncode != 0
    assert not load.failures()
    unit = r"app-drain-\d+-\d+\.scope" if verb == "restart" else r"app\.service"
    told = rf"{re.escape(what)} is held by process {before} \(gunicorn\) of {unit}\."
    machine.wait_for(lambda: re.search(told, machine.journal("app")) is not None, "the holder to be named")


def test_without_overlap_a_restart_that_waits_for_a_lock_succeeds(alone: Machine, tcp: Connect) -> None:
    """With overlap it never ends: the old worker holds the lock until the new one accepts, which waits for the lock."""
    machine = alone
    release(
        machine, SOURCE + "import fcntl\nowned = open('/var/lib/app/lock', 'w')\nfcntl.flock(owned, fcntl.LOCK_EX)\n"
    )
    machine.systemctl("start", "app")
    with Load(tcp, {"new connection": 2}) as load:
        machine.systemctl("restart", "--no-block", "app")
        machine.wait_for(lambda: bool(machine.scopes("app*")), "the old worker to be relayed")
        machine.wait_for(
            lambda: "Booting worker" in machine.journal("app").rpartition("relay: ")[2], "the new one to wait"
        )
        options = '"GUNICORN_CMD_ARGS=--workers 1 --threads 8" SOCKETACT_OVERLAP=no'
        drop_in(machine, "app.service", f"[Service]\nEnvironment={options}\n")
        machine.systemctl("restart", "app")
        assert not machine.scopes("app*")
    assert not load.failures()


@pytest.fixture
def serial(machine: Machine) -> Iterator[Machine]:
    """Installed without overlap; the application binds a port of its own."""
    before = {path: path.read_bytes() for path in machine.path("/etc/systemd/system").glob("app*") if path.is_file()}
    release(machine, PORT)
    machine.systemctl("stop", "app.service", "app.socket")
    done = machine.run(CLI, "units", "--install", "--no-overlap", "--workers", "1", "--threads", "8")
    for left in re.findall(r"^Warning: .*: (systemctl disable .*)$", done.stderr, re.MULTILINE):
        machine.run("sh", "-c", left)
    machine.systemctl("start", "app.socket", "app.service")
    yield machine
    machine.systemctl("stop", "app.service", "app.socket")
    for path, text in before.items():
        path.write_bytes(text)
    machine.systemctl("daemon-reload")


def test_without_overlap_clients_wait_and_nothing_is_lost(
    serial: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    machine = serial
    with Load(tcp, {"new connection": 4, "keep-alive": 4, "long request": 2, "slow upload": 2}) as load:
        for _ in range(3):
            machine.wait_for(lambda: ask(tcp)[0] == 200, "an answer")
            machine.systemctl("restart", "app")
            assert machine.scopes("app") == []
    wait_for_old(machine)
    assert not load.failures(), machine.journal("app")[-3000:]
    figure(f"3 restarts: {load.requests} requests, 0 failed, longest wait {load.longest_wait():.2f} s")
    assert machine.systemctl("reload", "app", check=False).returncode != 0
    told = "in a restart the old workers exit before new ones start, and clients wait (--no-overlap)"
    assert told in machine.run(CLI, "status", "app").stdout
    done = machine.run(CLI, "doctor", "app", check=False)
    assert (done.returncode, "error" in done.stdout) == (0, False), done.stdout
    assert "ok       relay: in a restart of app.service the old workers exit first" in done.stdout
