"""``flask-socketact deploy --canary``: a few of HAProxy's requests judge a release that has passed its trial."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.support import haproxy
from tests.support.deployed import CLI, GOOD, add_release, current
from tests.support.haproxy import asked, servers
from tests.support.load import Load
from tests.support.machine import Machine, install

STATE = "/var/lib/flask-socketact"
SHARE, RECORD = f"{STATE}/one.share", f"{STATE}/one.json"
OPTIONS = ("--canary", "10%", "--healthy", "3", "--timeout", "30")
CLIENTS = {"new connection": 6, "keep-alive": 6}
#: The old release loads slowly: so long a bad one would serve, after it was detected.
SLOW = "\ntime.sleep(5)\n"
#: Passes the trial, which sends other requests than clients do.
BAD = """
@app.before_request
def fail():
    if request.headers.get('User-Agent') == 'flask-socketact-rehearse': return 'bad release', 500
"""
#: HAProxy's agent-inter, the time from READY=1 to the report of it, and a second for this machine.
DELAYS = 3.0


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine)
        haproxy.install(machine)
        for name, source in {"good": GOOD, "slow": GOOD + SLOW, "next": GOOD, "bad": GOOD + BAD}.items():
            add_release(machine, name, source)
        machine.run("ln", "-s", "releases/good", "/srv/app/current")
        python = ("--python", "/srv/app/venv/bin/python3", "--user", "app", "--workers", "1", "--threads", "8")
        for number, (name, folder) in enumerate({"one": "/srv/app/current", "two": "/srv/app"}.items()):
            where = ("--listen", f"127.0.0.{5 + number}:8000", "--agent", f"127.0.0.{5 + number}:8001")
            machine.run(CLI, "units", "--name", name, "--directory", folder, *python, *where, "--install")
        machine.run(CLI, "units", "--name", "plain", "--directory", "/srv/app/current", *python, "--install")
        machine.systemctl("start", "one.service", "two.service", "plain.socket")
        haproxy.configure(machine)
        machine.systemctl("restart", "haproxy")
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """The good release runs, with its full share. A test leaves no record of a deploy behind."""
    booted.path(SHARE).unlink(missing_ok=True)
    if current(booted) != "releases/good":
        _put_in_place(booted, "good")
    booted.systemctl("restart", "haproxy")
    full = {"app1": ("UP", 100), "app2": ("UP", 100)}
    booted.wait_for(lambda: servers(booted) == full and asked(booted, "one") > 0, "HAProxy to have two servers")
    yield booted
    assert not booted.path(RECORD).exists()


def _put_in_place(machine: Machine, name: str) -> None:
    machine.run("ln", "-sfn", f"releases/{name}", "/srv/app/current")
    machine.systemctl("restart", "one")


def deploy(machine: Machine, release: str, *options: str, name: str = "one") -> subprocess.CompletedProcess[str]:
    return machine.run(CLI, "deploy", name, "--release", f"/srv/app/releases/{release}", *options, check=False)


@contextmanager
def watched(machine: Machine, name: str) -> Iterator[subprocess.Popen[str]]:
    """Begin to deploy a release as a canary, and yield the process while it watches the release."""
    began = max(steps(machine).values(), default=0.0)
    options = ("--no-trial", "--canary", "10%", "--healthy", "60")
    with machine.start(CLI, "deploy", "one", "--release", f"/srv/app/releases/{name}", *options) as process:
        machine.wait_for(lambda: any("watching" in text and at > began for text, at in steps(machine).items()), "watch")
        yield process


def load(machine: Machine) -> Load:
    return Load(partial(machine.connect, ("127.0.0.1", 80)), CLIENTS)


def share(machine: Machine) -> Any:
    return json.loads(machine.run(CLI, "lb", "one", "--json").stdout)["weight"]


def steps(machine: Machine) -> dict[str, float]:
    """Return the last deploys' steps, and when they were reported, in seconds."""
    arguments = ("--identifier=flask-socketact", "--unit=one", "--output=json", "--no-pager")
    rows = map(json.loads, machine.run("journalctl", *arguments).stdout.splitlines())
    return {row["MESSAGE"]: int(row["__REALTIME_TIMESTAMP"]) / 1e6 for row in rows}


