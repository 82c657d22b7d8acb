"""``flask-socketact rehearse`` of plain gunicorn and of ours, on the machine of the service."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_socketact.cli.rehearse import report
from tests.support.machine import Machine, drop_in, install, install_plain

CLI = "/srv/app/venv/bin/flask-socketact"
LOAD = (
    "--restarts",
    "2",
    "--every",
    "2.5",
    "--idle-think",
    "2",
    "--long-path",
    "/sleep/3.0",
    "--upload-path",
    "/upload",
)
QUICK = ("--restarts", "1", "--every", "1", "--silent", "0", "--slow", "0")
LOG = "/var/lib/app/access"
KINDS = {
    "new connection", "keep-alive", "idle keep-alive", "silent", "slow request", "slow upload", "long response", "all",
}  # fmt: skip


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with both services, which log every request to a file."""
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine, "app")
        install_plain(machine, threads=8)
        for name in ("app", "plain"):
            arguments = f"--threads 8 --access-logfile {LOG}-{name} --access-logformat %(s)s|%(a)s"
            drop_in(machine, f"{name}.service", f"[Service]\nEnvironment='GUNICORN_CMD_ARGS={arguments}'\n")
        machine.systemctl("start", "app", "plain")
        yield machine


def rehearse(machine: Machine, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = machine.run(CLI, "rehearse", "--json", *LOAD, *arguments, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def logged(machine: Machine, name: str) -> int:
    """Return how many of our requests a service has logged."""
    return machine.path(f"{LOG}-{name}").read_text().count("200|flask-socketact-rehearse")


def test_rehearse_finds_losses_of_plain_gunicorn_and_none_of_ours(
    machine: Machine, figure: Callable[[str], None]
) -> None:
    plain_status, plain = rehearse(machine, "--restarts=1", "--url=http://127.0.0.1:8001/", "--report=/root/plain.html")
    status, ours = rehearse(machine, "--restarts=2", "--report", "/root/ours.html", "--compare", "/root/plain.html")
    assert {each["kind"] for each in ours["accounts"]} == KINDS

    lost = plain["accounts"][-1]
    assert plain_status == 1
    assert not plain["kept"]
    assert lost["closed"] + lost["failed"] > 0
    assert lost["wait"] > 1

    seen = ours["accounts"][-1]
    assert (status, ours["broken"]) == (0, [])
    assert (seen["failed"], seen["closed"]) == (0, 0)
    assert seen["requests"] == sum(each["requests"] for each in ours["accounts"][:-1])

    # A probe of each kind is no part of the account. What failed for the client may be answered for the server.
    probes = len(KINDS) - 1
    assert logged(machine, "app") == seen["requests"] + probes
    answered = lost["requests"] - lost["failed"] + probes
    assert answered <= logged(machine, "plain") <= answered + lost["failed"]

    run = report.read(machine.path("/root/ours.html"))
    generations = [run["first_generation"], *(restart["generation"] for restart in run["restarts"])]
    assert len(set(generations)) == 3
    assert generations[-1] == f"main process {machine.show('app', 'MainPID')}"
    assert run["command"] == "systemctl --system restart app.service"
    figure(f"ours: {ours['sentence']}; logged by the server: {logged(machine, 'app')}")
    figure(f"plain gunicorn: {plain['sentence']}")


def test_progress_has_colors_only_on_a_terminal(machine: Machine) -> None:
    command = (CLI, "rehearse", *QUICK, "--fail-on", "failed>0")
    done = machine.run(*command)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Clients: 4 new connection, ")
    assert lines[0].endswith(". 1 restart by: systemctl --system restart app.service")
    assert [line.split()[0] for line in lines[1:4]] == ["serving", "restart", "serving"]
    assert lines[-1].startswith("Kept")  # on a busy machine clients may notice a wait, which this condition allows
    assert "\x1b" not in done.stdout
    terminal = machine.run("script", "--quiet", "--return", "--command", shlex.join(command), "/dev/null")
    assert "\x1b[" in terminal.stdout
    assert "restart 1" in terminal.stdout


def test_a_release_that_does_not_boot_is_a_failed_restart(machine: Machine) -> None:
    drop_in(machine, "app.service", "[Service]\nEnvironment=GUNICORN_CMD_ARGS=--nonsense\n")
    done = machine.run(CLI, "rehearse", "--json", *QUICK, check=False)
    drop_in(machine, "app.service", "")
    machine.systemctl("restart", "app")  # not left to Restart=, in the middle of the next test: a reload would succeed
    status, result = done.returncode, json.loads(done.stdout)
    assert status == 1
    assert result["broken"] == ["failed-restarts>0: 1"]
    assert result["accounts"][-1]["failed"] == 0


def test_a_command_that_restarts_nothing_ends_the_rehearsal(machine: Machine) -> None:
    """The service is not to blame. A reload that fails is a promise that was broken, and the rehearsal continues."""
    user = ("runuser", "-u", "nobody", "--")
    for who, do, why, remedy in (
        (user, "systemctl restart app", "Failed to restart app.service: ", "rehearse as root, with sudo"),
        ((), "systemctl restart nope", "Unit nope.service not found", "type the command alone, and correct it"),
    ):
        done = machine.run(*who, CLI, "rehearse", *QUICK, "--restarts", "5", "--do", do, check=False)
        assert done.returncode == 3
        assert done.stdout.count("\n  restart ") <= 1  # one that ends at once is not shown
        assert done.stderr.startswith(f"Error: {do} restarted nothing: ")
        assert (done.stderr.count("\n"), why in done.stderr, remedy in done.stderr) == (1, True, True), done.stderr
    drop_in(machine, "app.service", "[Service]\nExecReload=\nExecReload=/bin/false\n")
    arguments = ("--json", *QUICK, "--restarts", "2", "--do", "systemctl reload app")
    done = machine.run(CLI, "rehearse", *arguments, check=False)
    drop_in(machine, "app.service", "")
    assert (done.returncode, json.loads(done.stdout)["broken"]) == (1, ["failed-restarts>0: 2"])
