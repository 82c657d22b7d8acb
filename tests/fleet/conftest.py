"""Three machines behind HAProxy, prepared by the playbooks, which run the first release."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet
from tests.support.playbooks import Playbooks, prepare


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with Fleet(3, request.config.getoption("--tree")) as booted:
        yield booted


@pytest.fixture(scope="module")
def playbooks(fleet: Fleet) -> Playbooks:
    return prepare(fleet)