def step(machine: Machine, words: str) -> float:
    return max(at for text, at in steps(machine).items() if words in text)


def test_a_bad_release_reaches_few_clients_for_a_moment(machine: Machine, figure: Callable[[str], None]) -> None:
    """However long the old release takes to load. Without a canary, clients get errors all that time."""
    _put_in_place(machine, "slow")
    errors, rates = {}, {}
    for how, options in {"canary": OPTIONS, "whole share": OPTIONS[2:]}.items():
        began = time.monotonic()
        with load(machine) as seen:
            done = deploy(machine, "bad", "--no-trial" if how == "whole share" else "--trial", *options)
        assert (done.returncode, current(machine)) == (1, "releases/slow"), done.stdout + done.stderr
        assert (done.stderr.count("\n"), "had a status of 5xx" in done.stderr) == (1, True)
        rates[how] = seen.requests / (time.monotonic() - began)
        failures = seen.failures()
        errors[how] = failures.total()
        assert all("500 b'bad release'" in text for text in failures), failures
        if how == "canary":
            lines = done.stdout.splitlines()
            assert lines[1].startswith("The trial was good")
            assert lines[-1] == "HAProxy sends the full share again"
            detection = step(machine, "Drained: ") - step(machine, "Ready after ")
            assert step(machine, "serves again") - step(machine, "Drained: ") > 5
    expected = rates["canary"] * 10 / 110 * (detection + DELAYS)
    assert 3 <= errors["canary"] <= 3 + 2 * expected
    assert errors["whole share"] > 2 * errors["canary"]
    assert share(machine) == 100
    figure(
        f"clients got {errors['canary']} errors of {rates['canary']:.0f} requests/s, detected after {detection:.1f} s;"
        f" without --canary {errors['whole share']}, of {rates['whole share']:.0f}/s"
    )


def test_a_good_release_gets_its_share_back(machine: Machine, figure: Callable[[str], None]) -> None:
    with (
        load(machine) as seen,
        machine.start(CLI, "deploy", "one", "--release", "/srv/app/releases/next", "--json", *OPTIONS) as process,
    ):
        machine.wait_for(lambda: servers(machine)["app1"][1] == 10, "HAProxy to hear of the canary")
        result = json.loads(process.communicate()[0])
        machine.wait_for(lambda: servers(machine)["app1"] == ("UP", 100), "HAProxy to hear of its end")
    assert (result["deployed"], result["error"], share(machine)) == (True, "", 100), result
    assert not seen.failures()
    assert seen.closed_by_server == 0
    told = result["steps"]
    assert told[2:4] == ["Waiting for HAProxy to ask 127.0.0.5:8001", "HAProxy sends 10% of its share of the requests"]
    assert told[-3].startswith("Healthy: ")
    assert told[-2:] == ["HAProxy sends the full share again", "Deployed /srv/app/releases/next"]
    figure(f"{seen.requests} requests, 0 failed; {told[-3]}")


def test_too_little_traffic_is_inconclusive(machine: Machine) -> None:
    """HAProxy's health checks do not count. Without a canary a quiet server takes the release."""
    done = deploy(machine, "next", "--no-trial", "--canary", "10%", "--healthy", "1", "--timeout", "8")
    assert (done.returncode, current(machine), share(machine)) == (1, "releases/good", 100), done
    words = "not deployed: inconclusive: clients got 0 responses before the timeout, and 20 are needed: set a larger"
    assert (done.stderr.count("\n"), words in done.stderr) == (1, True), done
    assert haproxy.rows(machine)["app1"]["check_status"] == "L7OK"
    done = deploy(machine, "next", "--no-trial", "--healthy", "2", "--canary", "10%", "--canary", "100%")
    assert (done.returncode, current(machine)) == (0, "/srv/app/releases/next"), done
    assert "Healthy, but no requests came: only the pages were judged" in done.stdout


