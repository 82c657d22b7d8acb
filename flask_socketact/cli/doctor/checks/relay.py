"""Checks of the relay: it keeps old workers running in a restart, and root runs it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.cli import relay_files
from flask_socketact.cli.doctor.finding import Finding, error, ok, warning
from flask_socketact.cli.relay_files import DIRECTIVES
from flask_socketact.systemd.manager import Manager, runtime_folders

if TYPE_CHECKING:
    import os

    from flask_socketact.cli.doctor.system import System

REMEDY = (
    "Run the command from a virtual environment that root owns, including all folders above it: "
    "python3 -m venv /opt/flask-socketact/venv, and install flask-socketact there"
)


def command(system: System) -> Finding | None:
    """Only root can change this command while root runs it."""
    for path in system.command:
        try:
            changeable = first_changeable(path)
        except OSError:
            continue  # a module in an archive, for example
        if changeable is not None:
            what = f"users other than root can change {changeable}, and so {path}, which root is running"
            return error(f"{what}: they can become root", REMEDY)
    return ok(f"only root can change {system.command[0]} and its modules") if system.command else None


def privileges(system: System) -> Finding | None:
    """No command of the service runs as root: the service's user may control its environment."""
    if system.user_manager:
        return None
    for directive in DIRECTIVES:
        for command in system.service.commands(f"{directive}Ex"):
            if "privileged" in command.flags and system.service["User"] not in ("", "root", "0"):
                what = (
                    f"{directive}=+{command.path} in {system.service.name}: root runs it in the service's environment, "
                    "and users who can change that (an EnvironmentFile=, for example) can become root"
                )
                ours = Path(command.path).name == "relay"
                return error(
                    what,
                    system.install_again
                    if ours
                    else f"Move it to a unit of its own, or remove the +: {system.install_again}",
                )
    return ok(f"no command of {system.service.name} runs as root (+)")


def lines(system: System) -> Finding:
    """A restart of the service begins with the relay."""
    return _relay_first(system) if system.service.overlaps else _no_relay(system)


def _no_relay(system: System) -> Finding:
    relay = system.relay
    told = f"in a restart of {system.service.name} the old workers exit first, and clients wait (--no-overlap)"
    if relay["ActiveState"] == "active":
        return error(f"{told}, but {relay.name} moves them", f"{system.systemctl} stop {relay.name}, and remove it")
    return ok(told)


def _relay_first(system: System) -> Finding:
    service, relay = system.service, system.relay
    if relay["LoadState"] != "loaded":
        is_there = f"{relay.name} is {relay['LoadState']}"
        what = f"there is no {relay.name}" if relay["LoadState"] == "not-found" else is_there
        return error(f"{what}: clients wait in a restart", system.reinstall(relay))
    ending = f" stop {service.name}"
    if not any(command.text.endswith(ending) for command in relay.commands("ExecStopEx")):
        return error(
            f"there is no ExecStop=…/relay{ending} in {relay.name}: clients wait in a restart", system.install_again
        )
    for directive in ("PartOf", "After"):
        if service.name not in relay[directive].split():
            what = f"no {directive}={service.name} in {relay.name}: it does not run first in a restart"
            return error(f"{what}, and clients wait", system.install_again)
    if relay.name not in service["Wants"].split():
        what = f"no Wants={relay.name} in {service.name}: clients wait in a restart"
        return error(what, system.set(f"Wants={relay.name} in [Unit]"))
    if service["ActiveState"] == "active" and relay["ActiveState"] != "active":
        what = f"{relay.name} is {relay['ActiveState']}: clients wait in the next restart"
        return error(what, f"{system.systemctl} start {relay.name}")
    return ok(f"a restart of {service.name} begins with {relay.name}")


def watchdog(system: System) -> Finding | None:
    """Workers keep serving when WatchdogSec= ends a master that hangs."""
    service = system.service
    if not system.service.overlaps:
        return None
    if not any(command.text.endswith(f" stop-post {service.name}") for command in service.commands("ExecStopPostEx")):
        what = f"there is no ExecStopPost=…/relay stop-post %n in {service.name}: a stop does not wait for old workers"
        return error(f"{what}, and after WatchdogSec= requests are cut off", system.install_again)
    return None if system.user_manager else _watchdog_path(system)


