"""Operations of an administrator, and common mistakes: what status, doctor and units say."""

from __future__ import annotations

import json
import re
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from flask_socketact.errors import RequestError
from tests.support.http import Client, ask
from tests.support.machine import EXAMPLES, Machine, drop_in, install, release

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = (EXAMPLES / "app.py").read_text()
CLI = "/srv/app/venv/bin/flask-socketact"
INSTALL = (CLI, "units", "--install", "--threads", "8")


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine, "app")
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """A service as in the README: installed, enabled, running."""
    stop(booted, "app")
    for path in booted.path("/etc/systemd/system").glob("app*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    release(booted)
    booted.run(*INSTALL)
    booted.systemctl("enable", "--now", "app.socket", "app.service")
    return booted


def stop(machine: Machine, name: str) -> None:
    units = [f"{name}.socket", f"{name}.service", f"{name}-admin.socket"]
    machine.systemctl("stop", *units, check=False)
    machine.wait_for(lambda: not machine.scopes(f"{name}*"), "old workers to leave")
    machine.systemctl("reset-failed", *units, check=False)


def page(machine: Machine, port: int) -> int:
    """Return the status of the first page at a port; 0 if nothing listens there."""
    try:
        return ask(partial(machine.connect, ("127.0.0.1", port)))[0]
    except RequestError:
        return 0


def doctor(machine: Machine, name: str = "app") -> tuple[int, str]:
    """Return the exit status of doctor, and its errors and warnings."""
    done = machine.run(CLI, "doctor", name, "--quiet", check=False)
    return done.returncode, done.stdout.rstrip("\n")


def test_a_changed_address_takes_effect_when_the_socket_unit_restarts(machine: Machine) -> None:
    """``units`` prints the commands; ``doctor`` compares with the sockets that systemd really holds."""
    done = machine.run(*INSTALL, "--listen", "127.0.0.1:9305")
    assert "The addresses have changed, but systemd still holds the old ones." in done.stdout
    (commands,) = re.findall(r"^  (systemctl stop .*)$", done.stdout, re.MULTILINE)
    assert "Start with" not in done.stdout
    status, told = doctor(machine)
    assert status == 1
    assert (
        "error    port: nothing listens at 127.0.0.1:9305: systemd still holds the addresses from before the units "
        "changed" in told
    )
    machine.run("sh", "-c", commands)
    assert (page(machine, 8000), page(machine, 9305)) == (0, 200)
    assert doctor(machine) == (0, "")
    again = machine.run(*INSTALL, "--listen", "127.0.0.1:9305")
    assert "The service runs with the old units. Apply the new ones with: systemctl restart app\n" in again.stdout
    assert ("Start with" in again.stdout, again.stderr) == (False, "")


def test_a_restart_of_the_service_alone_keeps_the_old_address(machine: Machine) -> None:
    """``doctor`` names the address that is missing."""
    machine.run(*INSTALL, "--listen", "127.0.0.1:9305")
    machine.systemctl("restart", "app", check=False)
    status, told = doctor(machine)
    assert (status, "nothing listens at 127.0.0.1:9305" in told) == (1, True), told


def test_a_listener_can_be_added_and_removed(machine: Machine) -> None:
    more = machine.run(*INSTALL, "--listen", "127.0.0.1:8000", "--listen", "127.0.0.1:9306=admin")
    machine.run("sh", "-c", re.findall(r"^  (systemctl stop .*)$", more.stdout, re.MULTILINE)[0])
    assert (page(machine, 8000), page(machine, 9306)) == (200, 200)
    less = machine.run(*INSTALL)
    warning = r"^Warning: app-admin\.socket was made with other options, and is still in use\. To remove it: (.*)$"
    (removal,) = re.findall(warning, less.stderr, re.MULTILINE)
    machine.run("sh", "-c", removal)
    machine.systemctl("restart", "app")
    machine.wait_for(lambda: (page(machine, 8000), page(machine, 9306)) == (200, 0), "one listener")
    assert doctor(machine) == (0, "")


@pytest.mark.parametrize("line", ["import nosuch\n", "def app(:\n", "del app\n"])
def test_a_release_that_does_not_boot(machine: Machine, line: str) -> None:
    """``doctor`` and ``status`` give the reason, and say that the old workers keep serving."""
    release(machine, SOURCE + line)
    assert machine.systemctl("restart", "app", check=False).returncode != 0
    reason = {
        "import nosuch\n": r"Worker failed to boot\. ModuleNotFoundError at /srv/app/app\.py:\d+",
        "def app(:\n": r"Worker failed to boot\. SyntaxError at /srv/app/app\.py:\d+",
        "del app\n": r"App failed to load\.",
    }[line]

    def is_told() -> bool:
        status, told = doctor(machine)
        assert status == 1
        return bool(re.search(rf"^error    state: app\.service is \w+ \(exit-code\): {reason}", told, re.MULTILINE))

    def is_shown() -> bool:
        seen = machine.run(CLI, "status", "app", check=False).stdout
        assert "2 old workers from before the restart keep serving" in seen
        return bool(re.search(reason, seen))

    # Not while systemd tries to start it again: every few seconds, for a moment.
    machine.wait_for(is_told, "the reason from doctor")
    machine.wait_for(is_shown, "the reason from status")
    assert page(machine, 8000) == 200


def test_doctor_warns_of_units_that_are_not_enabled(machine: Machine) -> None:
    machine.systemctl("disable", "app.socket", "app.service")
    status, told = doctor(machine)
    assert (status, "warning  boot: app.socket not enabled" in told) == (0, True), told
    machine.systemctl("enable", "app.socket")


@pytest.mark.parametrize("by", ["a socket unit", "a process"])
def test_status_and_doctor_name_the_process_that_holds_the_port(machine: Machine, by: str) -> None:
    who = "app.socket"
    if by == "a process":
        stop(machine, "app")
        program = "import socket, time; s = socket.create_server(('', 8000)); time.sleep(600)"
        machine.run("systemd-run", "--unit=squatter", "/usr/bin/python3", "-c", program)
        machine.wait_for(lambda: bool(machine.run("ss", "-Hltn", "sport", "=", "8000").stdout), "it to listen")
        who = r"process \d+ \(python3\) of squatter\.service"
    try:
        arguments = ("--name", "shop", "--user", "app", "--directory", "/srv/app")
        done = machine.run(*INSTALL, *arguments)
        assert re.search(rf"^Warning: 127\.0\.0\.1:8000 is held by {who}: stop it", done.stderr, re.MULTILINE)
        assert machine.systemctl("enable", "--now", "shop.socket", "shop.service", check=False).returncode != 0
        status, told = doctor(machine, "shop")
        what = r"error    port: shop\.socket is failed \(resources\): its port is closed"
        held = rf"{what}, and 127\.0\.0\.1:8000 is held by {who}"
        assert (status, bool(re.search(held, told))) == (1, True), told
        done = machine.run(CLI, "deploy", "shop", check=False)
        assert (done.returncode, done.stderr.count("\n")) == (4, 2), done.stderr
        assert "shop.service does not serve: run flask-socketact doctor" in done.stderr
    finally:
        machine.systemctl("stop", "squatter", check=False)
        stop(machine, "shop")
        machine.systemctl("disable", "shop.socket", "shop.service", check=False)


def test_the_journal_s_reason_is_shown_for_an_address_that_systemd_cannot_open(machine: Machine) -> None:
    """They were written by hand; ``units`` refuses them."""
    stop(machine, "app")
    done = machine.run(*INSTALL, "--listen", "[::]:9001", "--listen", "0.0.0.0:9001", check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    drop_in(machine, "app.socket", "[Socket]\nListenStream=[::]:9001\nListenStream=0.0.0.0:9001\n")
    machine.systemctl("start", "app.socket", check=False)
    what = r"error    port: app\.socket is failed \(resources\): its port is closed"
    why = r"Failed to create listening socket \((0\.0\.0\.0|\[::\]):9001\): Address already in use"
    assert re.search(f"{what}: {why}\\. Correct that; then systemctl enable --now", doctor(machine)[1])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("InaccessiblePaths=/srv/app", "Failed to locate executable /srv/app/venv/bin/gunicorn: |Failed at step EXEC"),
        ("RestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET", r"\S"),
        ("ReadWritePaths=/none", "Failed to set up mount namespacing: .*/none: No such file or directory"),
    ],
)
def test_the_journal_s_reason_is_shown_for_a_service_that_fails_early(machine: Machine, line: str, why: str) -> None:
    """By ``doctor`` and ``status``."""
    drop_in(machine, "app.service", f"[Service]\n{line}\n")
    machine.systemctl("stop", "app")
    machine.systemctl("start", "app", check=False)
    told = rf"^error    state: app\.service is \w+ \(exit-code\): ({why})"

    def is_told_by_status() -> bool:
        seen = machine.run(CLI, "status", "app", "--json", check=False)
        return bool(re.match(why, json.loads(seen.stdout)["failure"]))

    # systemd tries again meanwhile: a start that has just begun has not failed.
    machine.wait_for(lambda: bool(re.search(told, doctor(machine)[1], re.MULTILINE)), "the reason in doctor")
    machine.wait_for(is_told_by_status, "the reason in status")


