"""``flask-socketact deploy`` of good and bad releases, under load."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support import deployed
from tests.support.deployed import BAD, CLI, GOOD, add_release, current, load, put_back, serving
from tests.support.machine import Machine, drop_in

#: These releases must reach clients.
OPTIONS = ("--no-trial", "--healthy", "1", "--timeout", "20")
#: For releases that never become healthy.
BRIEFLY = ("--no-trial", "--healthy", "1", "--timeout", "10")


@pytest.fixture(scope="module")
def machine_of_module(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with deployed.booted(request.config.getoption("--tree")) as machine:
        yield machine


@pytest.fixture
def machine(machine_of_module: Machine) -> Machine:
    """The good release runs, by a relative link."""
    machine_of_module.run("ln", "-sfn", "releases/good", "/srv/app/current")
    machine_of_module.run("rm", "-rf", "/var/lib/flask-socketact")
    machine_of_module.systemctl("restart", "app")
    return machine_of_module


def steps(machine: Machine) -> list[str]:
    """Return what deploys have written to the service's journal."""
    arguments = ("--output=cat", "--identifier=flask-socketact", "--unit=app")
    return machine.run("journalctl", "--no-pager", *arguments).stdout.splitlines()


@pytest.mark.parametrize("verb", ["restart", "reload"])
def test_a_good_release_is_deployed(machine: Machine, verb: str, figure: Callable[[str], None]) -> None:
    machine.run("rm", "-rf", "/srv/app/releases/next")
    add_release(machine, "next", GOOD)
    before = machine.show("app", "MainPID")
    with load(machine) as seen:
        arguments = ("--json", "--release", "/srv/app/releases/next", *(["--reload"] if verb == "reload" else []))
        result = json.loads(machine.run(CLI, "deploy", "app", *arguments, *OPTIONS).stdout)
    assert result["deployed"]
    assert current(machine) == "/srv/app/releases/next"
    assert serving(machine) == "Release next"
    assert (machine.show("app", "MainPID") == before) == (verb == "reload")
    assert not seen.failures()
    assert seen.closed_by_server == 0
    assert result["steps"] == steps(machine)[-len(result["steps"]) :]
    assert not list(machine.path("/var/lib/flask-socketact").glob("*.json"))
    figure(f"{verb}: {seen.requests} requests, 0 failed")


@pytest.mark.parametrize(
    ("name", "verb", "why"),
    [
        ("raises", "restart", "RuntimeError: no database\n"),
        ("raises", "reload", "RuntimeError: no database\n"),
        ("hangs", "restart", "systemctl restart did not finish within 10 s"),
        ("answers-500", "restart", "had a status of 5xx"),
        ("not-ready", "reload", "/readyz at 127.0.0.1:8000: 503 SERVICE UNAVAILABLE"),
    ],
)
def test_a_bad_release_is_rolled_back(
    machine: Machine, name: str, verb: str, why: str, figure: Callable[[str], None]
) -> None:
    """Clients see nothing of it but its own responses."""
    options: tuple[str, ...] = BRIEFLY if name in ("hangs", "not-ready") else OPTIONS
    options = (*options, "--reload") if verb == "reload" else options
    with load(machine) as seen:
        done = machine.run(CLI, "deploy", "app", "--release", f"/srv/app/releases/{name}", *options, check=False)
        count = seen.requests
        machine.wait_for(lambda: seen.requests > count + 50, "responses")
    assert done.returncode == 1
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert put_back(machine)
    assert machine.show("app", "ActiveState") == "active"
    failures = seen.failures()
    own = sum(count for text, count in failures.items() if "500 b'bad release'" in text)
    assert own == failures.total()
    assert (own > 0) == (name == "answers-500")
    # That one answers uploads before they have ended, and ends their connections with it, as it must.
    assert seen.closed_by_server == 0 or name == "answers-500"
    assert steps(machine)[-1].endswith("releases/good serves again")
    figure(f"{verb}, {name}: {seen.requests} requests, {own} answered by the bad release, 0 failed otherwise")


