"""A restart at any moment: during a reload, another restart, or the recycling of a worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect, ask
from tests.support.load import Load
from tests.support.machine import Machine, drop_in, release
from tests.support.operations import CLIENTS, LONGEST_WAIT, SHORT, SLOW, wait_for_old

if TYPE_CHECKING:
    from collections.abc import Callable

RESTART, TRY_RESTART = ("systemctl", "restart", "app"), ("systemctl", "try-restart", "app")
BY_SYSTEMD_RUN = ("systemd-run", "--wait", "--quiet", *RESTART)
#: More requests than a restart takes, fewer than the load sends in that time.
MAX_REQUESTS = 200


def test_a_restart_before_the_relay_has_started_loses_nothing(rendered: Machine, tcp: Connect) -> None:
    """The relay is a unit of its own, and starts a moment after the service."""
    machine = rendered
    # Or long requests and uploads could take all threads of one worker, and its connections would wait for these.
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--threads 8"\n')
    release(machine, SLOW)
    machine.systemctl("start", "app")
    for _ in range(2):
        with Load(tcp, CLIENTS) as load:
            machine.systemctl("stop", "app-relay")
            machine.systemctl("restart", "app")
            wait_for_old(machine)
        assert not load.failures()
        assert load.closed_by_server == 0, machine.run("journalctl", "-n150", "-ocat", "--no-pager").stdout
        assert load.longest_wait(*SHORT) < LONGEST_WAIT, machine.run(
            "journalctl", "-n150", "-ocat", "--no-pager"
        ).stdout


def is_loading(machine: Machine, what: str) -> bool:
    if what == "max_requests":
        return "Served max_requests" in machine.journal("app")
    return machine.show("app", "StatusText").startswith({"reload": "Reloading", "restart": "Loading"}[what])


@pytest.mark.parametrize(
    ("loading", "command"),
    [
        ("reload", RESTART),
        ("reload", TRY_RESTART),
        ("reload", BY_SYSTEMD_RUN),
        ("restart", RESTART),
        ("max_requests", RESTART),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_restart_during_another_operation_loses_nothing(
    rendered: Machine, tcp: Connect, figure: Callable[[str], None], loading: str, command: tuple[str, ...]
) -> None:
    machine = rendered
    more = f" --max-requests {MAX_REQUESTS}" if loading == "max_requests" else ""
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS=--threads 8{more}"\n')
    release(machine, SLOW)
    machine.run("journalctl", "--rotate")
    machine.run("journalctl", "--vacuum-time=1s", "--unit=app", check=False)
    machine.systemctl("start", "app")
    with Load(tcp, CLIENTS) as load:
        machine.wait_for(lambda: load.requests > 50, "responses")
        for _ in range(2):
            before = ask(tcp)[1]
            if loading == "max_requests":
                machine.wait_for(lambda: is_loading(machine, loading), "a worker to be replaced")
                machine.run(*command)
            else:
                with machine.start("systemctl", loading, "app") as first:
                    machine.wait_for(lambda: is_loading(machine, loading), "the application to load")
                    machine.run(*command)
                    first.communicate()
            time.sleep(0.5)
            assert ask(tcp)[1] != before
        wait_for_old(machine)
    assert not load.failures(), machine.journal("app")[-3000:]
    assert load.closed_by_server == 0, machine.journal("app")[-20000:]
    assert load.longest_wait(*SHORT) < LONGEST_WAIT
    figure(
        f"{' '.join(command)} while {loading} loads: {load.requests} requests, 0 failed, 0 closed, longest wait "
        f"of a short request {load.longest_wait(*SHORT):.3f} s"
    )
