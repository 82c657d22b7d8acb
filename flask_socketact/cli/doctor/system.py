"""The data of all checks, read once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flask_socketact.cli import ports, typed, unit_journal
from flask_socketact.cli.doctor.finding import Finding
from flask_socketact.cli.doctor.service_settings import Settings, UnreadError, read_settings
from flask_socketact.cli.lb.agent import unit_of
from flask_socketact.errors import ManagerError
from flask_socketact.linux import socket_queues
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import SECONDS, Manager, as_typed, call, describe_masked
from flask_socketact.systemd.unit import Unit

SERVICE = (
    "LoadState",
    "LoadError",
    "InvocationID",
    "ControlGroup",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "TriggeredBy",
    "ActiveState",
    "SubState",
    "Result",
    "StatusText",
    "User",
    "Group",
    "SupplementaryGroups",
    "Type",
    "NotifyAccess",
    "WatchdogUSec",
    "WatchdogSignal",
    "OOMPolicy",
    "KillMode",
    "SendSIGKILL",
    "Restart",
    "RestartUSec",
    "TimeoutStopUSec",
    "StartLimitIntervalUSec",
    "StartLimitBurst",
    "Wants",
    "ExecConditionEx",
    "ExecStartPreEx",
    "ExecStartEx",
    "ExecStartPostEx",
    "ExecReloadEx",
    "ExecStopEx",
    "ExecStopPostEx",
    "WorkingDirectory",
    "LimitNOFILESoft",
    "PrivateTmp",
    "PrivateTmpEx",
    "ProtectHome",
    "ProtectSystem",
    "ReadWritePaths",
    "BindPaths",
    "NonBlocking",
    "JoinsNamespaceOf",
    "RemoveIPC",
    "StateDirectory",
    "CacheDirectory",
    "LogsDirectory",
    "ConfigurationDirectory",
    "RuntimeDirectory",
    "RuntimeDirectoryMode",
    "Environment",
)
SOCKET = (
    "LoadState",
    "InvocationID",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "Triggers",
    "UnitFileState",
    "ActiveState",
    "Result",
    "Listen",
    "Backlog",
    "Accept",
    "FlushPending",
    "TriggerLimitIntervalUSec",
    "TriggerLimitBurst",
    "SocketUser",
    "SocketGroup",
    "SocketMode",
    "PrivateTmp",
    "ExecStartPre",
)
#: Units that run as root.
HELPERS = ("relay.service", "watchdog.path", "watchdog.service")
HELPER = (
    "LoadState",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "ActiveState",
    "PartOf",
    "After",
    "Paths",
    "ExecStartEx",
    "ExecStopEx",
)


@dataclass(frozen=True)
class System:
    """An installed service and its machine."""

    user_manager: bool
    service: Unit
    sockets: tuple[Unit, ...]
    own_socket: str  #: LoadState of the socket unit with the service's name
    masked: tuple[str, ...]  #: masked units of the service
    failures: Mapping[str, str]  #: why units failed, from the journal
    ignored: tuple[str, ...]  #: lines of unit files that the manager ignores, and why
    command: tuple[Path, ...]  #: this command, its Python and its modules, if root runs it; empty otherwise
    lost: ports.Lost
    occupants: Mapping[str, str]  #: what listens at addresses of socket units that are not active
    relay: Unit  #: moves workers in a restart
    watchdog_path: Unit  #: starts the relay after WatchdogSec=; only in the system's manager
    watchdog_service: Unit
    settings: Settings | Finding  #: gunicorn's settings, or why they could not be read
    version: str  #: of systemd
    bus: str  #: why D-Bus does not respond; empty if it does
    somaxconn: int
    agent: Unit | None = None  #: the socket of HAProxy's agent-check, if the service has one
    unheld: tuple[str, ...] = ()  #: addresses of it at which systemd does not listen
    linger: bool | None = None  #: whether the user's manager runs without a login; None if unknown

    @property
    def helpers(self) -> tuple[Unit, ...]:
        """The loaded units other than the service and its sockets."""
        units = (self.relay, self.watchdog_path, self.watchdog_service)
        return tuple(unit for unit in units if unit["LoadState"] == "loaded")

    @property
    def install_again(self) -> str:
        """The remedy for units that differ from what the command writes."""
        return f"Install the units again: {typed.units_again(self.service.name, user_manager=self.user_manager)}"

    def reinstall(self, unit: Unit) -> str:
        """Return the remedy for a unit that is missing or masked."""
        return (
            f"{self.unmask(unit.name)}; {self.install_again}" if unit["LoadState"] == "masked" else self.install_again
        )

    def unmask(self, *units: str) -> str:
        """Return the command that unmasks units."""
        return f"{self.systemctl} unmask {' '.join(units)}"

    @property
    def systemctl(self) -> str:
        """The command that reaches the manager, as the administrator types it."""
        return as_typed(user=self.user_manager)

    def set(self, directive: str, unit: Unit | None = None) -> str:
        """Return the remedy that sets a directive in a unit, by default the service."""
        return f"Set {directive} ({self.systemctl} edit {(unit or self.service).name})"


def read(name: str, *, user_manager: bool) -> System:
    """Read the units of a service, and its machine.

    :raises ManagerError: there is no such service, or the manager does not respond.
    """
    manager = Manager(user=user_manager)
    own = manager.show(f"{name}.socket", *SOCKET)  # first: TriggeredBy= of the service has only loaded sockets
    service = manager.find(f"{name}.service", *SERVICE)
    if service["LoadState"] == "masked":
        raise ManagerError(describe_masked(service, user=user_manager))
    if service["LoadState"] != "loaded":
        raise ManagerError(f"{service.name} is not loaded ({service['LoadState']}): {service['LoadError']}")
    sockets = _sockets(manager, service, own)
    helpers = [manager.show(unit_names.alongside(name, unit), *HELPER) for unit in HELPERS]
    agent = _agent(manager, service)
    units = (service, own, *sockets, *helpers, *filter(None, [agent]))
    return System(
        user_manager,
        service,
        sockets=sockets,
        own_socket=own["LoadState"],
        masked=tuple(dict.fromkeys(unit.name for unit in units if unit["LoadState"] == "masked")),
        failures={
            unit.name: unit_journal.start_failure(unit, manager) for unit in (service, *sockets) if not unit.is_active
        },
        ignored=tuple(_ignored(manager, units)),
        command=_command(),
        lost=ports.lost(sockets, service, manager),
        occupants=_occupants(manager, sockets),
        relay=helpers[0],
        watchdog_path=helpers[1],
        watchdog_service=helpers[2],
        settings=_settings(manager, service),
        version=manager.version(),
        bus=manager.ping_bus(),
        somaxconn=socket_queues.somaxconn(),
        agent=agent,
        unheld=tuple(ports.missing(agent, manager)) if agent and agent.is_active else (),
        linger=_linger(manager) if user_manager else None,
    )


def _sockets(manager: Manager, service: Unit, own: Unit) -> tuple[Unit, ...]:
    """Read the socket units of a service, and the one of its name, if its Accept=yes starts another service."""
    names = [name for name in service.names("TriggeredBy") if name.endswith(".socket")]
    sockets = [manager.show(name, *SOCKET) for name in names]
    if own.name not in names and own["LoadState"] == "loaded" and own["Accept"] == "yes":
        sockets.append(own)
    return tuple(sockets)


def _agent(manager: Manager, service: Unit) -> Unit | None:
    """Read the socket of HAProxy's agent-check, if the service has one."""
    wanted = unit_of(service)
    return manager.show(wanted, *SOCKET) if wanted else None


