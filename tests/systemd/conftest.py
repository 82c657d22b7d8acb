"""A machine with the example application and its units."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.http import Connect
from tests.support.machine import Machine, MachineError, install, release

TCP = ("127.0.0.1", 8000)
UNIX = "/run/app-unix/http.sock"
#: Most lines of the journal that are printed for a test that has failed.
LINES = 200


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print what the machine has warned of during a test that has failed."""
    report = yield
    machine = item.funcargs.get("booted")
    if report.when == "call" and report.failed and isinstance(machine, Machine):
        try:
            text = machine.warnings(call.start, LINES)
        except (MachineError, subprocess.TimeoutExpired) as error:  # the test has ended it, or frozen its journal
            text = str(error)
        report.sections.append(("warnings in the journal", text))
    return report


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine, "app", "app-unix")
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """The machine as installed: services stopped, sockets listening, no drop-ins."""
    units = ("app.socket", "app-unix.socket")
    for unit in ("app.service", "app-unix.service"):
        shutil.rmtree(booted.path(f"/etc/systemd/system/{unit}.d"), ignore_errors=True)
    release(booted)
    booted.systemctl("daemon-reload")
    booted.systemctl("stop", "app.socket", "app.service", "app-unix.socket", "app-unix.service")
    booted.wait_for(lambda: not booted.scopes("app*"), "old workers to leave")
    booted.systemctl("reset-failed")
    booted.systemctl("start", *units)
    return booted


@pytest.fixture
def rendered(machine: Machine) -> Iterator[Machine]:
    """The machine, with units for its own version of systemd."""
    unit = machine.path("/etc/systemd/system/app.service")
    before = unit.read_text()
    machine.run("sh", "-c", "cd / && /srv/app/venv/bin/flask-socketact units --output /tmp")
    unit.write_text(machine.path("/tmp/app.service").read_text())  # noqa: S108 (the machine's)
    machine.systemctl("daemon-reload")
    yield machine
    machine.systemctl("stop", "app")
    unit.write_text(before)


@pytest.fixture
def tcp(machine: Machine) -> Connect:
    return partial(machine.connect, TCP)


@pytest.fixture
def unix(machine: Machine) -> Connect:
    return partial(machine.connect, UNIX)


@pytest.fixture
def hold(machine: Machine) -> Iterator[Path]:
    """A file; releases of `test_relay.held_release` do not load while it exists."""
    path = machine.path("/var/lib/app/hold")
    yield path
    path.unlink(missing_ok=True)
