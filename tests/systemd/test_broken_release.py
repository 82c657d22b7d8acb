"""A release that does not boot, under load."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.http import Client, Connect, ask
from tests.support.load import Load
from tests.support.machine import Machine, release
from tests.support.operations import BROKEN

if TYPE_CHECKING:
    from collections.abc import Callable

#: Long enough to reach systemd's start and trigger limits if they were on. Seconds.
OUTAGE, SHORT_OUTAGE = 9, 6


def outage(machine: Machine, seconds: float) -> int:
    """Wait while no start succeeds, and return how many were tried."""
    before, began = boots(machine), time.monotonic()

    def has_ended() -> bool:
        return time.monotonic() - began > seconds and boots(machine) - before > 1

    machine.wait_for(lambda: has_ended() or not active(machine), "the end of the outage")
    assert active(machine)
    tried = boots(machine) - before
    assert tried <= 1 + (time.monotonic() - began) / 2  # RestartSec= is 2 s
    return tried


def test_a_release_that_does_not_boot_takes_nothing_down(
    machine: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    machine.systemctl("start", "app")
    idle = Client(tcp)
    idle.exchange("GET", "/")
    with Load(tcp, {"new connection": 10, "keep-alive": 5, "long request": 2, "slow upload": 2}) as load:
        release(machine, BROKEN)
        restart = machine.systemctl("restart", "app", check=False)
        assert restart.returncode != 0
        assert "Job for app.service failed" in restart.stderr
        assert machine.show("app", "ExecMainStatus") == "3"
        tried = outage(machine, OUTAGE)
        release(machine)
        machine.wait_for(lambda: machine.show("app", "ActiveState") == "active", "the repaired release")
        machine.wait_for(lambda: not machine.scopes("app"), "the old workers to leave")
        seen = load.requests
        machine.wait_for(lambda: load.requests > seen + 50, "responses")
    assert not load.failures()
    assert load.closed_by_server == 0
    assert idle.exchange("GET", "/")[0] == 200
    assert idle.closed_by_server == 0
    idle.close()
    journal = machine.journal("app")
    assert "RuntimeError: no database" in journal
    assert "Traceback (most recent call last)" in journal
    figure(
        f"{tried} boots in {OUTAGE} s, {load.requests} requests, {load.failures().total()} failed, "
        f"longest wait {load.longest_wait():.2f} s"
    )


def test_the_socket_stays_open_when_a_release_does_not_boot(
    machine: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    """Without an old release, clients wait."""
    release(machine, BROKEN)
    with Load(tcp, {"new connection": 20}) as load:
        tried = outage(machine, SHORT_OUTAGE)
        release(machine)
        machine.wait_for(lambda: machine.show("app", "ActiveState") == "active", "the repaired release")
        assert ask(tcp)[0] == 200
    assert not load.failures()
    figure(f"{tried} boots in {SHORT_OUTAGE} s, {load.requests} requests, {load.failures().total()} failed")


def test_the_first_request_starts_the_repaired_release(machine: Machine, tcp: Connect) -> None:
    """Without a restart by the administrator."""
    release(machine, BROKEN)
    assert machine.systemctl("start", "app", check=False).returncode != 0
    machine.systemctl("stop", "app")
    release(machine)
    assert ask(tcp)[0] == 200
    assert active(machine)


def boots(machine: Machine) -> int:
    return machine.journal("app").count("Starting gunicorn")


def active(machine: Machine) -> bool:
    return machine.show("app.socket", "ActiveState") == "active"