@pytest.mark.parametrize("moment", ["restarting", "watching"])
def test_a_deploy_that_was_killed_is_undone_by_the_next(
    machine: Machine, moment: str, figure: Callable[[str], None]
) -> None:
    name = "hangs" if moment == "restarting" else "not-ready"
    with load(machine) as seen:
        process = machine.start(CLI, "deploy", "app", "--release", f"/srv/app/releases/{name}", *OPTIONS)
        with process:
            sign = "systemctl restart" if moment == "restarting" else "watching for"
            machine.wait_for(lambda: any(sign in step for step in steps(machine)[-2:]), moment)
            other = machine.run(CLI, "deploy", "app", *OPTIONS, check=False)
            assert other.returncode == 3
            assert "another deploy is running, process" in other.stderr
            machine.run("pkill", "--signal", "KILL", "--full", f"deploy app --release /srv/app/releases/{name}")
            assert process.wait() in (-signal.SIGKILL, 137)
        assert current(machine) == f"/srv/app/releases/{name}"
        again = machine.run(CLI, "deploy", "app", *OPTIONS)
    assert f"The deploy of /srv/app/releases/{name}, begun " in again.stdout
    assert put_back(machine)
    assert machine.show("app", "ActiveState") == "active"
    assert not seen.failures()
    assert seen.closed_by_server == 0
    figure(f"killed while {moment}: {seen.requests} requests, 0 failed")


