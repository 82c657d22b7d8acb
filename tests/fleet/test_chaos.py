"""script/chaos --fleet: a short schedule breaks no promise, and the judge finds a real defect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.fleet.bench import Bench, booted
from tests.chaos.fleet.judge import judge
from tests.chaos.fleet.run import run
from tests.chaos.fleet.schedule import EVENTS
from tests.chaos.schedule import parse

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

SHORT = """
seed 1 seconds 10 thread
1.0 deploy-500-canary
2.0 haproxy
4.0 kill web3 worker 0
6.0 freeze web2 2
"""
CLOSES = "option idle-close-on-response"


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with booted(request.config.getoption("--tree")) as made:
        yield made


def test_a_short_schedule_breaks_no_promise(bench: Bench) -> None:
    evidence = run(bench, parse(SHORT, EVENTS))
    assert judge(evidence).violations == [], evidence.logs["playbooks"][-8000:]
    assert len(evidence.requests) > 200
    assert {deed.what for deed in evidence.deeds} == {"haproxy", "kill", "freeze"}
    assert {passed.server for passed in evidence.passed.values()} >= {"web1", "web2", "web3"}


def test_a_balancer_that_closes_connections_of_clients_is_found(bench: Bench) -> None:
    """A real defect: HAProxy's default."""
    config = bench.fleet.folder / "haproxy.cfg"
    text = config.read_text()
    assert text.count(CLOSES) == 1
    config.write_text(text.replace(CLOSES, ""))
    # The second reload ends the process that has begun without the option.
    evidence = run(bench, parse("seed 1 seconds 9 thread; 1.0 haproxy; 6.0 haproxy", EVENTS))
    assert "closed" in {violation.rule for violation in judge(evidence).violations}
