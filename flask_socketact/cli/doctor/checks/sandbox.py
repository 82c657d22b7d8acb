"""What the service may write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flask_socketact.cli.doctor.environment import FOLDERS
from flask_socketact.cli.doctor.finding import Finding, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask_socketact.cli.doctor.system import System

#: How many paths are told.
_MOST = 3


def writable(system: System) -> Finding:
    """The application may write where its data is."""
    service = system.service
    protection = service["ProtectSystem"]
    if protection != "strict":
        told = f"ProtectSystem={protection or 'no'} in {service.name}"
        return ok(f"{told}: the permissions of files decide what it may write outside the system's folders")
    folders = _folders(system)
    hidden = _read_only_data(system, folders)
    places = [*folders, *(["a private /tmp"] if service["PrivateTmp"] == "yes" else [])]
    told = f"{service.name} may write to {_listed(places) or 'no folder'}"
    if not hidden:
        return ok(f"{told}; for more, set ReadWritePaths= ({system.systemctl} edit {service.name})")
    paths = " ".join(_outermost(hidden.values()))
    what = f"{told}, and not to its data: {_listed(list(hidden)[:_MOST])}{', …' if len(hidden) > _MOST else ''}"
    elsewhere = f", or move the data to {folders[0]}" if service["StateDirectory"] else ""
    return warning(what, f"{system.set(f'ReadWritePaths={paths}')}{elsewhere}")


def _folders(system: System) -> list[str]:
    """Return the folders that the sandbox leaves writable."""
    service = system.service
    made = [f"{above}/{name}" for kind, above in FOLDERS.items() for name in service[f"{kind}Directory"].split()]
    added = [path.lstrip("-+").rstrip("/") for path in service["ReadWritePaths"].split()]
    bound = [path.split(":")[1] for path in service["BindPaths"].split() if ":" in path]
    return [*([] if system.user_manager else made), *added, *bound]


def _read_only_data(system: System, folders: list[str]) -> dict[str, str]:
    """Return the application's data that is in none of these folders, each with the folder to add."""
    if isinstance(system.settings, Finding):
        return {}  # the check of the application reports it
    directory = system.service.directory
    if not directory.startswith("/"):
        return {}  # the home of the service's user
    found = {}
    for name in system.settings.data:
        folder = os.path.join(directory, name.removesuffix("/")) if name.endswith("/") else directory
        if not any(f"{folder}/".startswith(f"{place}/") for place in folders):
            found[os.path.join(directory, name)] = folder
    return found


def _outermost(folders: Iterable[str]) -> list[str]:
    """Return the folders that are in none of the others."""
    found: list[str] = []
    for folder in sorted(folders):
        if not any(f"{folder}/".startswith(f"{other}/") for other in found):
            found.append(folder)
    return found


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
