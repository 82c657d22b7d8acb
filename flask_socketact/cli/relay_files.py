"""The relays that units run, and whether they are from this version of the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask_socketact.systemd.unit import Unit

#: Settings with commands, which "+" runs as root.
DIRECTIVES = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")


def paths(services: Iterable[Unit], sockets: Iterable[Unit]) -> list[Path]:
    """Return the relays that units run: one, if the units are consistent."""
    commands = [command for unit in services for name in DIRECTIVES for command in unit.commands(f"{name}Ex")]
    commands += [command for unit in sockets for command in unit.commands("ExecStartPre")]
    return list(dict.fromkeys(Path(command.path) for command in commands if Path(command.path).name == "relay"))


def is_of_this_version(path: Path) -> bool:
    """Return whether a relay is the one that this version of the package installs.

    :raises OSError: it cannot be read.
    """
    return path.read_bytes() == resources.files("flask_socketact.handover").joinpath("relay").read_bytes()
