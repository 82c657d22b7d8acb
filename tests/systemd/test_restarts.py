"""Many restarts under load: no request fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.http import Connect
from tests.support.load import Load
from tests.support.machine import Machine, drop_in

if TYPE_CHECKING:
    from collections.abc import Callable

#: Stops wait for the requests in flight.
RESTARTS, STOPS = 4, 2


def under_load(tcp: Connect, unix: Connect, times: int, act: Callable[[list[Load]], object]) -> str:
    """Call `act` several times under load on both sockets; return what the clients counted."""
    with Load(tcp) as over_tcp, Load(unix) as over_unix:
        loads = [over_tcp, over_unix]
        for _ in range(times):
            act(loads)
    for load in loads:
        assert not load.failures()
        assert min(load.requests_by_kind().values()) > times / 5
    return ", ".join(
        f"{name}: {load.requests} requests, {load.failures().total()} failed, "
        f"{load.closed_by_server} connections closed, longest wait {load.longest_wait():.2f} s"
        for name, load in zip(("TCP", "Unix"), loads, strict=True)
    )


def test_many_restarts_in_a_row_lose_nothing(
    machine: Machine, tcp: Connect, unix: Connect, figure: Callable[[str], None]
) -> None:
    """Each starts when systemctl has returned, so several old generations drain at the same time."""
    for unit in ("app.service", "app-unix.service"):
        drop_in(machine, unit, '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--threads 8"\n')
    machine.systemctl("start", "app", "app-unix")
    account = under_load(tcp, unix, RESTARTS, lambda _: machine.systemctl("restart", "app", "app-unix"))
    machine.wait_for(lambda: not machine.scopes("app*"), "the last drain to end")
    processes = len(machine.run("pgrep", "--uid", "app").stdout.split())
    assert processes == 2 * (1 + 2)  # services, each a master and its workers
    figure(f"{RESTARTS} restarts, {account}")


def test_stop_and_start_by_a_request(
    machine: Machine, tcp: Connect, unix: Connect, figure: Callable[[str], None]
) -> None:
    """Only the requests that arrive start the services."""

    def stop(loads: list[Load]) -> None:
        seen = [load.requests for load in loads]
        machine.wait_for(lambda: all(load.requests > n + 50 for load, n in zip(loads, seen, strict=True)), "answers")
        machine.systemctl("stop", "app", "app-unix")

    account = under_load(tcp, unix, STOPS, stop)
    figure(f"{STOPS} stops, {account}")
