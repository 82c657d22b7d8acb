"""The idle exit: a service without connections exits, and starts with the next connection."""

from __future__ import annotations

import random
import statistics
import threading
import time
from typing import TYPE_CHECKING

import pytest

from flask_socketact.errors import RequestError
from tests.support.http import Client, Connect, ask
from tests.support.machine import Machine, drop_in

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE = 1  #: seconds
SHORT_IDLE = 0.15  #: seconds: about as long as leaving takes
#: How many connections arrive just when the service exits, for each of two services.
TIMES = 8


def leaves(machine: Machine, kind: str = "thread.ThreadWorker") -> None:
    options = f"-k flask_socketact.workers.{kind} --keep-alive 60"
    drop_in(
        machine,
        "app.service",
        f'[Service]\nEnvironment=SOCKETACT_IDLE_EXIT={IDLE} "GUNICORN_CMD_ARGS={options}"\n',
    )


def is_gone(machine: Machine) -> bool:
    return machine.show("app", "ActiveState") == "inactive"


def exits(machine: Machine, *names: str) -> int:
    """Return how often services have exited so far."""
    journals = map(machine.journal, names or ("app",))
    return sum(journal.count("exiting, the next one starts the service") for journal in journals)


@pytest.mark.parametrize("kind", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
def test_an_idle_service_exits_and_starts_with_the_next_connection(machine: Machine, tcp: Connect, kind: str) -> None:
    leaves(machine, kind)
    before = exits(machine)
    for _ in range(2):
        assert ask(tcp)[0] == 200
        machine.wait_for(lambda: machine.show("app", "ActiveState") == "active", "the service to be up")
        machine.wait_for(lambda: is_gone(machine), "the service to leave")
        assert machine.show("app", "Result") == "success"
        assert machine.show("app", "ExecMainStatus") == "0"
        assert machine.show("app.socket", "ActiveState") == "active"
    assert exits(machine) == before + 2


def test_an_open_connection_prevents_the_idle_exit(machine: Machine, tcp: Connect) -> None:
    leaves(machine)
    client = Client(tcp)
    client.exchange("GET", "/")
    deadline = time.monotonic() + 4 * IDLE
    machine.wait_for(lambda: time.monotonic() > deadline, "some idle times to pass")
    assert machine.show("app", "ActiveState") == "active"
    assert client.exchange("GET", "/")[0] == 200
    assert client.closed_by_server == 0
    client.close()
    machine.wait_for(lambda: is_gone(machine), "the service to leave")


def arrive(connect: Connect, cold: list[float], failures: list[str]) -> None:
    """Connect while the service exits, just after, or while it starts; some send nothing at first."""
    for number in range(TIMES):
        time.sleep(random.uniform(0, 4 * SHORT_IDLE))  # noqa: S311 (no secret)
        began = time.monotonic()
        client = Client(connect)
        with connect() as silent:
            try:
                status, _ = client.exchange("GET", "/")
                if status != 200:
                    failures.append(str(status))
            except RequestError as error:
                failures.append(str(error))
            cold.append(time.monotonic() - began)
            client.close()
            time.sleep(random.uniform(0, 4 * SHORT_IDLE) if number % 2 else 0)  # noqa: S311
            silent.sendall(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
            if not silent.recv(65536).startswith(b"HTTP/1.1 200"):
                failures.append("a connection that was silent first")


def test_a_connection_that_arrives_during_the_idle_exit_is_served(
    machine: Machine, tcp: Connect, unix: Connect, figure: Callable[[str], None]
) -> None:
    for unit in ("app.service", "app-unix.service"):
        drop_in(machine, unit, f"[Service]\nEnvironment=SOCKETACT_IDLE_EXIT={SHORT_IDLE}\n")
    before = exits(machine, "app", "app-unix")
    cold: list[float] = []
    failures: list[str] = []
    threads = [threading.Thread(target=arrive, args=(connect, cold, failures)) for connect in (tcp, unix)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = exits(machine, "app", "app-unix") - before
    assert not failures
    assert left > TIMES / 2
    figure(
        f"{len(cold)} arrivals, {left} exits, {len(failures)} failed, "
        f"median {statistics.median(cold):.2f} s, longest {max(cold):.2f} s"
    )


def test_units_can_have_an_idle_exit(machine: Machine, tcp: Connect) -> None:
    """``units`` writes them; the service is not started at boot."""
    unit = machine.path("/etc/systemd/system/app.service")
    before = unit.read_text()
    machine.run("sh", "-c", f"cd / && /srv/app/venv/bin/flask-socketact units --idle-exit {IDLE} --output /tmp")
    try:
        unit.write_text(machine.path("/tmp/app.service").read_text())  # noqa: S108 (the machine's)
        machine.systemctl("daemon-reload")
        assert ask(tcp)[0] == 200
        machine.wait_for(lambda: is_gone(machine), "the service to leave")
        assert machine.systemctl("is-enabled", "app.service", check=False).stdout.strip() == "indirect"
    finally:
        unit.write_text(before)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
def test_an_invalid_idle_time_is_reported(machine: Machine, value: str) -> None:
    drop_in(machine, "app.service", f"[Service]\nEnvironment=SOCKETACT_IDLE_EXIT={value}\n")
    assert machine.systemctl("start", "app", check=False).returncode != 0
    assert f"SOCKETACT_IDLE_EXIT='{value}' is not a positive number of seconds" in machine.journal("app")
