"""The controller and machines die in the middle of a deploy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest

from tests.support.fleet import Fleet, serve
from tests.support.playbooks import Playbooks

pytestmark = pytest.mark.long

#: Requests that may be sent again, and whose responses begin when they are complete.
SAFE = {"new connection": 4, "keep-alive": 4, "keep-alive, mostly idle": 2, "long request": 4}


def test_machines_are_drained_one_after_the_other_before_they_reboot(fleet: Fleet, playbooks: Playbooks) -> None:
    """Without the reboot: in the container it would lose all files."""
    drained: list[str] = []

    def note() -> bool:
        drained.extend(name for name, weight in fleet.weights().items() if weight == 0)
        return started.poll() is not None

    with fleet.load() as seen:
        started = playbooks.start("reboot", "--skip-tags=reboot")
        fleet.wait_for(note, "the playbook to end", 300)
    assert started.returncode == 0, playbooks.output("reboot")
    assert [name for name, _ in groupby(drained)] == list(fleet.machines)
    fleet.wait_for(lambda: fleet.weights() == dict.fromkeys(fleet.machines, 100), "HAProxy to use all machines")
    assert not seen.failures()
    assert seen.closed_by_server == 0


def test_a_controller_that_was_killed_is_run_again(fleet: Fleet, playbooks: Playbooks) -> None:
    machine = fleet.machines["web2"]
    with fleet.load() as seen:
        started = playbooks.start_deploy("2")
        link = machine.path("/srv/app/current")
        machine.wait_for(lambda: link.readlink().name == "2", "the deploy to come to the second machine", 120)
        playbooks.kill(started)
        played = playbooks.deploy("2")
    assert played.status == 0, played.output
    assert played.releases() == fleet.running() == dict.fromkeys(fleet.machines, "2")
    assert not seen.failures()
    assert seen.closed_by_server == 0
    assert fleet.downs() == dict.fromkeys(fleet.machines, 0)


def test_a_machine_that_crashes_fails_no_request_that_can_be_sent_again(
    fleet: Fleet, playbooks: Playbooks, figure: Callable[[str], None]
) -> None:
    machine, before = fleet.machines["web2"], fleet.running()
    with fleet.load(SAFE) as seen:
        started = playbooks.start_deploy("3")
        link = machine.path("/srv/app/current")
        machine.wait_for(lambda: link.readlink().name == "3", "the deploy to come to the second machine", 120)
        fleet.vanish("web2")
        played = playbooks.wait("deploy", started)
        assert played.status != 0
        assert played.releases() == {"web1": "3", "web2": "unknown, it could not be reached", "web3": before["web3"]}
        assert fleet.running() == {"web1": "3", "web3": before["web3"]}
        # Without the machine, until it is back.
        played = playbooks.deploy("3", "", "--limit=!web2")
        assert played.status == 0, played.output
    assert fleet.running() == {"web1": "3", "web3": "3"}
    assert not seen.failures()
    figure(f"{seen.requests} requests, 0 failed, longest wait {seen.longest_wait():.1f} s")


def test_a_machine_without_power_fails_no_request_that_can_be_sent_again(
    request: pytest.FixtureRequest, figure: Callable[[str], None]
) -> None:
    """It closes no connection. Many clients, so that some send their request on a connection that is dead."""
    clients = SAFE | {"keep-alive": 16, "keep-alive, mostly idle": 16, "long request": 12}
    with Fleet(3, request.config.getoption("--tree")) as fleet:
        for machine in fleet.machines.values():
            serve(machine)
        fleet.start_haproxy()
        fleet.wait_until_up()
        with fleet.load(clients) as seen:
            fleet.wait_for(lambda: seen.requests > 500, "requests")
            fleet.vanish("web2", power=True)
            fleet.wait_for(lambda: "DOWN" in {server.status for server in fleet.servers()}, "HAProxy to notice")
            before = seen.requests
            fleet.wait_for(lambda: seen.requests > before + 500, "requests")
    assert not seen.failures()
    longest = seen.longest_wait()
    assert longest < 20  # seconds; `timeout server` is 60
    figure(f"{seen.requests} requests, 0 failed, longest wait {longest:.1f} s")
