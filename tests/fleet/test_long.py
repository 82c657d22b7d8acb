"""What takes minutes: run with ``--long``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest

from tests.support.fleet import Fleet
from tests.support.playbooks import Playbooks, picky, prepare

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]

DEPLOYS = 20
REQUESTS = 50_000
BUSY = {"new connection": 8, "keep-alive": 16, "keep-alive, mostly idle": 8, "slow upload": 2, "streamed response": 2}
#: Tasks after whose beginning the controller is killed.
MOMENTS = ["Copy the artefact", "Unpack it", "Deploy the release", "Look again", "Mark the release"]


def test_twenty_deploys_are_noticed_by_no_client(
    fleet: Fleet, playbooks: Playbooks, figure: Callable[[str], None]
) -> None:
    with fleet.load(BUSY) as seen:
        for number in range(2, 2 + DEPLOYS):
            played = playbooks.deploy(str(number))
            assert played.status == 0, played.output
            assert fleet.running() == dict.fromkeys(fleet.machines, str(number))
        fleet.wait_for(lambda: seen.requests > REQUESTS, f"{REQUESTS} requests", math.inf)
    assert not seen.failures()
    assert seen.closed_by_server == 0
    assert fleet.downs() == dict.fromkeys(fleet.machines, 0)
    figure(f"{DEPLOYS} deploys: {seen.requests} requests, 0 failed, 0 closed")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_controller_that_was_killed_at_any_moment_is_run_again(
    fleet: Fleet, playbooks: Playbooks, moment: str
) -> None:
    name = re.sub(r"\W", "-", moment)
    with fleet.load() as seen:
        started = playbooks.start_deploy(name)
        fleet.wait_for(lambda: f": {moment}" in playbooks.output("deploy"), moment, 300)
        playbooks.kill(started)
        played = playbooks.deploy(name)
    assert played.status == 0, played.output
    assert played.releases() == fleet.running() == dict.fromkeys(fleet.machines, name)
    assert not seen.failures()
    assert fleet.downs() == dict.fromkeys(fleet.machines, 0)


def test_one_machine_of_several_that_fails_is_a_failure_of_the_deploy(request: pytest.FixtureRequest) -> None:
    """Of five machines the last three are switched at the same time; one of them fails."""
    with Fleet(5, request.config.getoption("--tree")) as five:
        playbooks = prepare(five)
        for name in ("2", "3"):
            five.machines["web5"].path(f"/etc/no-{name}").touch()
        played = playbooks.deploy("2", picky("2"))
        assert played.status != 0
        assert five.running() == dict.fromkeys(five.machines, "2") | {"web5": "1"}
        assert played.releases() == dict.fromkeys(five.machines, "2") | {"web5": "1, did not take 2"}
        # The release is not marked as one to go back to.
        assert not any(machine.path("/srv/app/.deployed/2").exists() for machine in five.machines.values())
        played = playbooks.deploy("3", picky("3"), release_on_failure="back")
        assert played.status != 0
        assert five.running() == dict.fromkeys(five.machines, "2") | {"web5": "1"}
        played = playbooks.play("rollback")
        assert played.status == 0, played.output
        assert five.running() == dict.fromkeys(five.machines, "1")
