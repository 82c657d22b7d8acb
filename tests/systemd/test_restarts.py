"""Restarts under load, often: not one request may fail."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.load import CLIENTS, Connect, Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine import Machine

TIMES = 20


def under_load(machine: Machine, tcp: Connect, unix: Connect, act: Callable[[], object]) -> str:
    """Run `act` again and again under load on both sockets; return the account of it."""
    with Load(tcp) as over_tcp, Load(unix) as over_unix:
        loads = (over_tcp, over_unix)
        for _ in range(TIMES):
            seen = [len(load.outcomes) for load in loads]
            machine.wait_for(
                lambda seen=seen: all(len(load.outcomes) > n + 50 for load, n in zip(loads, seen, strict=True)),  # type: ignore[misc]
                "answers",
            )
            act()
    for load in loads:
        assert not load.failures()
        kinds = Counter(outcome.kind for outcome in load.outcomes)
        assert kinds.keys() == CLIENTS.keys()
        assert min(kinds.values()) > TIMES
    return ", ".join(
        f"{name}: {len(load.outcomes)} requests, {load.failures().total()} failed, "
        f"longest wait {load.longest_wait():.1f} s"
        for name, load in zip(("TCP", "Unix"), loads, strict=True)
    )


def test_restart_again_and_again(machine: Machine, tcp: Connect, unix: Connect, figure: Callable[[str], None]) -> None:
    account = under_load(machine, tcp, unix, lambda: machine.systemctl("restart", "app", "app-unix"))
    figure(f"{TIMES} restarts, {account}")


def test_stop_and_start_by_a_request(
    machine: Machine, tcp: Connect, unix: Connect, figure: Callable[[str], None]
) -> None:
    """Nobody starts the services but the requests that arrive."""
    account = under_load(machine, tcp, unix, lambda: machine.systemctl("stop", "app", "app-unix"))
    figure(f"{TIMES} stops, {account}")