def test_an_address_that_only_old_workers_hold_is_reported(machine: Machine) -> None:
    """The socket unit was changed and changed back: systemd has closed the address, and not opened it again."""
    text = "[Socket]\nListenStream=\nListenStream=127.0.0.1:9307\nListenSequentialPacket=/run/app/mailbox\n"
    drop_in(machine, "app.socket", text)
    drop_in(machine, "app.socket", "")
    assert page(machine, 8000) == 200
    what = "systemd no longer holds 127.0.0.1:8000, only the running workers do: the next restart fails"
    status, told = doctor(machine)
    assert (status, f"error    port: {what}. Open it again; clients notice; then systemctl" in told) == (1, True)
    assert f"Warning: {what}" in machine.run(CLI, "status", "app").stdout
    machine.run("sh", "-c", "systemctl stop app.service app.socket; systemctl start app.socket app.service")
    assert doctor(machine) == (0, "")


def test_masked_units_are_reported(machine: Machine) -> None:
    stop(machine, "app")
    machine.run("sh", "-c", "cd /etc/systemd/system; rm app.socket; systemctl mask app.socket")
    told = doctor(machine)[1]
    assert "error    masked: nothing can start app.socket. systemctl unmask app.socket; Install the" in told
    assert "app.socket is masked. systemctl unmask app.socket" in told
    warning = "app.socket is masked, so nothing can start it: systemctl unmask app.socket"
    assert f"Warning: {warning}" in machine.run(CLI, "status", "app", check=False).stdout
    machine.run("sh", "-c", "cd /etc/systemd/system; rm app.service; systemctl mask app.service")
    warning = "app.service is masked, so nothing can start it: systemctl unmask app.service"
    assert f"Warning: {warning}" in machine.run(CLI, "status", "app", check=False).stdout
    done = machine.run(CLI, "doctor", "app", check=False)
    assert (done.returncode, done.stderr) == (3, f"Error: {warning}\n")
    machine.systemctl("unmask", "app.service", "app.socket")


