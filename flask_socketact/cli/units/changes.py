"""What new units change on this machine: addresses, older units, and conflicts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_socketact.cli import ports
from flask_socketact.cli.units.install import is_ours, made_for
from flask_socketact.systemd.manager import Manager, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask_socketact.cli.units.render import Application


@dataclass(frozen=True)
class Changes:
    """What the administrator must know after installing units."""

    warnings: tuple[str, ...]
    change_over: str  #: commands that make systemd open the new addresses; empty if not necessary
    is_running: bool  #: whether the service runs, with the old units


def look(wanted: Application, written: list[Path]) -> Changes:
    """Compare the installed units with what the manager holds, and with older units in their folder.

    :raises ManagerError: the manager does not respond.
    """
    manager = Manager(user=wanted.user_manager)
    left = _left_behind(wanted, written)
    sockets = [manager.show(socket.unit, "ActiveState", "Listen") for socket in wanted.sockets]
    active = [unit.is_active for unit in sockets]
    moved = any(ports.missing(unit, manager) for unit in sockets if unit.is_active)
    names = (*(unit.name for unit in sockets), *(path.name for path in left))
    occupied = _occupied(sockets, manager, names)
    return Changes(
        warnings=(*_other_systemd(wanted, manager), *occupied, *_removals(wanted, left)),
        change_over=_commands(wanted) if moved or (any(active) and not all(active)) else "",
        is_running=manager.show(f"{wanted.name}.service", "ActiveState").is_active,
    )


def _other_systemd(wanted: Application, manager: Manager) -> Iterator[str]:
    running = re.match(r"\D*(\d+)", manager.version())
    if running is not None and int(running[1]) < wanted.systemd_version:
        yield (
            f"the units are for systemd {wanted.systemd_version}, but {running[1]} is running, which ignores some of "
            "their lines: remove --systemd-version"
        )


def _commands(wanted: Application) -> str:
    sockets = " ".join(socket.unit for socket in wanted.sockets)
    stop, start = (f"{wanted.systemctl} {verb}" for verb in ("stop", "enable --now"))
    return f"{stop} {wanted.name}.service {sockets} && {start} {sockets} {wanted.name}.service"


def _left_behind(wanted: Application, written: list[Path]) -> list[Path]:
    """Return units of the service that were made with other options."""
    service = f"{wanted.name}.service"
    folder = next(path.parent for path in written if path.name == service)
    others = [path for path in sorted(folder.glob(f"{wanted.name}-*")) if path not in written and path.is_file()]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in others}
    return [path for path, text in texts.items() if is_ours(text) and service in made_for(text)]


def _removals(wanted: Application, left: list[Path]) -> Iterator[str]:
    for path in left:
        is_template = path.stem.endswith("@")  # only its instances can be stopped
        stop = "" if is_template else f"{wanted.systemctl} disable --now {path.name}; "
        steps = f"{stop}rm {path}; {wanted.systemctl} daemon-reload"
        yield f"{path.name} was made with other options, and is still in use. To remove it: {steps}"


def _occupied(sockets: list[Unit], manager: Manager, names: tuple[str, ...]) -> Iterator[str]:
    """Yield a warning for each address that something else holds."""
    for unit in sockets:
        for address in () if unit.is_active else unit.listens("Stream"):
            if who := ports.occupant(address, manager, names):
                yield f"{address} is held by {who}: stop it, or choose another address with --listen"
