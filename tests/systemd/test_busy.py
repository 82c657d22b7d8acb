"""Connections of clients that never pause are handed over, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.busy import DRAIN_TIME, configure, operate, wrk
from tests.systemd.conftest import TCP

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.machine import Machine

#: Longer than a worker stays on a machine that has other things to do, and shorter than the drain time, for which it
#: would wait if its clients had to pause. benchmarks/busy.py measures it on a quiet machine. Seconds.
STAY = DRAIN_TIME / 2
SYNC = "-k flask_socketact.workers.sync.SyncWorker"
GEVENT = "-k flask_socketact.workers.gevent.GeventWorker"


@pytest.mark.parametrize(
    ("path", "connections", "arguments"),
    [
        ("/sleep?s=0.01", 6, ""),
        ("/sleep?s=0.01", 64, "--threads 1 --access-logfile -"),
        ("/on-close", 6, ""),
        ("/tail", 6, ""),
        ("/sleep?s=0.01", 6, SYNC),
        ("/sleep?s=0.01", 6, GEVENT),
        ("/on-close", 6, GEVENT),
    ],
)
def test_clients_that_never_pause_lose_no_request_and_keep_no_old_worker(
    machine: Machine, figure: Callable[[str], None], path: str, connections: int, arguments: str
) -> None:
    configure(machine, arguments)
    with wrk(machine, 12, connections, path, TCP[1]) as busy:
        for verb in ("restart", "reload", "restart", "reload", "restart"):
            operate(machine, verb, busy)
    assert busy.lost == ""
    assert busy.requests > 100
    assert max(busy.stays) < STAY
    figure(f"{path} {arguments}: {busy.requests} requests, 0 lost; old workers gone after {max(busy.stays):.2f} s")