def test_a_deploy_that_was_killed_keeps_its_share_until_the_next(machine: Machine) -> None:
    """The next one rolls back, and nothing stays drained."""
    with watched(machine, "bad") as process:
        machine.run("pkill", "--signal", "KILL", "--full", "deploy one --release /srv/app/releases/bad")
        assert process.wait() in (-signal.SIGKILL, 137)
    assert (current(machine), share(machine)) == ("/srv/app/releases/bad", 10)
    done = machine.run(CLI, "deploy", "one", "--no-trial", "--healthy", "1")
    assert "/srv/app/releases/bad, begun " in done.stdout
    assert (current(machine), share(machine)) == ("releases/good", 100)


def test_a_full_disk_does_not_stop_a_rollback(machine: Machine) -> None:
    """It cannot drain the service then, nor set its full share again. It has been told to roll back by Ctrl-C."""
    with watched(machine, "bad") as process:
        _fill(machine)
        machine.run("pkill", "--signal", "INT", "--full", "deploy one --release /srv/app/releases/bad")
        out, told = process.communicate()
    machine.run("umount", STATE)
    machine.path(RECORD).unlink()  # it was below the mount
    ready = f"No space left on device: HAProxy is told the same as before: run {CLI} lb one ready when that"
    assert (process.returncode, "Not drained: " in out, ready in told) == (4, True, True), out + told
    assert current(machine) == "releases/good"


def _fill(machine: Machine) -> None:
    """Mount a full disk with the files of the deploy."""
    copy = f"cp -a {STATE} /tmp/state && mount -t tmpfs -o size=16k tmpfs {STATE} && cp -a /tmp/state/. {STATE}"
    machine.run("sh", "-c", f"{copy} && rm -r /tmp/state; cat /dev/zero >{STATE}/filler; :")


@pytest.mark.parametrize(
    ("name", "before", "options", "words"),
    [
        ("plain", "", (), "plain was made without --agent, so HAProxy cannot ask it: "),
        ("one", "lb one drain", (), "(drained, HAProxy sends no new requests): deploy without --canary, or run "),
        ("one", "lb one weight 50", (), "(HAProxy sends 50% of its share of the requests): deploy without"),
        ("one", "", ("--release", "/srv/app/releases/good"), "is in place already, with no release to roll back"),
    ],
)
def test_what_is_refused(machine: Machine, name: str, before: str, options: tuple[str, ...], words: str) -> None:
    if before:
        machine.run(CLI, *before.split())
    was = (machine.show(name, "MainPID"), share(machine), current(machine))
    done = deploy(machine, "next", *OPTIONS, *options, name=name)
    assert (done.returncode, done.stderr.count("\n"), words in done.stderr) == (3, 1, True), done
    assert (machine.show(name, "MainPID"), share(machine), current(machine)) == was


def test_haproxy_must_ask(machine: Machine) -> None:
    """A closed port, and a HAProxy that has never asked, are found before anything is changed; or else it waits."""
    machine.systemctl("stop", "one-agent.socket")
    done = deploy(machine, "next", *OPTIONS)
    assert (done.returncode, "one-agent.socket is not active" in done.stderr) == (3, True), done
    machine.systemctl("start", "one-agent.socket")
    machine.run(CLI, "units", "--again", "plain", "--agent", "127.0.0.7:8001")
    machine.systemctl("start", "plain-agent.socket")
    done = deploy(machine, "next", *OPTIONS, name="plain")
    assert (done.returncode, "HAProxy has not asked 127.0.0.7:8001 yet" in done.stderr) == (3, True), done
    machine.systemctl("stop", "haproxy")
    with machine.start(CLI, "deploy", "one", "--release", "/srv/app/releases/next", "--no-trial", *OPTIONS) as process:
        machine.wait_for(lambda: share(machine) == 10, "the canary")
        machine.run("pkill", "--signal", "TERM", "--full", "deploy one --release /srv/app/releases/next")
        told = process.communicate()[1]
    assert (process.returncode, "interrupted before anything was changed" in told) == (3, True), told
    assert (share(machine), current(machine)) == (100, "releases/good")
