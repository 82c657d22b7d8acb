"""HAProxy in front of two services that have an agent, and ``flask-socketact lb``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import haproxy
from tests.support.haproxy import admin, asked, chosen, servers, wait_until_asked
from tests.support.http import ask, read_until
from tests.support.load import Load
from tests.support.machine import Machine, install

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable

COMMAND = "/srv/app/venv/bin/flask-socketact"
SHARE = "/var/lib/flask-socketact/one.share"
#: Clients that HAProxy spreads over the servers.
CLIENTS = {"new connection": 4, "keep-alive": 6, "long request": 1}


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine)
        haproxy.install(machine)
        for number, name in enumerate(("one", "two")):
            where = ("--listen", f"127.0.0.{5 + number}:8000", "--agent", f"127.0.0.{5 + number}:8001")
            of = ("--name", name, "--user", "app", "--directory", "/srv/app", "--workers", "1", "--threads", "4")
            machine.run(COMMAND, "units", *of, *where, "--install")
            machine.systemctl("enable", "--now", f"{name}.socket", f"{name}.service")
        haproxy.configure(machine, inter="500ms")
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """A machine on which no share is set, and HAProxy has just started."""
    for name in ("one", "two"):
        booted.path(f"/var/lib/flask-socketact/{name}.share").unlink(missing_ok=True)
    booted.systemctl("reset-failed", "haproxy")
    booted.systemctl("restart", "haproxy")
    booted.wait_for(
        lambda: servers(booted) == {"app1": ("UP", 100), "app2": ("UP", 100)}, "HAProxy to have two servers"
    )
    return booted


def lb(machine: Machine, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return machine.run(COMMAND, "lb", *arguments, check=check)


def shown(machine: Machine, name: str = "one") -> dict[str, Any]:
    return dict(json.loads(lb(machine, name, "--json").stdout))


def answer(machine: Machine, number: int = 1) -> str:
    """Return what an agent says."""
    with machine.connect((f"127.0.0.{4 + number}", 8001)) as client:
        return client.makefile().read()


def begin(machine: Machine) -> socket.socket:
    """Begin a request that is in flight for five seconds."""
    client = machine.connect(("127.0.0.5", 8000))
    client.sendall(b"GET /stream/50 HTTP/1.1\r\nHost: app\r\n\r\n")
    read_until(client, b"\r\n\r\n")
    return client


def test_a_drain_is_noticed_by_no_client(machine: Machine, figure: Callable[[str], None]) -> None:
    """It survives a stop of the service and a reload of HAProxy, and ends by itself."""
    with Load(partial(machine.connect, ("127.0.0.1", 80)), CLIENTS) as load:
        machine.wait_for(lambda: load.requests > 50, "responses")
        unfinished = begin(machine)
        began = time.monotonic()
        done = lb(machine, "one", "drain", "--wait")
        waited = time.monotonic() - began
        assert "Waiting for " in done.stdout
        assert "one: drained" in done.stdout
        with unfinished:
            unfinished.setblocking(False)  # the response was complete before --wait ended
            read_until(unfinished, b"49\n\r\n0\r\n\r\n")
        before = chosen(machine)
        machine.systemctl("stop", "one.service")
        wait_until_asked(machine)
        machine.systemctl("start", "one.service")
        machine.wait_for(lambda: servers(machine)["app1"] == ("UP", 0), "HAProxy to have both servers")
        assert chosen(machine)["app1"] == before["app1"]
        assert chosen(machine)["app2"] > before["app2"]
        haproxy.reload(machine)
        machine.wait_for(lambda: servers(machine)["app1"][1] == 0, "the new HAProxy to hear it", 5)
        lb(machine, "one", "drain", "--for", "3")
        began = time.monotonic()
        machine.wait_for(lambda: servers(machine)["app1"] == ("UP", 100), "the end of --for", 15)
        assert time.monotonic() - began > 2
        before = chosen(machine)
        machine.wait_for(lambda: chosen(machine)["app1"] > before["app1"], "requests for a server that is back", 15)
    assert not load.failures()
    assert shown(machine) | {"asked": 0} == {
        "service": "one.service",
        "state": "ready",
        "weight": 100,
        "expires_in": None,
        "addresses": ["127.0.0.5:8001"],
        "is_listening": True,
        "asked": 0,
    }
    figure(f"{load.requests} requests, {load.failures().total()} failed; --wait took {waited:.1f} s")


def test_a_weight_is_a_share_of_the_requests(machine: Machine, figure: Callable[[str], None]) -> None:
    lb(machine, "one", "weight", "10%")
    machine.wait_for(lambda: servers(machine)["app1"] == ("UP", 10), "HAProxy to hear it", 5)
    before = chosen(machine)
    for _ in range(220):
        assert ask(partial(machine.connect, ("127.0.0.1", 80)))[0] == 200
    share = chosen(machine)["app1"] - before["app1"]
    assert 15 <= share <= 25
    figure(f"{share} of 220 requests with a weight of 10 next to one of 100")
    lb(machine, "one", "ready")
    machine.wait_for(lambda: servers(machine)["app1"] == ("UP", 100), "HAProxy to hear it", 5)


def test_what_an_administrator_does_in_haproxy_stays(machine: Machine) -> None:
    admin(machine, "set server app/app1 state maint")
    admin(machine, "set weight app/app2 50%")
    wait_until_asked(machine)
    assert servers(machine) == {"app1": ("MAINT", 100), "app2": ("UP", 50)}
    assert shown(machine)["state"] == "unset"
    lb(machine, "one", "drain")
    lb(machine, "one", "ready")
    wait_until_asked(machine)
    assert servers(machine)["app1"] == ("MAINT", 100)


def test_the_answer_after_a_reboot_or_with_a_malformed_file(machine: Machine) -> None:
    file = machine.path(SHARE)
    assert answer(machine) == "\n"
    lb(machine, "one", "drain")
    assert (answer(machine), shown(machine)["state"]) == ("0%\n", "drain")
    text = file.read_text()
    file.write_text(f"0% {'0' * 32} never\n")
    assert (answer(machine), shown(machine)["state"]) == ("100%\n", "ready")
    for damaged in ("", "drain\n", text[:5] + "x" * 100_000, "$(id)% a never"):
        file.write_text(damaged)
        assert answer(machine) in ("\n", "100%\n")
    assert "is malformed" in lb(machine, "one", check=False).stderr
    assert "is malformed" in machine.run(COMMAND, "status", "one").stdout
    lb(machine, "one", "weight", "5")
    assert answer(machine) == "5%\n"


def test_a_full_disk_changes_nothing(machine: Machine) -> None:
    lb(machine, "one", "weight", "20%")
    machine.run("mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", "/var/lib/flask-socketact")
    try:
        machine.run(
            "sh",
            "-c",
            "echo 0% x never >/var/lib/flask-socketact/one.share; cat /dev/zero >/var/lib/flask-socketact/f; :",
        )
        done = lb(machine, "one", "drain", check=False)
        assert (done.returncode, "No space left on device: HAProxy is told the same" in done.stderr) == (3, True)
        assert sorted(path.name for path in machine.path("/var/lib/flask-socketact").iterdir()) == ["f", "one.share"]
    finally:
        machine.run("umount", "/var/lib/flask-socketact")
    assert answer(machine) == "20%\n"


def test_two_commands_at_once(machine: Machine) -> None:
    running = [machine.start(COMMAND, "lb", "one", *verb) for verb in (["drain"], ["weight", "50%"], ["ready"])]
    for process in running:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert answer(machine) in ("0%\n", "50%\n", "100%\n")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("three", "drain"), 3, "there is no three.service"),
        (("plain", "drain"), 3, "plain was made without --agent, so HAProxy cannot ask it: "),
        (("one", "drain", "--wait", "--timeout", "1"), 1, "one is drained, but after 1 s it still waits for "),
    ],
)
def test_what_cannot_be_done(machine: Machine, arguments: tuple[str, ...], status: int, words: str) -> None:
    unit = machine.path("/etc/systemd/system/plain.service")
    unit.write_text("[Service]\nExecStart=true\n")
    machine.systemctl("daemon-reload")
    done = lb(machine, *arguments, check=False)
    assert (done.returncode, done.stderr.count("\n"), words in done.stderr) == (status, 1, True), done
    unit.unlink()


def test_only_root_may_drain(machine: Machine) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return machine.run("setpriv", "--reuid=app", "--clear-groups", COMMAND, "lb", "one", *arguments, check=False)

    assert run().returncode == 0
    done = run("drain")
    assert (done.returncode, done.stderr) == (3, f"Error: {SHARE} belongs to root: use sudo\n")
    assert answer(machine) == "\n"


def test_a_closed_agent_is_reported(machine: Machine) -> None:
    machine.systemctl("stop", "one-agent.socket")
    remedy = "systemctl enable --now one-agent.socket"
    done = lb(machine, "one", "drain", check=False)
    assert (done.returncode, remedy in done.stderr) == (3, True)
    assert (remedy in lb(machine, "one", "ready").stderr) is True
    assert "systemctl start one-agent.socket" in machine.run(COMMAND, "list").stdout
    assert remedy in machine.run(COMMAND, "doctor", "one", "--quiet", check=False).stdout
    machine.systemctl("start", "one-agent.socket")


def test_the_other_commands_show_a_drain(machine: Machine) -> None:
    lb(machine, "one", "drain")
    assert "balancer: drained" in machine.run(COMMAND, "status", "one").stdout
    assert json.loads(machine.run(COMMAND, "status", "one", "--json").stdout)["share"] == {
        "weight": 0,
        "expires_in": None,
    }
    assert "lb one ready" in machine.run(COMMAND, "list").stdout
    found = json.loads(machine.run(COMMAND, "doctor", "one", "--json", check=False).stdout)
    verdicts = {each["check"]: each["verdict"] for each in found}
    assert (verdicts["agent"], verdicts["share"]) == ("ok", "warning")


def test_checks_leave_nothing_in_the_journal(machine: Machine) -> None:
    """Nor units that have failed. This runs after other tests."""
    assert asked(machine, "one") > 0
    assert "agent@" not in machine.run("journalctl", "--no-pager").stdout
    assert machine.systemctl("list-units", "--all", "--no-legend", "--state=failed", "one-agent@*").stdout == ""


def test_new_options_move_the_agent_and_a_removal_leaves_nothing(machine: Machine) -> None:
    """This is the last test, since it removes a service."""
    machine.run(COMMAND, "units", "--again", "two", "--agent", "127.0.0.6:8002")
    with machine.connect(("127.0.0.6", 8002)) as client:
        assert client.makefile().read() == "\n"
    assert machine.show("two.service", "ActiveState") == "active"
    lb(machine, "two", "drain")
    done = machine.run(COMMAND, "units", "--remove", "two")
    assert "Removed /var/lib/flask-socketact/two.share" in done.stdout
    assert machine.systemctl("list-unit-files", "two*", "--no-legend", check=False).stdout == ""
    with pytest.raises(ConnectionRefusedError):
        machine.connect(("127.0.0.6", 8002))
