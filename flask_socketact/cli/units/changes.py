"""What new units change on this machine: addresses, older units, and conflicts."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_socketact.cli import ports
from flask_socketact.cli.units.install import is_ours, made_for
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import Manager
from flask_socketact.systemd.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask_socketact.cli.units.application import Application


@dataclass(frozen=True)
class Changes:
    """What the administrator must know after installing units."""

    warnings: tuple[str, ...]
    change_over: str  #: commands that make systemd open the new addresses; empty if not necessary
    running: tuple[str, ...]  #: the services that run, with the old units


def look(wanted: Application, written: list[Path]) -> Changes:
    """Compare the installed units with what the manager holds, and with older units in their folder.

    :raises ManagerError: the manager does not respond.
    """
    manager = Manager(user=wanted.user_manager)
    left = _left_behind(wanted, written)
    names = manager.names(wanted.name)
    units = [unit_names.of_instance(socket.unit, name) for name in names for socket in wanted.sockets]
    sockets = [manager.show(unit, "ActiveState", "Listen") for unit in units]
    moved = any(ports.missing(unit, manager) for unit in sockets if unit.is_active)
    occupied = _occupied(sockets, manager, (*units, *(path.name for path in left)))
    return Changes(
        warnings=(*_other_systemd(wanted, manager), *occupied, *_removals(wanted, left)),
        change_over=_commands(wanted, names, units) if moved or _is_in_part(sockets) else "",
        running=tuple(name for name in names if manager.show(f"{name}.service", "ActiveState").is_active),
    )


def _other_systemd(wanted: Application, manager: Manager) -> Iterator[str]:
    running = re.match(r"\D*(\d+)", manager.version())
    if running is not None and int(running[1]) < wanted.systemd_version:
        yield (
            f"the units are for systemd {wanted.systemd_version}, but {running[1]} is running, which ignores some of "
            "their lines: remove --systemd-version"
        )


def _is_in_part(sockets: list[Unit]) -> bool:
    """Return whether some socket units of a service are active, and others are not."""
    by_service: dict[str, set[bool]] = {}
    for unit in sockets:
        by_service.setdefault(unit.name.partition("@")[2], set()).add(unit.is_active)
    return any(len(states) > 1 for states in by_service.values())


def _commands(wanted: Application, names: list[str], units: list[str]) -> str:
    services, sockets = " ".join(shlex.quote(f"{name}.service") for name in names), " ".join(map(shlex.quote, units))
    stop, start = (f"{wanted.systemctl} {verb}" for verb in ("stop", "enable --now"))
    return f"{stop} {services} {sockets} && {start} {sockets} {services}"


def _left_behind(wanted: Application, written: list[Path]) -> list[Path]:
    """Return units of the service that were made with other options."""
    service = f"{wanted.name}.service"
    folder = next(path.parent for path in written if path.name == service)
    others = [
        path
        for path in sorted(folder.glob(unit_names.alongside(wanted.name, "*.*")))
        if path not in written and path.is_file()
    ]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in others}
    return [path for path, text in texts.items() if is_ours(text) and service in made_for(text)]


def _removals(wanted: Application, left: list[Path]) -> Iterator[str]:
    for path in left:
        is_template = path.stem.endswith("@")  # only its instances can be stopped
        stop = f"; {wanted.systemctl} stop '{path.name.replace('@', '@*')}'" if is_template else ""
        now = "" if is_template else "--now "
        steps = f"{wanted.systemctl} disable {now}{path.name}{stop}; rm {path}; {wanted.systemctl} daemon-reload"
        yield f"{path.name} was made with other options, and is still in use. To remove it: {steps}"


def _occupied(sockets: list[Unit], manager: Manager, names: tuple[str, ...]) -> Iterator[str]:
    """Yield a warning for each address that something else holds."""
    for unit in sockets:
        for address in () if unit.is_active else unit.listens("Stream"):
            if who := ports.occupant(address, manager, names):
                yield f"{address} is held by {who}: stop it, or choose another address with --listen"
