"""Remove the units of a service, and tell what remains of it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flask_socketact import files
from flask_socketact.cli import typed
from flask_socketact.cli.lb import state
from flask_socketact.cli.units.install import RELAY, TAKEN_OVER, helper_folder, is_ours, made_for, unit_folder
from flask_socketact.errors import LeftBrokenError, ManagerError, UnitError
from flask_socketact.systemd.manager import SECONDS, Manager

#: Units that are stopped first: they start the service.
_SOCKETS = (".socket", ".path")


@dataclass(frozen=True)
class Removed:
    """What was removed, and what was not."""

    paths: list[Path]
    left: list[str]  #: what the service has left on the machine


def remove(name: str, *, user_manager: bool) -> Removed:
    """Stop a service, and remove its units; and the relay, if no other service needs it.

    :raises UnitError: nothing was done: there is no such service, or it is not ours.
    :raises LeftBrokenError: systemd did not stop it, or a file cannot be removed.
    """
    folder = unit_folder(user_manager=user_manager)
    if not user_manager and os.geteuid() != 0:
        raise UnitError(f"--remove changes {folder} and needs root: use sudo")
    service = f"{name}.service"
    units = _units(folder)
    own = [path for path, text in units.items() if path.name == service or service in made_for(text)]
    if folder / service not in own:
        raise UnitError(
            f"there is no {folder / service} that flask-socketact has made: {typed.command()} list shows all"
        )
    manager = Manager(user=user_manager)
    found = manager.show(service, "User", "WorkingDirectory", "TimeoutStopUSec")
    own.sort(key=lambda path: (path.suffix not in _SOCKETS, path.name != service))
    names = [path.name for path in own if not path.stem.endswith("@")]  # systemd stops instances, not templates
    _stop(names, manager, found.seconds("TimeoutStopUSec") + SECONDS)
    if not [path for path in units if path.suffix == ".service" and path not in own]:
        own.append(helper_folder(user_manager=user_manager) / RELAY)
    if (drop_in := folder / f"{service}.d" / TAKEN_OVER).exists():
        own.append(drop_in)
    if (weight := state.path(name, user_manager=user_manager)).exists():
        own.append(weight)
    _delete(own)
    manager.run("systemctl", manager.option, "daemon-reload")
    with suppress(ManagerError):  # it has not failed
        manager.run("systemctl", manager.option, "reset-failed", "--", *names)
    return Removed(own, list(_left(folder, name, found["User"], found.directory, user_manager=user_manager)))


def _stop(names: list[str], manager: Manager, seconds: float) -> None:
    """Stop and disable units: the requests in flight may take some seconds.

    :raises LeftBrokenError: systemd did not.
    """
    try:
        manager.run("systemctl", manager.option, "disable", "--now", "--", *names, seconds=seconds)
    except ManagerError as error:
        raise LeftBrokenError(f"nothing was removed, but perhaps stopped: {error}") from None


def _units(folder: Path) -> dict[Path, str]:
    """Return the units of all our services, and their texts."""
    texts = {}
    for path in sorted(folder.glob("*.*")):
        with suppress(OSError):
            if not path.is_symlink() and is_ours(text := files.read(path)):
                texts[path] = text
    return texts


def _delete(paths: list[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LeftBrokenError(f"{path} cannot be removed: {error.strerror}") from None
    for folder in {path.parent for path in paths}:
        with suppress(OSError):  # it has other files
            folder.rmdir()


def _left(folder: Path, name: str, user: str, directory: str, *, user_manager: bool) -> Iterator[str]:
    """Yield what an administrator may want to remove, too."""
    aside = [*folder.glob(f"{name}.*.old"), *folder.glob(f"{name}.*.d/*.old")]
    for path in sorted(aside):
        yield f"{path}: taken over; to have it back, type: mv {path} {path.with_suffix('')}"
    for path in sorted(folder.glob(f"{name}*.d")):
        if path.is_dir():
            yield f"{path}: your changes to the units"
    state = {} if user_manager else {"/var/lib": "the data of the application", "/var/cache": "", "/var/log": ""}
    for parent, what in state.items():
        if os.path.isdir(f"{parent}/{name}"):
            yield f"{parent}/{name}" + (f": {what}" if what else "")
    if os.path.isdir(directory):
        yield f"{directory}: the application"
    with suppress(KeyError):
        if user and not user_manager:
            yield f"the user {pwd.getpwnam(user).pw_name}"
