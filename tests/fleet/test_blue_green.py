"""Blue/green by a map of HAProxy: two services on a machine, and a switch that no client notices."""

from __future__ import annotations

import shutil
from functools import partial

import pytest

from tests.support.fleet import BALANCER, EXAMPLE, Fleet, serve
from tests.support.http import ask

PORTS = {"blue": 8000, "green": 8010}


def test_a_switch_between_blue_and_green_is_noticed_by_no_client(request: pytest.FixtureRequest) -> None:
    with Fleet(1, request.config.getoption("--tree")) as fleet:
        machine = fleet.machines["web1"]
        for name, port in PORTS.items():
            serve(machine, name, port)
        shutil.copy(EXAMPLE / "backends.map", fleet.folder)
        fleet.start_haproxy("blue-green.cfg")
        fleet.wait_until_up()

        def serving() -> str:
            return ask(partial(fleet.network.connect, BALANCER))[1].decode().split()[0]

        with fleet.load() as seen:
            for color in ("green", "blue"):
                assert serving() != color
                fleet.ask_haproxy(f"set map {fleet.folder}/backends.map app {color}")
                assert serving() == color
                count = seen.requests
                fleet.wait_for(lambda count=count: seen.requests > count + 30, "requests")  # type: ignore[misc]
        assert not seen.failures()
        assert seen.closed_by_server == 0
