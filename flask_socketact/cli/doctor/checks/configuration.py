"""Checks of the application, and of gunicorn's settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flask_socketact.cli.doctor.finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from flask_socketact.cli.doctor.service_settings import Settings
    from flask_socketact.cli.doctor.system import System

#: systemd's default for LimitNOFILE=; with less a worker runs out of descriptors.
FEW_DESCRIPTORS = 1024


def application(system: System) -> Finding:
    """The service's user can read the configuration, and the application's module."""
    settings = system.settings
    if isinstance(settings, Finding):
        return settings
    if not settings.found:
        remedy = f"Correct the name, or WorkingDirectory= (systemctl cat {system.service.name})"
        return error(f"the module of {settings.app} does not exist", remedy)
    if not settings.readable:
        remedy = "Make it readable for the service's user"
        return error(f"{settings.file}, the module of {settings.app}, cannot be read by the service's user", remedy)
    hidden = _hidden(system, settings)
    if hidden is not None:
        what = f"ProtectHome={system.service['ProtectHome']} in {system.service.name} hides {hidden}"
        return error(what, system.set("ProtectHome=read-only"))
    return ok(f"{settings.app} is in {settings.file or 'a namespace package'}")


def _hidden(system: System, settings: Settings) -> str | None:
    """Return a path of the application that ProtectHome= hides from the service."""
    if system.service["ProtectHome"] not in ("yes", "tmpfs"):
        return None
    paths = (system.service["WorkingDirectory"], settings.file or "")
    return next((path for path in paths if f"{path}/".startswith(("/home/", "/root/", "/run/user/"))), None)


def configuration(system: System) -> Finding | None:
    """The master and the workers are those of this package."""
    settings = system.settings
    if isinstance(settings, Finding):
        return None
    if not settings.our_master:
        remedy = f"Add -c python:flask_socketact.conf to gunicorn in ExecStart= of {system.service.name}"
        return error("gunicorn's configuration does not import flask_socketact.conf", remedy)
    if not settings.our_worker:
        remedy = "Remove worker_class, or use one of flask_socketact (docs/workers.md)"
        return error(
            f"worker_class={settings.worker_class} neither reports readiness nor hands over connections", remedy
        )
    workers = f"{settings.workers} workers with {settings.threads} threads each"
    return ok(f"{workers}, {settings.worker_class.rpartition('.')[2]}")


def drain_time(system: System) -> Finding:
    """TimeoutStopSec= is longer than two drains: a stop during a reload waits for both."""
    timeout = system.service.seconds("TimeoutStopUSec")
    told = f"TimeoutStopSec={_seconds(timeout)} of {system.service.name}"
    if isinstance(system.settings, Finding):
        return warning(f"{told} cannot be compared with graceful_timeout, which is unknown", "See application")
    drain = system.settings.graceful_timeout
    both = f"{told}, graceful_timeout={_seconds(drain)}"
    enough = system.set(f"TimeoutStopSec={2 * drain + 15}")
    if timeout <= drain:
        return error(f"{both}: requests in flight are killed before the drain time ends", enough)
    if timeout <= 2 * drain:
        return warning(f"{both}: a stop during a reload takes two drains, and is killed in the second", enough)
    if math.isinf(timeout):
        return warning(f"{both}: a process that ignores SIGTERM is never killed, and a stop may wait forever", enough)
    return ok(both)


def descriptors(system: System) -> Finding:
    """Every connection is a descriptor."""
    limit = system.service.number("LimitNOFILESoft")
    told = f"LimitNOFILE={system.service['LimitNOFILESoft']} of {system.service.name}"
    remedy = system.set("LimitNOFILE=65536")
    if limit < FEW_DESCRIPTORS:
        return error(f"{told} is too low: a worker without a free descriptor accepts no connection", remedy)
    if isinstance(system.settings, Finding):
        return ok(told)
    connections = system.settings.worker_connections
    if limit <= connections:
        what = f"{told} is not above worker_connections={connections}: a worker runs out of descriptors first"
        return warning(what, system.set(f"LimitNOFILE={max(65536, 2 * connections)}"))
    return ok(f"{told}, worker_connections={connections}")


def _seconds(seconds: float) -> str:
    return "infinity" if math.isinf(seconds) else f"{seconds:g} s"
