"""What takes minutes: run with ``--long``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from tests.support.fleet import Fleet
from tests.support.playbooks import LONGEST, Playbooks, Played, picky, prepare

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]

DEPLOYS = 20
REQUESTS = 50_000
BUSY = {"new connection": 8, "keep-alive": 16, "keep-alive, mostly idle": 8, "slow upload": 2, "streamed response": 2}


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


def test_a_controller_that_was_killed_at_any_task_is_run_again(
    request: pytest.FixtureRequest, figure: Callable[[str], None]
) -> None:
    """The tasks are those of a whole deploy; a task that runs for each batch of machines counts for each of them.

    Two machines, as there are many tasks: one that has been switched, and one that has not.
    """
    with Fleet(2, request.config.getoption("--tree")) as fleet:
        playbooks = prepare(fleet)
        tasks = playbooks.deploy("0", release_migration=["true"]).tasks()
        assert "flask_socketact.fleet.release : Print the release of each machine" in tasks
        with fleet.load() as seen:
            for number, task in enumerate(tasks):
                _kill_and_run_again(fleet, playbooks, number, task)
                assert not seen.failures(), task
        assert fleet.downs() == dict.fromkeys(fleet.machines, 0)
    assert not seen.failures()
    figure(f"killed at each of {len(tasks)} tasks: {seen.requests} requests, 0 failed")


def _kill_and_run_again(fleet: Fleet, playbooks: Playbooks, number: int, task: str) -> None:
    name = f"killed-{number}"
    started = playbooks.start_deploy(name, release_migration=["true"])
    begun: list[str] = []

    def has_begun() -> bool:
        begun[:] = Played(0, playbooks.output("deploy")).tasks()
        return len(begun) > number or started.poll() is not None

    fleet.wait_for(has_begun, f"{task} to begin", LONGEST)
    playbooks.kill(started)
    assert begun[number] == task
    played = playbooks.deploy(name, release_migration=["true"])
    assert played.status == 0, f"killed at {task}:\n{played.output}"
    assert played.releases() == fleet.running() == dict.fromkeys(fleet.machines, name), task
    fleet.wait_for(lambda: fleet.weights() == dict.fromkeys(fleet.machines, 100), f"no machine to be drained: {task}")
    print(f"{time.strftime('%T')} killed at task {number}: {task}", flush=True)


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
        # What a machine ran before is kept, marked or not.
        assert five.machines["web1"].run("ls", "/srv/app/releases").stdout.split() == ["1", "2"]
