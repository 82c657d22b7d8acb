"""The services whose units ``flask-socketact units`` made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_socketact import files
from flask_socketact.cli.units.install import is_ours, made_for
from flask_socketact.systemd import unit_names

if TYPE_CHECKING:
    from pathlib import Path

    from flask_socketact.systemd.manager import Manager


def names(manager: Manager) -> list[str]:
    """Return the names of the services on this machine, without ``.service``, sorted: of a template, its instances.

    :raises ManagerError: the manager does not respond.
    """
    instances = (name for template in templates(manager) for name in manager.instances(template))
    return sorted({*(name for name in _made(manager) if not unit_names.is_template(name)), *instances})


def templates(manager: Manager) -> list[str]:
    """Return the names of the templates on this machine, such as ``app@``, sorted.

    :raises ManagerError: the manager does not respond.
    """
    return sorted(filter(unit_names.is_template, _made(manager)))


def _made(manager: Manager) -> set[str]:
    found = (path for folder in manager.unit_folders() for path in folder.glob("*.service"))
    return {path.stem for path in found if _is_service(path)}


def _is_service(path: Path) -> bool:
    """Return whether a file is the unit of a service of ours, and not of its relay or watchdog."""
    try:
        text = files.read(path)
    except OSError:
        return False  # `units` makes files that every user can read
    return is_ours(text) and not any(name.endswith(".service") for name in made_for(text))
