"""A release that does not boot, with clients that keep coming."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.load import Connect, Load, ask
from tests.machine import Machine, release
from tests.systemd.test_promises import BROKEN

if TYPE_CHECKING:
    from collections.abc import Callable

#: Enough to reach any of systemd's start and trigger limits, were they on. Seconds.
OUTAGE = 15


def test_socket_outlives_a_release_that_does_not_boot(
    machine: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    machine.systemctl("start", "app")
    with Load(tcp, {"new connection": 20}) as load:
        release(machine, BROKEN)
        restart = machine.systemctl("restart", "app", check=False)
        assert restart.returncode != 0
        assert "Job for app.service failed" in restart.stderr
        assert machine.show("app", "ExecMainStatus") == "3"
        began = time.monotonic()
        machine.wait_for(lambda: time.monotonic() - began > OUTAGE or not active(machine), "the end of the outage")
        boots = machine.journal("app").count("Starting gunicorn")
        assert active(machine)
        release(machine)
        machine.wait_for(lambda: machine.show("app", "ActiveState") == "active", "the repaired release")
        assert ask(tcp)[0] == 200
    assert not load.failures()
    journal = machine.journal("app")
    assert "RuntimeError: no database" in journal
    assert "Traceback (most recent call last)" in journal
    # The first boot, and one for each RestartSec= (2 s) of the outage.
    assert boots <= 2 + OUTAGE / 2
    figure(f"{boots - 1} boots in {OUTAGE} s, {len(load.outcomes)} requests, {load.failures().total()} failed")


def test_first_request_after_the_repair_is_answered(machine: Machine, tcp: Connect) -> None:
    """Nobody restarts anything: the request is what starts the repaired release."""
    release(machine, BROKEN)
    assert machine.systemctl("start", "app", check=False).returncode != 0
    machine.systemctl("stop", "app")
    release(machine)
    assert ask(tcp)[0] == 200
    assert active(machine)


def active(machine: Machine) -> bool:
    return machine.show("app.socket", "ActiveState") == "active"