def _occupants(manager: Manager, sockets: tuple[Unit, ...]) -> dict[str, str]:
    names = tuple(unit.name for unit in sockets)
    addresses = [address for unit in sockets if not unit.is_active for address in unit.listens("Stream")]
    return {address: who for address in addresses if (who := ports.occupant(address, manager, names))}


def _command() -> tuple[Path, ...]:
    """Return the files and folders that this process loads code from, if it runs as root."""
    if os.geteuid() != 0:
        return ()
    specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
    modules = [spec.origin for spec in specs if spec is not None and spec.has_location]
    compiled = [os.path.dirname(spec.cached) for spec in specs if spec is not None and spec.cached]
    paths = (sys.executable, sys.argv[0], *sys.path, *modules, *compiled)
    return tuple(Path(path) for path in dict.fromkeys(paths) if path and os.path.isabs(path))


def _ignored(manager: Manager, units: Iterable[Unit]) -> Iterator[str]:
    """Yield lines of unit files that systemd ignores, as ``FILE:LINE: reason``."""
    loaded = {unit.name: unit for unit in units if unit["LoadState"] == "loaded"}
    files = [path for unit in loaded.values() for path in (unit["FragmentPath"], *unit["DropInPaths"].split())]
    try:
        done = call("systemd-analyze", manager.option, "--man=no", "verify", *loaded, seconds=SECONDS)
    except (ManagerError, subprocess.TimeoutExpired):
        return
    for line in dict.fromkeys(done.stderr.splitlines()):
        found = re.match(r"(/.*?):\d+: ", line)
        if found is not None and found[1] in files:
            yield line.removesuffix(".")


def _settings(manager: Manager, service: Unit) -> Settings | Finding:
    try:
        return read_settings(manager, service)
    except UnreadError as unread:
        return unread.finding


def _linger(manager: Manager) -> bool | None:
    """Return whether the user's manager runs without a login; None if unknown."""
    try:
        return manager.run("loginctl", "show-user", "--value", "--property=Linger", "--", str(os.getuid())) == "yes\n"
    except ManagerError:
        return None
