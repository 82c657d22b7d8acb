"""A hostile application, and hostile clients, while the service restarts and reloads: a promise of the README."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.hostile import Hostility, essence, unasked
from tests.support.http import Connect
from tests.support.load import CLIENTS, Load
from tests.support.machine import EXAMPLES, Machine, drop_in, release

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE_CLIENTS = 6
#: Pause between two operations, in seconds.
PAUSE = 4.0


def test_an_application_cannot_hurt_others(machine: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    seed = int(os.environ.get("HOSTILE_SEED") or random.randrange(10**6))  # noqa: S311 (no secret)
    print(f"HOSTILE_SEED={seed}")
    shutil.copy(EXAMPLES / "app.py", machine.path("/srv/app/example.py"))
    source = (Path(__file__).parents[1] / "support/hostile_app.py").read_text()
    release(machine, source.replace("from examples.app import app", "from example import app"))
    arguments = "--threads 16 --graceful-timeout 8"
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={arguments}"\n')
    machine.systemctl("start", "app")
    operations = ("restart", "reload", "restart", "reload")
    with Load(tcp, CLIENTS | {"keep-alive, never pausing": 2}) as load:
        with Hostility(tcp, HOSTILE_CLIENTS, seed) as hostility:
            for verb in operations:
                time.sleep(PAUSE)
                machine.systemctl(verb, "app")
            time.sleep(PAUSE)
        journal = machine.run("journalctl", "--no-pager", "--output=short-precise").stdout
    story = f"HOSTILE_SEED={seed} {dict(hostility.done)}\n{load.closures()}\n{essence(journal)}"
    assert not load.failures(), f"{load.failures()}\n{story}"
    assert load.closed_by_server == 0, story
    assert not unasked(journal), f"{story}\n{unasked(journal)}"
    machine.wait_for(lambda: len(machine.workers("app")) == 2, "nothing but two workers to be left")
    figure(
        f"{load.requests} requests, 0 failed, 0 connections closed; {hostility.done.total()} hostile ones, "
        f"{len(operations)} restarts and reloads"
    )
