"""Three machines behind HAProxy, prepared by the playbooks, which run the first release."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet
from tests.support.machine import install_venv
from tests.support.playbooks import Playbooks

#: The virtual environment is there already, and the machines have no package index.
VARIABLES = {
    "app_packages": ["python3-venv"],
    "app_requirements": [],
    "release_deploy_options": ["--healthy", "1", "--timeout", "30"],
    "release_keep": 2,
}


def prepare(fleet: Fleet) -> Playbooks:
    """Start HAProxy, and deploy the first release."""
    fleet.start_haproxy()
    for machine in fleet.machines.values():
        install_venv(machine)
    playbooks = Playbooks(fleet, VARIABLES)
    for played in (playbooks.play("setup"), playbooks.deploy("1")):
        assert played.status == 0, played.output
    fleet.wait_until_up()
    return playbooks


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with Fleet(3, request.config.getoption("--tree")) as booted:
        yield booted


@pytest.fixture(scope="module")
def playbooks(fleet: Fleet) -> Playbooks:
    return prepare(fleet)
