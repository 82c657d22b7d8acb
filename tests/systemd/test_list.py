"""``flask-socketact list`` of services in each of their states, and the completion of their names."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.machine import RELAY, drop_in, release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.machine import Machine

CLI = "/srv/app/venv/bin/flask-socketact"
UNITS = "/etc/systemd/system"


@pytest.fixture(autouse=True)
def restored(machine: Machine) -> Iterator[None]:
    yield
    shutil.copy(RELAY, machine.path("/usr/local/lib/flask-socketact"))


def listed(machine: Machine) -> dict[str, dict[str, Any]]:
    """Return what is listed, by the services' names."""
    return {each["name"]: each for each in json.loads(machine.run(CLI, "list", "--json").stdout)}


def app(machine: Machine) -> tuple[str, str]:
    """Return the state of the service app, and what is to be done."""
    seen = listed(machine)["app"]
    return seen["state"], seen["remedy"]


def test_all_services_of_ours_and_no_others(machine: Machine) -> None:
    machine.systemctl("start", "app")
    machine.path(f"{UNITS}/other.service").write_text("[Service]\nExecStart=/bin/true\n")
    machine.path(f"{UNITS}/fifo.service").unlink(missing_ok=True)
    os.mkfifo(machine.path(f"{UNITS}/fifo.service"))
    version = machine.run(CLI, "--version").stdout.split()[-1]
    nothing = {"version": version, "remedy": ""}
    assert list(listed(machine).values()) == [
        {"name": "app", "state": "active", "addresses": ["127.0.0.1:8000"], **nothing},
        {"name": "app-unix", "state": "idle", "addresses": ["/run/app-unix/http.sock"], **nothing},
    ]
    machine.path(f"{UNITS}/fifo.service").unlink()
    text = machine.run("runuser", "-u", "nobody", "--", CLI, "list").stdout
    assert [line.split() for line in text.splitlines()] == [
        ["service", "state", "addresses", "version", "what", "to", "do"],
        ["app", "active", "127.0.0.1:8000", version],
        ["app-unix", "idle", "/run/app-unix/http.sock", version],
    ]


def test_names_are_completed(machine: Machine) -> None:
    asked = {
        "COMP_WORDS": "flask-socketact status app",
        "COMP_CWORD": "2",
        "_FLASK_SOCKETACT_COMPLETE": "bash_complete",
    }
    completed = machine.run("env", *(f"{name}={value}" for name, value in asked.items()), CLI)
    assert completed.stdout.split() == ["plain,app", "plain,app-unix"]


def test_each_remedy_leads_to_the_next(machine: Machine) -> None:
    """What is to be done is done as it is printed."""
    machine.systemctl("start", "app")
    drop_in(machine, "app.service", "[Service]\nRestartSec=3\n")
    state, remedy = app(machine)
    assert (state, remedy) == ("active", "it runs with older units, or an older package: systemctl restart app.service")
    do(machine, remedy)
    assert app(machine) == ("active", "")

    machine.path(f"{UNITS}/app.service.d/test.conf").write_text("[Service]\nRestartSec=2\n")
    state, remedy = app(machine)
    assert remedy == (
        "units on disk are newer than those that systemd has loaded: "
        "systemctl daemon-reload && systemctl restart app.service"
    )
    do(machine, remedy)
    assert app(machine) == ("active", "")

    machine.systemctl("stop", "app.socket", check=False)
    machine.systemctl("start", "app.service")
    assert app(machine) == ("active", "")  # Requires= has started it
    machine.systemctl("stop", "app.service", "app.socket")
    assert app(machine) == ("stopped", "")


def do(machine: Machine, remedy: str) -> None:
    machine.run("bash", "-ec", remedy.rpartition(": ")[2])


def test_units_of_another_version(machine: Machine) -> None:
    relay = machine.path("/usr/local/lib/flask-socketact/relay")
    relay.write_text(relay.read_text() + "# changed\n")
    text = f"its units are from another version: {CLI} units --again app"
    assert app(machine)[1].startswith(text)
    relay.unlink()
    assert app(machine)[1].startswith(text)
    machine.run(CLI, "units", "--again", "app")
    assert app(machine) == ("idle", "")


def test_a_service_that_fails(machine: Machine) -> None:
    release(machine, "raise RuntimeError('no database')\n")
    machine.systemctl("start", "app", check=False)
    remedy = "it does not start: {}journalctl -e -u app.service"
    # systemd tries again meanwhile: a start that has just begun has not failed.
    machine.wait_for(lambda: app(machine) == ("failed", remedy.format("")), "the failure")
    unprivileged = ("runuser", "-u", "nobody", "--", CLI, "list")
    machine.wait_for(lambda: remedy.format("sudo ") in machine.run(*unprivileged).stdout, "the failure")


def test_an_address_that_systemd_does_not_hold(machine: Machine) -> None:
    drop_in(machine, "app.socket", "[Socket]\nListenStream=127.0.0.1:8009\n")
    try:
        assert app(machine) == ("idle", f"systemd does not hold 127.0.0.1:8009: {CLI} doctor app")
    finally:
        drop_in(machine, "app.socket", "")


def test_a_masked_service(machine: Machine) -> None:
    machine.run("mv", f"{UNITS}/app.service", "/usr/lib/systemd/system/app.service")
    machine.systemctl("mask", "app.service")
    try:
        assert app(machine) == ("masked", "nothing can start it: systemctl unmask app.service")
    finally:
        do(machine, app(machine)[1])
        machine.run("mv", "/usr/lib/systemd/system/app.service", f"{UNITS}/app.service")
        machine.systemctl("daemon-reload")


def test_no_services(machine: Machine) -> None:
    """In the manager of a user."""
    uid = machine.run("id", "--user", "root").stdout.strip()
    machine.systemctl("start", f"user@{uid}.service")
    command = ("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", CLI, "list", "--user-manager")
    text = f"There are no services yet: {CLI} units --user-manager --install makes one\n"
    assert machine.run(*command).stdout == text
    assert machine.run(*command, "--json").stdout == "[]\n"
