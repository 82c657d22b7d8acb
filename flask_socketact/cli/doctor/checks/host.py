"""Checks of the machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flask_socketact.cli.doctor.finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from flask_socketact.cli.doctor.system import System

OLDEST = 252


def version(system: System) -> Finding:
    """The manager is new enough."""
    number = re.match(r"\D*(\d+)", system.version)
    if number is None or int(number[1]) < OLDEST:
        return error(f"systemd {system.version} is too old", f"Use systemd {OLDEST} or later")
    return ok(f"systemd {system.version}")


def bus(system: System) -> Finding:
    """D-Bus responds: the relay needs it."""
    if not system.bus:
        return ok("busctl reaches the manager")
    package = "dbus-user-session" if system.user_manager else "dbus"
    remedy = f"Install {package}, and see {system.systemctl} status dbus"
    return error(f"D-Bus does not respond, so clients wait in a restart: {system.bus}", remedy)


def linger(system: System) -> Finding | None:
    """The user's manager runs without a login."""
    if not system.user_manager:
        return None
    if system.linger is None:
        what = "whether the service outlives your logout is unknown: loginctl does not respond"
        return warning(what, "See systemctl status systemd-logind")
    if not system.linger:
        return warning("the service ends when you log out, and does not start at boot", "loginctl enable-linger")
    return ok("the service runs without a login")