def test_half_an_installation_is_reported_with_commands_that_complete_it(machine: Machine) -> None:
    stop(machine, "app")
    machine.run("sh", "-c", "rm /etc/systemd/system/app.socket; systemctl daemon-reload")
    status, told = doctor(machine)
    assert status == 1
    assert not re.search(r"systemctl (?:stop|start) *(?:,|$)| ,", told, re.MULTILINE), told
    assert f"there is no app.socket. Install the units again: {CLI} units --again app" in told
    machine.run(CLI, "units", "--again", "app")
    machine.systemctl("enable", "--now", "app.socket")
    assert doctor(machine) == (0, "")


def test_lines_that_systemd_ignores_are_reported(machine: Machine) -> None:
    drop_in(machine, "app.service", "[Servce]\nA=b\n[Service]\nTimeoutStopSec=banana\n")
    status, told = doctor(machine)
    file = "/etc/systemd/system/app.service.d/test.conf"
    assert status == 0
    assert told.startswith(f"warning  ignored lines: systemd ignores a line: {file}:")
    assert "(and 1 more). Correct it; then systemctl daemon-reload" in told


def test_a_warning_says_that_manual_changes_to_a_unit_are_overwritten(machine: Machine) -> None:
    unit = machine.path("/etc/systemd/system/app.service")
    unit.write_text(unit.read_text().replace("RestartSec=2", "RestartSec=20"))
    done = machine.run(*INSTALL)
    assert done.stderr == (
        "Warning: app.service had other content and was overwritten: changes made by hand are lost. "
        "Put them into a drop-in, which stays: systemctl edit app.service\n"
    )
    assert machine.run(*INSTALL).stderr == ""


def test_a_warning_says_that_units_are_for_a_newer_systemd(machine: Machine) -> None:
    done = machine.run(*INSTALL, "--systemd-version", "999")
    assert re.search(r"^Warning: the units are for systemd 999, but \d+ is running", done.stderr, re.MULTILINE)


def test_a_slow_release_is_rolled_back(machine: Machine) -> None:
    """Twice: a slow old worker may still have the first probe of the second deploy."""
    view = '    return f"Hello'
    slow = SOURCE.replace(view, f"    time.sleep(8)\n{view}")
    for name, source in (("good", SOURCE), ("slow", slow)):
        folder = machine.path(f"/srv/app/releases/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "app.py").write_text(source)
    machine.run("ln", "-sfn", "releases/good", "/srv/app/current")
    machine.run(*INSTALL, "--directory", "/srv/app/current", "--python", "/srv/app/venv/bin/python3")
    machine.systemctl("restart", "app")
    for _ in range(2):
        options = ("--release", "/srv/app/releases/slow", "--no-trial", "--timeout", "12")
        done = machine.run(CLI, "deploy", "app", *options, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "cut off" not in done.stdout
        assert done.stdout.splitlines()[-1] == "releases/good serves again"
        began = time.monotonic()
        client = Client(partial(machine.connect, ("127.0.0.1", 8000)))
        assert client.exchange("GET", "/")[0] == 200
        client.close()
        assert time.monotonic() - began < 5
