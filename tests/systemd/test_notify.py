"""The notifications that systemd gets from a service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.machine import EXAMPLES, drop_in, release
from tests.support.operations import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.machine import Machine

AT = r"2 of 2 workers at http://127\.0\.0\.1:8000 \(http\)"
IDLE = "0 requests in flight, 0 served"
FAILED = rf"Reload failed \(RuntimeError at /srv/app/app\.py:\d+\); still serving with {AT}; generation 2, {IDLE}"
#: Of a start, a reload, a failed reload and a stop, without BARRIER=1.
EXPECTED = [
    "STATUS=Loading the application in 2 workers, for at most 600 s",
    rf"READY=1, STATUS=Serving with {AT}; generation 1, {IDLE}",
    r"RELOADING=1, MONOTONIC_USEC=\d+, STATUS=Reloading: generation 2 loads the application",
    rf"READY=1, STATUS=Serving with {AT}; generation 2, {IDLE}; draining: generation 1, 0 requests in flight",
    rf"STATUS=Serving with {AT}; generation 2, {IDLE}",
    r"RELOADING=1, MONOTONIC_USEC=\d+, STATUS=Reloading: generation 3 loads the application",
    rf"READY=1, STATUS={FAILED}(; draining: generation 3, 0 requests in flight)?",
    "STOPPING=1, STATUS=Stopping: 0 requests in flight, waiting up to 30 s",
]
#: Messages that come or not, by the moment: one of two new workers may exit before it is noticed.
PASSING = re.compile(
    rf"STATUS={FAILED}(; draining: generation 3, 0 requests in flight)?|WATCHDOG=1|EXTEND_TIMEOUT_USEC=\d+"
)


@pytest.fixture
def talkative(rendered: Machine) -> Iterator[Machine]:
    """A systemd that logs each notification."""
    rendered.systemctl("log-level", "debug")
    yield rendered
    rendered.systemctl("log-level", "info")


def heard(machine: Machine, cursor: str) -> list[str]:
    """Return the notifications of the service since a place in the journal."""
    lines = machine.run("journalctl", "--no-pager", "--output=cat", f"--after-cursor={cursor}", "_PID=1").stdout
    return re.findall(r"^app\.service: Got notification message from PID \d+: (.*)$", lines, re.MULTILINE) or [
        match[1]
        for match in re.finditer(r"^app\.service: Got notification message from PID \d+ \((.*)\)$", lines, re.MULTILINE)
    ]


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
def test_systemd_gets_each_notification_in_order(talkative: Machine, worker: str) -> None:
    machine = talkative
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS=-k flask_socketact.workers.{worker}"\n')
    cursor = machine.run("journalctl", "--lines=1", "--show-cursor", "--quiet").stdout.rpartition("-- cursor: ")[2]
    machine.systemctl("start", "app")
    machine.systemctl("reload", "app")
    settled = re.compile(EXPECTED[4].removeprefix("STATUS="))
    machine.wait_for(lambda: settled.fullmatch(machine.show("app", "StatusText")) is not None, "old workers to leave")
    release(machine, (EXAMPLES / "app.py").read_text() + BROKEN)
    assert machine.systemctl("reload", "app", check=False).returncode != 0
    machine.wait_for(lambda: len(machine.workers("app")) == 2, "the new workers to leave")
    machine.systemctl("stop", "app")
    said = [message for message in heard(machine, cursor.strip()) if not PASSING.fullmatch(message)]
    assert len(said) == len(EXPECTED), said
    for message, expected in zip(said, EXPECTED, strict=True):
        assert re.fullmatch(expected, message), said