@contextmanager
def watched(machine: Machine, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Begin to deploy a release that is never healthy, and yield the process while it watches the release."""
    before = len(steps(machine))
    with machine.start(CLI, "deploy", "app", "--release", f"/srv/app/releases/{name}", *options) as process:
        machine.wait_for(lambda: any("watching for" in step for step in steps(machine)[before:]), "the watch")
        yield process


def cut_off(machine: Machine, name: str) -> None:
    """Begin to deploy a release that is never healthy, and kill the deploy."""
    with watched(machine, name, "--timeout", "60", "--no-trial"):
        machine.run("pkill", "--signal", "KILL", "--full", f"deploy app --release /srv/app/releases/{name}")


def test_a_release_that_was_set_by_hand_stays(machine: Machine) -> None:
    """Even if a deploy before was cut off and not rolled back."""
    cut_off(machine, "not-ready")
    add_release(machine, "by-hand", GOOD)
    machine.run("ln", "-sfn", "releases/by-hand", "/srv/app/current")
    machine.systemctl("restart", "app")
    done = machine.run(CLI, "deploy", "app", "--release", "/srv/app/releases/raises", *OPTIONS, check=False)
    assert done.returncode == 1
    text = "was killed, and /srv/app/current is not the link that it made: the link keeps releases/by-hand\n"
    assert text in done.stdout
    assert (current(machine), serving(machine)) == ("releases/by-hand", "Release by-hand")


def test_a_release_that_was_removed_is_not_restored(machine: Machine) -> None:
    machine.run("cp", "-a", "/srv/app/releases/good", "/srv/app/releases/old")
    machine.run("ln", "-sfn", "releases/old", "/srv/app/current")
    machine.systemctl("restart", "app")
    cut_off(machine, "not-ready")
    machine.run("rm", "-r", "/srv/app/releases/old")
    done = machine.run(CLI, "deploy", "app", "--release", "/srv/app/releases/good", *OPTIONS)
    assert "was killed, and releases/old no longer exists: the link keeps /srv/app/releases/not-ready\n" in done.stdout
    assert serving(machine) == "Release good"


def test_responses_over_tls_count(machine: Machine) -> None:
    key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=app -days 2"
    machine.run("sh", "-c", f"{key} -keyout /srv/app/key.pem -out /srv/app/cert.pem && chmod 644 /srv/app/*.pem")
    arguments = "--certfile /srv/app/cert.pem --keyfile /srv/app/key.pem"
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={arguments}"\n')
    try:
        machine.systemctl("restart", "app")
        machine.run("rm", "-rf", "/srv/app/releases/encrypted")
        add_release(machine, "encrypted", GOOD)
        done = machine.run(CLI, "deploy", "app", "--release", "/srv/app/releases/encrypted", *OPTIONS)
        assert "No response at" not in done.stdout
        bad = machine.run(CLI, "deploy", "app", "--release", "/srv/app/releases/not-ready", *BRIEFLY, check=False)
        assert (bad.returncode, "/readyz at 127.0.0.1:8000: 503" in bad.stderr) == (1, True), bad.stderr
    finally:
        drop_in(machine, "app.service", "")


def test_ctrl_c_rolls_back(machine: Machine) -> None:
    with watched(machine, "not-ready", "--timeout", "60", "--no-trial") as process:
        machine.run("pkill", "--signal", "INT", "--full", "deploy app --release /srv/app/releases/not-ready")
        assert process.wait() == 1
    assert put_back(machine)


def test_a_deploy_continues_without_its_terminal(machine: Machine) -> None:
    """It survives the loss of its terminal and its output."""
    add_release(machine, "unwatched", GOOD)
    line = f"{CLI} deploy app --release /srv/app/releases/unwatched {' '.join(OPTIONS)} | true; echo ${{PIPESTATUS[0]}}"
    assert machine.run("bash", "-c", line).stdout == "0\n"
    assert serving(machine) == "Release unwatched"


def test_a_deploy_in_place_says_that_it_cannot_roll_back(machine: Machine) -> None:
    """Without ``--release`` there is no old release to go back to."""
    path = machine.path("/srv/app/releases/good/app.py")
    good = path.read_text()
    try:
        path.write_text(good + BAD["raises"])
        done = machine.run(CLI, "deploy", "app", *OPTIONS, check=False)
        assert (done.returncode, serving(machine)) == (1, "Release good")
        assert "RuntimeError: no database" in done.stderr
        assert "The old workers keep serving" in done.stdout
        path.write_text(good)
        machine.systemctl("restart", "app")  # systemd tries again meanwhile, and would start the next before its deploy
        path.write_text(good + BAD["answers-500"])
        done = machine.run(CLI, "deploy", "app", *OPTIONS, check=False)
        assert done.returncode == 4
        assert "deploy a good one with --release" in done.stderr
    finally:
        path.write_text(good)
    assert machine.run(CLI, "deploy", "app", *OPTIONS).stdout.splitlines()[-1] == "Deployed the release in place"


def test_errors_are_reported_before_anything_is_changed(machine: Machine) -> None:
    began = time.monotonic()
    for arguments, why in (
        (("nope",), "there is no nope.service"),
        (("app", "--release", "/srv/app/releases/none"), "/srv/app/releases/none is not a folder"),
        (("app", "--release", "/srv/app"), "/srv/app contains the link /srv/app/current"),
    ):
        done = machine.run(CLI, "deploy", *arguments, check=False)
        assert (done.returncode, why in done.stderr) == (3, True), done.stderr
    done = machine.run("runuser", "-u", "nobody", "--", CLI, "deploy", "app", check=False)
    assert (done.returncode, "Permission denied" in done.stderr) == (3, True), done.stderr
    machine.path("/var/lib/flask-socketact").mkdir(exist_ok=True)
    machine.path("/var/lib/flask-socketact/app.json").write_text("{")
    done = machine.run(CLI, "deploy", "app", check=False)
    assert (done.returncode, "is malformed" in done.stderr) == (3, True), done.stderr
    assert put_back(machine)
    assert time.monotonic() - began < 60


def test_units_that_are_not_ours_or_masked_are_not_restarted(machine: Machine) -> None:
    machine.systemctl("mask", "shop.service")
    for name, why in (
        ("dbus", "dbus.service does not run gunicorn"),
        ("systemd-journald", "systemd-journald.service does not run gunicorn"),
        ("shop", "shop.service is masked: run systemctl unmask shop.service, then deploy again"),
    ):
        before = machine.show(name, "MainPID")
        done = machine.run(CLI, "deploy", name, check=False)
        assert (done.returncode, why in done.stderr, done.stderr.count("\n")) == (3, True, 1), done.stderr
        assert machine.show(name, "MainPID") == before
    machine.systemctl("unmask", "shop.service")


def test_a_service_that_is_stopped_during_a_deploy_stays_stopped(machine: Machine) -> None:
    with watched(machine, "not-ready", "--timeout", "60", "--no-trial") as process:
        machine.systemctl("stop", "app.service")
        _, told = process.communicate(timeout=60)
    assert process.returncode == 4
    text = "Error: app.service was stopped; releases/good is in place again: start it with systemctl start app.service"
    assert told.splitlines() == ["Error: not deployed: the service was stopped", text]
    assert (current(machine), machine.show("app", "ActiveState")) == ("releases/good", "inactive")
    assert not list(machine.path("/var/lib/flask-socketact").glob("*.json"))
    machine.systemctl("start", "app")
    assert put_back(machine)


def test_a_link_with_the_same_target_that_was_made_by_hand_stays(machine: Machine) -> None:
    """After a deploy that was cut off, and while a deploy watches the service."""
    cut_off(machine, "not-ready")
    machine.run("ln", "-sfn", "/srv/app/releases/not-ready", "/srv/app/current")
    text = "/srv/app/current is not the link that it made: the link keeps /srv/app/releases/not-ready\n"
    options = ("--release", "/srv/app/releases/good", *OPTIONS)
    assert text in machine.run(CLI, "deploy", "app", *options).stdout
    with watched(machine, "not-ready", "--no-trial", "--timeout", "12") as process:
        machine.run("ln", "-sfn", "/srv/app/releases/not-ready", "/srv/app/current")
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told.count("\n")) == (4, 2), told
    assert "/srv/app/current is not the link that the deploy made, and was not changed: check where it leads" in told
    assert current(machine) == "/srv/app/releases/not-ready"


def test_an_old_release_that_no_longer_boots_needs_a_person(machine: Machine) -> None:
    """The next deploy starts afresh."""
    add_release(machine, "rotten", GOOD)
    machine.run("ln", "-sfn", "releases/rotten", "/srv/app/current")
    machine.systemctl("restart", "app")
    add = BAD["raises"]
    path = machine.path("/srv/app/releases/rotten/app.py")
    path.write_text(path.read_text() + add)
    done = machine.run(CLI, "deploy", "app", "--release", "/srv/app/releases/raises", *OPTIONS, check=False)
    assert (done.returncode, "releases/rotten does not start: " in done.stderr) == (4, True), done.stderr
    done = machine.run(CLI, "deploy", "app", "--release", "/srv/app/releases/good", *OPTIONS)
    assert "was killed" not in done.stdout
    assert serving(machine) == "Release good"


def test_the_log_of_a_bad_release_is_quoted_in_one_line(machine: Machine) -> None:
    """It has control characters, and 20 MB."""
    write = "from systemd import journal\njournal.send({}, PRIORITY='3')\nraise SystemExit(3)\n"
    for name, message in (("long", "'x' * 20_000_000"), ("coloured", "'\\x1b[2Jno \\x07database'")):
        machine.run("rm", "-rf", f"/srv/app/releases/{name}")
        add_release(machine, name, GOOD + write.format(message))
        done = machine.run(CLI, "deploy", "app", "--release", f"/srv/app/releases/{name}", *OPTIONS, check=False)
        assert (done.returncode, len(done.stderr) < 1000, done.stderr.count("\n")) == (1, True, 1), done.stderr[:2000]
        assert (done.stdout + done.stderr).replace("\n", "").isprintable()
    assert put_back(machine)


def test_a_reload_is_refused_where_workers_must_not_overlap(machine: Machine) -> None:
    """Before anything is changed."""
    drop_in(machine, "app.service", "[Service]\nEnvironment=SOCKETACT_OVERLAP=no\n")
    try:
        arguments = ("--reload", "--release", "/srv/app/releases/raises")
        done = machine.run(CLI, "deploy", "app", *arguments, *OPTIONS, check=False)
        assert (done.returncode, "deploy without --reload\n" in done.stderr) == (3, True), done.stderr
        assert put_back(machine)
    finally:
        drop_in(machine, "app.service", "")
