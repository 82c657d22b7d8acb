"""An application that takes longer to load than systemd waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.http import Connect
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, drop_in, release
from tests.support.operations import CLIENTS, LONGEST_WAIT, SHORT, wait_for_old

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds; they stand for 90 and more.
PATIENCE, LOADING = 8, 11
SOURCE = (EXAMPLES / "app.py").read_text().replace("app = Flask", f"time.sleep({LOADING})\napp = Flask")


def test_systemd_waits_for_an_application_that_loads_slowly(
    rendered: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    machine = rendered
    lines = f'TimeoutStartSec={PATIENCE}\nEnvironment="GUNICORN_CMD_ARGS=--threads 8"\n'
    drop_in(machine, "app.service", f"[Service]\n{lines}")
    release(machine, SOURCE)
    machine.systemctl("start", "app")
    with Load(tcp, CLIENTS) as load:
        for verb in ("restart", "reload"):
            machine.systemctl(verb, "app")
        wait_for_old(machine)
    assert not load.failures(), machine.journal("app")[-3000:]
    assert load.closed_by_server == 0
    assert load.longest_wait(*SHORT) < LONGEST_WAIT
    figure(f"{LOADING} s to load, {PATIENCE} s of patience: {load.requests} requests, 0 failed")
