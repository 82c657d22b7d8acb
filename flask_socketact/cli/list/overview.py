"""What ``list`` shows of each service, read from systemd and from the files of the service."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flask_socketact.cli import ports, relay_files, services, typed, unit_journal
from flask_socketact.cli.lb import agent, state
from flask_socketact.errors import NotBegunError
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import Manager, as_typed
from flask_socketact.systemd.unit import Unit

_COMMANDS = tuple(f"{name}Ex" for name in relay_files.DIRECTIVES)
_FILES = ("LoadState", "FragmentPath", "DropInPaths", "NeedDaemonReload")
_SERVICE = (
    *_FILES,
    *_COMMANDS,
    "ActiveState",
    "SubState",
    "TriggeredBy",
    "Wants",
    "ControlGroup",
    "InactiveExitTimestampMonotonic",
)
_SOCKET = (*_FILES, "ActiveState", "Listen", "ExecStartPre")
_HELPERS = ("relay.service", "watchdog.path", "watchdog.service")
_HELPER = (*_FILES, *_COMMANDS)
#: Where a package is installed, below the folder of a virtual environment or /usr.
_PACKAGES = "lib/python3*/*-packages/flask_socketact-*.dist-info"
#: The states of services that run, by systemd's names of them.
_RUNNING = {"active": "active", "reloading": "reloading", "activating": "starting", "deactivating": "stopping"}


@dataclass(frozen=True)
class Overview:
    """A service of ours."""

    name: str
    state: str  #: active, starting, reloading, stopping, failed, idle, stopped, masked, template; or LoadState=
    addresses: tuple[str, ...]
    version: str  #: of flask_socketact where the service runs it; empty if unknown
    remedy: str  #: what is to be done, and the command; empty if nothing


@dataclass(frozen=True)
class _Service:
    """A service as systemd has loaded it."""

    unit: Unit
    sockets: list[Unit]
    helpers: list[Unit]
    agent: Unit | None  #: the socket of HAProxy's agent-check
    package: Path | None  #: the folder that names the version of the package
    manager: Manager

    @property
    def systemctl(self) -> str:
        return f"{self._sudo}{as_typed(user=self.manager.user)}"

    @property
    def journalctl(self) -> str:
        return unit_journal.as_typed(self.unit.name, user=self.manager.user)

    @property
    def doctor(self) -> str:
        option = "--user-manager " if self.manager.user else ""
        return f"{self._sudo}{typed.command()} doctor {option}{self.unit.name.removesuffix('.service')}"

    @property
    def lb(self) -> str:
        option = " --user-manager" if self.manager.user else ""
        return f"{self._sudo}{typed.command()} lb{option} {self.unit.name.removesuffix('.service')}"

    @property
    def units_again(self) -> str:
        return f"{self._sudo}{typed.units_again(self.unit.name, user_manager=self.manager.user)}"

    @property
    def _sudo(self) -> str:
        return "" if self.manager.user or os.geteuid() == 0 else "sudo "


def read(manager: Manager) -> list[Overview]:
    """Return all services of ours that a manager knows, sorted by name.

    :raises ManagerError: the manager does not respond.
    """
    found = [_overview(_read(name, manager)) for name in services.names(manager)]
    return sorted((*found, *_without_instances(manager)), key=lambda each: each.name)


def _without_instances(manager: Manager) -> Iterator[Overview]:
    """Yield the templates of which no instance is loaded."""
    for name in services.templates(manager):
        if not manager.instances(name):
            start = f"{as_typed(user=manager.user)} enable --now {name}1.socket {name}1.service"
            yield Overview(name, "template", (), "", f"it has no instance: {start} starts one, called 1")


def _read(name: str, manager: Manager) -> _Service:
    manager.show(f"{name}.socket", "LoadState")  # TriggeredBy= of the service has only loaded sockets
    unit = manager.show(f"{name}.service", *_SERVICE)
    sockets = [word for word in unit.names("TriggeredBy") if word.endswith(".socket")]
    return _Service(
        unit,
        [manager.show(socket, *_SOCKET) for socket in sockets],
        [manager.show(unit_names.alongside(name, helper), *_HELPER) for helper in _HELPERS],
        manager.show(wanted, *_SOCKET) if (wanted := agent.unit_of(unit)) else None,
        _package(unit),
        manager,
    )


def _package(unit: Unit) -> Path | None:
    """Return the newest folder of the package's metadata where the service's gunicorn is installed."""
    commands = unit.commands("ExecStartEx")
    found = Path(commands[0].path).parent.parent.glob(_PACKAGES) if commands else ()
    return max(found, default=None, key=lambda path: path.lstat().st_mtime)


def _overview(service: _Service) -> Overview:
    return Overview(
        name=service.unit.name.removesuffix(".service"),
        state=_state(service),
        addresses=tuple(address for socket in service.sockets for address in socket.listens("Stream")),
        version=_version(service.package),
        remedy=next(_remedies(service), ""),
    )


def _version(package: Path | None) -> str:
    found = re.fullmatch(r"flask_socketact-(.+)\.dist-info", package.name) if package else None
    return found[1] if found else ""


def _state(service: _Service) -> str:
    unit = service.unit
    if unit["LoadState"] != "loaded":
        return unit["LoadState"]
    if unit["ActiveState"] == "failed" or unit["SubState"].startswith("auto-restart"):
        return "failed"
    if unit["ActiveState"] in _RUNNING:
        return _RUNNING[unit["ActiveState"]]
    return "idle" if any(socket.is_active for socket in service.sockets) else "stopped"


def _remedies(service: _Service) -> Iterator[str]:
    """Yield what is to be done, the most urgent first."""
    unit, systemctl, now = service.unit, service.systemctl, _state(service)
    if now == "masked":
        yield f"nothing can start it: {systemctl} unmask {unit.name}"
    elif unit["LoadState"] != "loaded":
        yield f"systemd cannot load it: {systemctl} status {unit.name}"
    if now == "failed":
        yield f"it does not start: {service.journalctl}"
    loaded = (unit, *service.sockets, *service.helpers, *filter(None, [service.agent]))
    if any(each["NeedDaemonReload"] == "yes" for each in loaded):
        restart = f" && {systemctl} restart {unit.name}" if unit.is_active else ""
        yield f"units on disk are newer than those that systemd has loaded: {systemctl} daemon-reload{restart}"
    closed = [socket.name for socket in service.sockets if not socket.is_active]
    if closed and now != "stopped":
        yield f"its port is closed: {systemctl} start {' '.join(closed)}"
    if service.agent and not service.agent.is_active and now != "stopped":
        yield f"HAProxy cannot ask for its state: {systemctl} start {service.agent.name}"
    if lost := ports.lost(service.sockets, unit, service.manager).addresses:
        yield f"systemd does not hold {', '.join(lost)}: {service.doctor}"
    if not _is_relay_current(service):
        yield f"its units are from another version: {service.units_again}"
    if unit.is_active and _is_older_than_files(service):
        yield f"it runs with older units, or an older package: {systemctl} restart {unit.name}"
    yield from _share(service)


def _share(service: _Service) -> Iterator[str]:
    """Yield what is to be done so that HAProxy sends requests to a service again."""
    if service.agent is None:
        return
    try:
        share = state.read(service.unit.name.removesuffix(".service"), user_manager=service.manager.user)
    except NotBegunError as error:
        yield str(error)
        return
    if share.weight != state.READY and share.weight is not None and share.expires_in is None:
        yield f"{share}: {service.lb} ready"


def _is_relay_current(service: _Service) -> bool:
    """Return whether the relays of a service are from this version; one that is missing is not."""
    try:
        relays = relay_files.paths((service.unit, *service.helpers), service.sockets)
        return all(relay_files.is_of_this_version(path) for path in relays)
    except OSError:
        return False


def _is_older_than_files(service: _Service) -> bool:
    """Return whether the units or the package were changed after the service started."""
    unit = service.unit
    started = time.time() - time.monotonic() + int(unit["InactiveExitTimestampMonotonic"] or 0) / 1e6
    changed = [Path(path) for path in (unit["FragmentPath"], *unit["DropInPaths"].split()) if path]
    with suppress(OSError):  # removed meanwhile
        return any(path.stat().st_mtime > started for path in (*changed, *filter(None, [service.package])))
    return True
