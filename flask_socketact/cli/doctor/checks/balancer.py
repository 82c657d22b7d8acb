"""Checks of what HAProxy's agent-check is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_socketact.cli import typed
from flask_socketact.cli.doctor.finding import Finding, error, ok, warning
from flask_socketact.cli.lb import state
from flask_socketact.errors import NotBegunError

if TYPE_CHECKING:
    from flask_socketact.cli.doctor.system import System


def agent(system: System) -> Finding | None:
    """HAProxy can ask for the state of the service."""
    unit = system.agent
    if unit is None:
        return None
    addresses = ", ".join(unit.listens("Stream"))
    if unit["LoadState"] != "loaded":
        return error(f"{unit.name} is {unit['LoadState']}: HAProxy cannot ask for its state", system.reinstall(unit))
    if not unit.is_active:
        what = f"{unit.name} is {unit['ActiveState']} ({unit['Result']}): HAProxy cannot ask at {addresses}"
        return error(what, f"{system.systemctl} enable --now {unit.name}")
    if system.unheld:
        what = f"systemd does not listen at {', '.join(system.unheld)}: {unit.name} has changed"
        return error(what, f"{system.systemctl} restart {unit.name}")
    if unit["UnitFileState"] == "disabled":
        what = f"{unit.name} is not enabled: after a reboot HAProxy cannot ask until {system.service.name} has started"
        return warning(what, f"{system.systemctl} enable {unit.name}")
    return ok(f"HAProxy can ask at {addresses}")


def share(system: System) -> Finding | None:
    """HAProxy sends requests to the service."""
    if system.agent is None:
        return None
    name = system.service.name.removesuffix(".service")
    remedy = typed.lb_ready(name, user_manager=system.user_manager)
    try:
        found = state.read(name, user_manager=system.user_manager)
    except NotBegunError as failed:
        return error(str(failed), remedy)
    return warning(str(found), remedy) if found.state in ("drain", "weight") else ok(str(found))
