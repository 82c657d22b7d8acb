"""The port where HAProxy asks for the share of a service: NAME-agent.socket."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_socketact.cli import typed
from flask_socketact.errors import NotBegunError
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import as_typed, describe_masked

if TYPE_CHECKING:
    from flask_socketact.systemd.manager import Manager
    from flask_socketact.systemd.unit import Unit

#: Seconds in which all balancers ask: a second one may ask so much later than the first (HAProxy's agent-inter is 2 s).
ROUND = 3.0
#: Seconds between two looks.
_INTERVAL = 0.2


@dataclass(frozen=True)
class Agent:
    """A loaded socket unit for agent-checks."""

    name: str  #: of the service
    unit: str
    addresses: tuple[str, ...]
    is_listening: bool
    asked: int  #: connections since the unit started


def unit_of(service: Unit) -> str | None:
    """Return the name of the socket unit for agent-checks; None if the service has none.

    :param service: with its property ``Wants``
    """
    wanted = unit_names.alongside(service.name.removesuffix(".service"), "agent.socket")
    return wanted if wanted in service.names("Wants") else None


def find(name: str, manager: Manager) -> Agent:
    """Return the agent of a service.

    :raises ManagerError: there is no such service, or the manager does not respond.
    :raises NotBegunError: it was made without ``--agent``, or its unit is masked.
    """
    wants = manager.find(f"{name}.service", "Wants").names("Wants")
    unit = manager.show(f"{name}-agent.socket", "LoadState", "ActiveState", "Accept", "Listen", "NAccepted")
    if unit["LoadState"] == "masked":
        raise NotBegunError(describe_masked(unit, user=manager.user))
    again = typed.units_again(name, user_manager=manager.user)
    if unit["LoadState"] != "loaded" and unit.name in wants:
        raise NotBegunError(f"{unit.name} is {unit['LoadState']}, so HAProxy cannot ask: {again} makes it")
    if unit["LoadState"] != "loaded" or unit["Accept"] != "yes":
        raise NotBegunError(
            f"{name} was made without --agent, so HAProxy cannot ask it: {again} --agent ADDRESS:PORT adds that"
        )
    return Agent(name, unit.name, tuple(unit.listens("Stream")), unit.is_active, int(unit["NAccepted"] or 0))


def wait_until_asked(name: str, manager: Manager, timeout: float) -> None:
    """Wait until HAProxy has asked for a share that was set just now, and for `ROUND`.

    :param timeout: in seconds
    :raises NotBegunError: it does not ask.
    """
    before = find(name, manager)  # a connection that is counted already may have got the old share
    began = time.monotonic()
    while (now := time.monotonic()) < began + ROUND or find(name, manager).asked == before.asked:
        if now > began + timeout:
            where = ", ".join(before.addresses)
            raise NotBegunError(
                f"HAProxy has not asked {where} for {timeout:g} s: see agent-check and agent-port there"
            )
        time.sleep(_INTERVAL)


def remedy(agent: Agent, *, user: bool) -> str:
    """Return the command that opens the port."""
    return f"{as_typed(user=user)} enable --now {agent.unit}"
