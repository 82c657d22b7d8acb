"""Instances of a template: each has its own address, and restarts without its clients or the others noticing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from flask_socketact.errors import RequestError
from tests.support.http import ask
from tests.support.load import Load
from tests.support.machine import Machine, install, release
from tests.support.operations import BROKEN, wait_for_old

CLI = "/srv/app/venv/bin/flask-socketact"
PORTS = {"1": 8001, "2": 8002}
PAGE = (Path(__file__).parents[2] / "docs/systemd.md").read_text()
#: As an administrator has written it, for plain gunicorn.
OLD = """
    [Service]
    User=app
    WorkingDirectory=/srv/app
    Environment=REGION=%i
    ExecStart=/srv/app/venv/bin/gunicorn --bind unix:/run/old-%i/web.sock --timeout 90 app:app
    RuntimeDirectory=old-%i

    [Install]
    WantedBy=multi-user.target
    """
CLIENTS = {"new connection": 4, "keep-alive": 4, "keep-alive, mostly idle": 10, "long request": 2, "slow upload": 2}


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine)
        machine.run("useradd", "--create-home", "--uid", "902", "web")
        make, *start = re.findall(r"```sh\n(.*?)```", PAGE.split("\n## Several instances\n")[1], re.DOTALL)[
            0
        ].splitlines()
        sudo = f'sudo() {{ "$@"; }}; PATH={Path(CLI).parent}:$PATH'
        installed = machine.run("sh", "-ec", f"{sudo}; {make}").stdout
        assert "Start an instance with:  systemctl enable --now app@1.socket app@1.service" in installed
        listed = json.loads(machine.run(CLI, "list", "--json").stdout)
        assert [(each["name"], each["state"]) for each in listed] == [("app@", "template")]
        machine.run("sh", "-c", listed[0]["remedy"].partition(": ")[2].partition(" starts")[0])
        machine.run("sh", "-ec", f"{sudo}; {'; '.join(start)}")
        yield machine


@pytest.fixture(autouse=True)
def restored(machine: Machine) -> None:
    release(machine)


def listed(machine: Machine) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(machine.run(CLI, "list", "--json").stdout)}


def page(machine: Machine, instance: str) -> int:
    try:
        return ask(partial(machine.connect, ("127.0.0.1", PORTS[instance])))[0]
    except (RequestError, OSError):
        return 0


def test_restarts_one_by_one(machine: Machine, figure: Callable[[str], None]) -> None:
    """By systemctl, by a reload, by deploy and by rehearse, with clients at both."""
    first, second = (partial(machine.connect, ("127.0.0.1", port)) for port in PORTS.values())
    with Load(first, CLIENTS) as one, Load(second, CLIENTS) as two:
        for verb, name in (("restart", "app@2"), ("reload", "app@1")):
            seen = one.requests, two.requests
            machine.wait_for(
                lambda seen=seen: one.requests > seen[0] + 30 and two.requests > seen[1] + 30,  # type: ignore[misc]
                "responses",
            )
            other = machine.show("app@2" if name == "app@1" else "app@1", "MainPID")
            machine.systemctl(verb, name)
            assert machine.show("app@2" if name == "app@1" else "app@1", "MainPID") == other
        rehearsed = machine.run(
            CLI, "rehearse", "--url", "http://127.0.0.1:8001/", "--restarts", "1", "--every", "1"
        ).stdout
        assert "systemctl --system restart app@1.service" in rehearsed
        assert rehearsed.endswith("Kept: no client noticed.\n")
        assert "Deployed the release in place" in machine.run(CLI, "deploy", "app@2", "--healthy", "1").stdout
    for load in (one, two):
        assert not load.failures()
        assert load.closed_by_server == 0
    for instance in PORTS:
        wait_for_old(machine, f"app:{instance}")
        assert f"the old workers keep serving in app:{instance}-drain-" in machine.journal(f"app@{instance}")
        assert "error" not in machine.run(CLI, "doctor", f"app@{instance}", "--quiet").stdout
    carried = json.loads(machine.run(CLI, "status", "app@1", "--json").stdout)["restart"]["carried"]
    assert carried > 0
    requests = one.requests + two.requests
    figure(f"4 restarts and reloads of 2 instances, {requests} requests, 0 failed, 0 closed, {carried} carried")


def test_a_release_that_does_not_boot_leaves_each_instance_serving(machine: Machine) -> None:
    release(machine, BROKEN)
    assert machine.systemctl("restart", "app@1", check=False).returncode != 0
    assert (page(machine, "1"), page(machine, "2")) == (200, 200)
    machine.wait_for(lambda: listed(machine)["app@1"]["state"] == "failed", "the next attempt to fail")
    status = json.loads(machine.run(CLI, "status", "app@1", "--json", check=False).stdout)
    assert {worker["state"] for worker in status["workers"]} == {"relayed"}
    release(machine)
    machine.systemctl("restart", "app@1")
    wait_for_old(machine, "app:1")


def test_commands_know_instances(machine: Machine) -> None:
    found = listed(machine)
    assert set(found["app@1"]["addresses"]) == {"127.0.0.1:8001", "/run/app/1.sock"}
    assert {name: (each["state"], each["remedy"]) for name, each in found.items()} == {
        "app@1": ("active", ""),
        "app@2": ("active", ""),
    }
    assert ask(partial(machine.connect, "/run/app/2.sock"))[1].endswith(b"by listener admin\n")
    words = {"COMP_WORDS": "flask-socketact status app@", "COMP_CWORD": "2"}
    asked = words | {"_FLASK_SOCKETACT_COMPLETE": "bash_complete"}
    completed = machine.run("env", *(f"{name}={value}" for name, value in asked.items()), CLI)
    assert completed.stdout.split() == ["plain,app@1", "plain,app@2"]


def test_a_name_with_a_dash(machine: Machine) -> None:
    """systemd-escape would write it with a backslash."""
    instance = "eu-west"
    name = f"shop@{instance}"
    options = "--name shop@ --user app --directory /srv/app --listen /run/shop/%i.sock --install"
    machine.run(CLI, "units", *shlex.split(options))
    machine.systemctl("start", f"{name}.socket", f"{name}.service")
    connect = partial(machine.connect, f"/run/shop/{instance}.sock")
    with Load(connect, {"new connection": 3, "keep-alive": 3}) as load:
        machine.wait_for(lambda: load.requests > 30, "responses")
        machine.systemctl("restart", name)
    assert not load.failures()
    assert load.closed_by_server == 0
    assert f"the old workers keep serving in {name.replace('@', ':')}-drain-" in machine.journal(name)
    found = listed(machine)[name]
    assert (found["state"], found["remedy"]) == ("active", "")
    assert "error" not in machine.run(CLI, "doctor", name, "--quiet", check=False).stdout
    assert len(json.loads(machine.run(CLI, "status", name, "--json").stdout)["workers"]) >= 2
    removed = machine.run(CLI, "units", "--remove", "shop@").stdout
    assert "Removed /etc/systemd/system/shop@.service" in removed
    assert machine.show(name, "LoadState") == "not-found"


def test_a_template_is_taken_over(machine: Machine) -> None:
    machine.path("/etc/systemd/system/old@.service").write_text(dedent(OLD))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "old@eu.service", "old@us.service")
    done = machine.run(CLI, "units", "--from", "old@", "--install")
    (eu, us) = [line.strip() for line in done.stdout.splitlines() if line.startswith("  systemctl stop")]
    machine.run("sh", "-ec", f"{eu}; {us}")
    for region in ("eu", "us"):
        assert ask(partial(machine.connect, f"/run/old-{region}/web.sock"))[0] == 200
        assert f"REGION={region}" in machine.show(f"old@{region}", "Environment").split()
    machine.systemctl("restart", "old@eu")
    assert "error" not in machine.run(CLI, "doctor", "old@eu", "--quiet", check=False).stdout
    machine.run(CLI, "units", "--remove", "old@")


def test_a_user_s_own_instances(machine: Machine) -> None:
    machine.systemctl("start", "user@902.service")
    as_web = ("runuser", "-u", "web", "--", "env", "XDG_RUNTIME_DIR=/run/user/902", "HOME=/home/web")
    manager = (*as_web, "systemctl", "--user")
    options = "--user-manager --name web@ --directory /srv/app --listen 127.0.0.1:801%i --install"
    machine.run(*as_web, CLI, "units", *shlex.split(options))
    machine.run(*manager, "enable", "--now", "web@1.socket", "web@1.service")
    with Load(partial(machine.connect, ("127.0.0.1", 8011)), {"new connection": 3, "keep-alive": 3}) as load:
        machine.wait_for(lambda: load.requests > 30, "responses")
        machine.run(*manager, "restart", "web@1")
    assert not load.failures()
    assert load.closed_by_server == 0
    relayed = machine.run("journalctl", "--no-pager", "--output=cat", "--identifier=relay").stdout
    assert "the old workers keep serving in web:1-drain-" in relayed
    assert "error" not in machine.run(*as_web, CLI, "doctor", "--user-manager", "web@1", check=False).stdout
    machine.run(*as_web, CLI, "units", "--user-manager", "--remove", "web@")
    assert not list(machine.path("/home/web/.config/systemd/user").rglob("web*"))


def test_units_are_made_again_and_removed(machine: Machine) -> None:
    done = machine.run(CLI, "units", "--again", "app@", "--workers", "3")
    (apply,) = [line.partition("with: ")[2] for line in done.stdout.splitlines() if "old units" in line]
    assert apply == "systemctl restart app@1 app@2"
    machine.run("sh", "-c", apply)
    wait_for_old(machine, "app:*")
    assert [len(machine.workers(f"app@{instance}")) for instance in PORTS] == [3, 3]
    moved = machine.run(CLI, "units", "--again", "app@", "--listen", "127.0.0.1:809%i").stdout
    (change,) = [line.strip() for line in moved.splitlines() if line.startswith("  systemctl stop")]
    machine.run("sh", "-c", change)
    assert ask(partial(machine.connect, ("127.0.0.1", 8092)))[0] == 200
    told = machine.run(CLI, "units", "--again", "app@1", check=False)
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    removed = machine.run(CLI, "units", "--remove", "app@1").stdout
    assert "  the units of app@, for other instances\n  /var/lib/app@1: the data of the application\n" in removed
    machine.wait_for(lambda: list(listed(machine)) == ["app@2"], "systemd to forget the instance")
    machine.run(CLI, "units", "--remove", "app@")
    assert not list(machine.path("/etc/systemd/system").rglob("app*"))
    assert machine.systemctl("list-units", "--all", "--plain", "--no-legend", "app*").stdout == ""
