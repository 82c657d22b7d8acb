"""``systemctl stop`` waits for requests in flight, at most the drain time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.machine import Machine, drop_in
from tests.support.operations import in_flight

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.http import Connect

TIMEOUT_STOP = 3  #: seconds


def test_a_stop_waits_for_a_request_longer_than_timeout_stop_sec(
    machine: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    """``EXTEND_TIMEOUT_USEC=`` extends the stop."""
    drop_in(machine, "app.service", f"[Service]\nTimeoutStopSec={TIMEOUT_STOP}\n")
    machine.systemctl("start", "app")
    with in_flight(tcp, 8.0) as client:
        began = time.monotonic()
        with machine.start("systemctl", "stop", "app") as stop:
            machine.wait_for(
                lambda: machine.show("app", "StatusText") == "Stopping: 1 requests in flight, waiting up to 30 s",
                "the status to tell of the request",
            )
            stop.communicate()
        seconds = time.monotonic() - began
        assert b"200 OK" in client.recv(65536)
    assert stop.returncode == 0
    assert seconds > 2 * TIMEOUT_STOP
    assert machine.show("app", "Result") == "success"
    figure(f"{seconds:.1f} s with TimeoutStopSec={TIMEOUT_STOP}")


def test_a_stop_waits_at_most_the_drain_time(machine: Machine, tcp: Connect) -> None:
    """A request that hangs does not extend it forever."""
    drop_in(
        machine,
        "app.service",
        f'[Service]\nTimeoutStopSec={TIMEOUT_STOP}\nEnvironment="GUNICORN_CMD_ARGS=--graceful-timeout 5"\n',
    )
    machine.systemctl("start", "app")
    with in_flight(tcp, 600.0):
        began = time.monotonic()
        machine.systemctl("stop", "app")
        assert time.monotonic() - began < 10
    assert not machine.workers("app")
