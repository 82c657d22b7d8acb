"""Checks of the relay, which lets the old workers serve on in a restart, and which root runs."""

from __future__ import annotations

import stat
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.cli.checks.finding import INSTALL, Finding, error, ok, warning

if TYPE_CHECKING:
    import os

    from flask_socketact.cli.checks.system import System

STEPS = {"ExecStop": "stop", "ExecStopPost": "stop-post"}


def lines(system: System) -> Finding:
    """The service calls the relay in both of its steps, as the manager's own user."""
    findings = [_step(system, directive, step) for directive, step in STEPS.items()]
    path = next(iter(paths(system)), "the relay")
    done = ok(f"{path} in {', '.join(f'{directive}=' for directive in STEPS)} of {system.service.name}")
    return next((finding for finding in findings if finding is not None), done)


def _step(system: System, directive: str, step: str) -> Finding | None:
    """Look for the line of one step; None if it is right."""
    name = system.service.name
    option = " --user" if system.user_manager else ""
    folder = "%h/.local" if system.user_manager else "/usr/local"
    path = next(iter(paths(system)), f"{folder}/lib/flask-socketact/relay")
    line = f"{directive}={'-' if system.user_manager else '-+'}{path}{option} {step} %n"
    remedy = f"{INSTALL}; or set {line} in {name}{', before other ExecStop= lines' if step == 'stop' else ''}"
    commands = system.service.commands(f"{directive}Ex")
    places = [place for place, command in enumerate(commands) if command.text == f"{path}{option} {step} {name}"]
    if not places:
        return error(f"there is no {line} in {name}: clients wait in a restart", remedy)
    flags = commands[places[0]].flags
    if not system.user_manager and "privileged" not in flags:
        return error(f"{directive}={path} {step} has no + in {name}: its user may not move the workers", remedy)
    if step == "stop" and places[0] > 0:
        return error(f"ExecStop={path} stop is not the first ExecStop= of {name}: it finds no workers left", remedy)
    if "ignore-failure" not in flags:
        return warning(f"{directive}={path} {step} has no - in {name}: when it fails, so does the service", remedy)
    return None


def permissions(system: System) -> Finding | None:
    """Nobody but root can change what root runs, not by a folder above it either."""
    for path in map(Path, paths(system)):
        try:
            changeable = None if system.user_manager else first_changeable(path)
            executable = path.stat().st_mode & 0o111
        except OSError as failed:
            return error(f"{path} cannot be run: {failed.strerror}", INSTALL)
        if changeable == path:
            remedy = f"{INSTALL} (who has changed it may have become root)"
            return error(f"others than root may change {path}, which root runs", remedy)
        if changeable is not None:
            remedy = f"Let root alone own and write that folder, or move {path.name} to one where that is so"
            return error(f"others than root may change {changeable}, and so {path}, which root runs", remedy)
        if not executable:
            return error(f"{path} is not executable", f"chmod 755 {path}")
    told = "is executable" if system.user_manager else "can be changed by root alone"
    return ok(f"{', '.join(paths(system))} {told}") if paths(system) else None


def version(system: System) -> Finding | None:
    """The relay is that of this version."""
    ours = resources.files("flask_socketact").joinpath("units/relay").read_bytes()
    for path in map(Path, paths(system)):
        try:
            theirs = path.read_bytes()
        except OSError:
            return None  # its permissions are told
        if theirs != ours:
            return warning(f"{path} is not that of this version of flask_socketact", INSTALL)
    return ok(f"{', '.join(paths(system))} is that of this version") if paths(system) else None


def paths(system: System) -> list[str]:
    """Return the different relays that the service and its sockets call: one, or something is wrong."""
    commands = [command for directive in STEPS for command in system.service.commands(f"{directive}Ex")]
    commands += [command for unit in system.sockets for command in unit.commands("ExecStartPre")]
    return list(dict.fromkeys(command.path for command in commands if Path(command.path).name == "relay"))


def first_changeable(path: Path) -> Path | None:
    """Return the first file or folder on the way to `path` that others than root may change, through all its links.

    :raises OSError: there is no such file, or it is not to be reached.
    """
    path.stat()  # its links end somewhere
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
    """Tell whether others than root may change a file or folder; in a sticky folder they may add what is not there."""
    return status.st_uid != 0 or bool(status.st_mode & 0o022)