def _watchdog_path(system: System) -> Finding:
    service, path = system.service, system.watchdog_path
    for unit in (path, system.watchdog_service):
        if unit["LoadState"] != "loaded":
            is_there = "masked" if unit["LoadState"] == "masked" else "missing"
            return error(f"{unit.name} is {is_there}: after WatchdogSec= requests wait", system.reinstall(unit))
    if path.name not in service["Wants"].split():
        what = f"no Wants={path.name} in {service.name}: after WatchdogSec= requests wait"
        return error(what, system.set(f"Wants={path.name} in [Unit]"))
    folders = [str(folder) for folder in runtime_folders(service, Manager(user=False))]
    if not folders or f"{folders[0]}/watchdog" not in path["Paths"]:
        what = f"{path.name} does not watch the file watchdog in RuntimeDirectory= of {service.name}"
        return error(f"{what}: after WatchdogSec= requests wait", system.install_again)
    if service["ActiveState"] == "active" and path["ActiveState"] != "active":
        what = f"{path.name} is {path['ActiveState']}: after WatchdogSec= requests wait"
        return error(
            what, f"{system.systemctl} restart {path.name}, and find the process that writes to the file it watches"
        )
    return ok(f"after WatchdogSec= {path.name} starts the relay, which moves the workers")


def permissions(system: System) -> Finding | None:
    """Only root can change the relay, the units, and all folders above them."""
    for path in map(Path, paths(system)):
        try:
            finding = None if system.user_manager else _changeable(system, path, "which root runs")
            executable = path.stat().st_mode & 0o111
        except OSError as failed:
            return error(f"{path} cannot be run: {failed.strerror}", system.install_again)
        if finding is not None:
            return finding
        if not executable:
            return error(f"{path} is not executable", f"chmod 755 {path}")
    for path in [] if system.user_manager else _unit_files(system):
        try:
            finding = _changeable(system, path, "which defines what root runs")
        except OSError:
            continue  # removed since systemd loaded it
        if finding is not None:
            return finding
    told = "is executable" if system.user_manager else "and the units can be changed only by root"
    return ok(f"{', '.join(paths(system))} {told}") if paths(system) else None


def _changeable(system: System, path: Path, what: str) -> Finding | None:
    """Return an error if users other than root can change a file, or a folder above it.

    :raises OSError: there is no such file.
    """
    changeable = first_changeable(path)
    if changeable == path:
        remedy = f"{system.install_again} (a user who changed it may have become root)"
        return error(f"users other than root can change {path}, {what}", remedy)
    if changeable is not None:
        remedy = f"Make root its owner, writable by no other user, or move {path.name} elsewhere"
        return error(f"users other than root can change {changeable}, and so {path}, {what}", remedy)
    return None


def _unit_files(system: System) -> list[Path]:
    units = (system.service, *system.sockets, *system.helpers, *filter(None, [system.agent]))
    return [Path(path) for unit in units for path in (unit["FragmentPath"], *unit["DropInPaths"].split()) if path]


def version(system: System) -> Finding | None:
    """The relay is from this version of the package."""
    for path in map(Path, paths(system)):
        try:
            if not relay_files.is_of_this_version(path):
                return warning(f"{path} is not from this version of flask_socketact", system.install_again)
        except OSError:
            return None  # the check of permissions reports it
    return ok(f"{', '.join(paths(system))} is from this version") if paths(system) else None


def paths(system: System) -> list[str]:
    """Return the relays that the units run."""
    return [
        str(path) for path in relay_files.paths((system.service, system.relay, system.watchdog_service), system.sockets)
    ]


def first_changeable(path: Path) -> Path | None:
    """Return the first file or folder on the path that users other than root can change, following all links.

    :raises OSError: there is no such file, or it cannot be reached.
    """
    path.stat()  # fails for a loop of links
    for step in (*reversed(path.parents), path):
        status = step.lstat()
        if stat.S_ISLNK(status.st_mode):
            found = first_changeable(step.parent / step.readlink())
            if found is not None:
                return found
        elif is_changeable(status):
            return step
    return None


def is_changeable(status: os.stat_result) -> bool:
    """Return whether users other than root can change a file or folder. In a sticky folder they can add files."""
    return status.st_uid != 0 or bool(status.st_mode & 0o022)
