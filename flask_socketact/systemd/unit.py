"""Properties of a unit, as systemctl prints them."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_socketact import env

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Values of ``ActiveState`` of a service that runs.
ACTIVE_STATES = ("active", "reloading")

#: A dash in the name of a slice would begin another slice: systemd.slice(5).
_DASH = r"\x2d"

#: Units of time as systemctl prints them, in seconds: systemd.time(7).
UNITS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "month": 2629800.0,
    "y": 31557600.0,
}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([a-z]+)")
_COMMAND = re.compile(
    r"\{ path=(?P<path>.*?) ; argv\[\]=(?P<text>.*?) ; "
    r"(?:flags=(?P<flags>[a-z -]*)|ignore_errors=(?:yes|no)) ; start_time="
)


def parse_span(text: str) -> float:
    """Return the seconds of a time span as systemctl prints it: ``1min 15s``, ``2.500ms``, ``0``, ``infinity``.

    :raises ValueError: `text` is not a time span.
    """
    if text in ("0", "infinity"):
        return float(text)
    parts = [_SPAN.fullmatch(word) for word in text.split()]
    if not parts or not all(part and part[2] in UNITS for part in parts):
        raise ValueError(f"{text!r} is not a time span")
    return math.fsum(float(part[1]) * UNITS[part[2]] for part in parts if part)


@dataclass(frozen=True)
class Command:
    """A command of ``ExecStart=``, ``ExecStop=``, …; `text` is the command line without quotes."""

    path: str
    text: str
    flags: frozenset[str]


def parse_command(text: str) -> Command:
    """Read a line of a property like ``ExecStopEx``; or of ``ExecStop``, which has no flags (sockets have only that).

    :raises ValueError: `text` is not a command.
    """
    found = _COMMAND.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not a command")
    return Command(found["path"], found["text"], frozenset((found["flags"] or "").split()))


def parse_properties(text: str) -> dict[str, tuple[str, ...]]:
    """Read what ``systemctl show`` prints: a line for each property, or for each of its values.

    Only a line feed ends a line. The other characters at which Python's ``splitlines()`` splits may come from the
    service, in its ``STATUS=``: split there, the service could forge properties.
    """
    properties: dict[str, tuple[str, ...]] = {}
    for line in text.split("\n"):
        name, equals, value = line.partition("=")
        if equals and name.isalnum():  # other lines continue a command that has line breaks
            properties[name] = (*properties.get(name, ()), value)
    return properties


@dataclass(frozen=True)
class Unit:
    """The properties of a unit as the manager has loaded it; its files may have changed since."""

    name: str
    properties: Mapping[str, Sequence[str]]

    def __getitem__(self, key: str) -> str:
        """Return a property; empty if this systemd does not know it."""
        return next(iter(self.lines(key)), "")

    @property
    def is_active(self) -> bool:
        """Whether the unit runs."""
        return self["ActiveState"] in ACTIVE_STATES

    @property
    def directory(self) -> str:
        """``WorkingDirectory=``, without the ``!`` that systemctl prints if the folder may be missing."""
        return self["WorkingDirectory"].removeprefix("!")

    @property
    def environment(self) -> dict[str, str]:
        """``Environment=``; a value with spaces is cut at the first."""
        return dict(word.split("=", 1) for word in self["Environment"].split() if "=" in word)

    @property
    def overlaps(self) -> bool:
        """Whether old and new workers of the service may run at the same time."""
        return env.may_overlap(self.environment)

    @property
    def control_group(self) -> str:
        """``ControlGroup``; of a service that is not active, which has none, where it will be."""
        prefix, at, _ = self.name.partition("@")  # instances share a slice, named after their template
        slice_ = "system.slice" + (f"/system-{prefix.replace('-', _DASH)}.slice" if at else "")
        return self["ControlGroup"] or f"/{slice_}/{self.name}"

    def lines(self, key: str) -> Sequence[str]:
        return self.properties.get(key, ())

    def names(self, key: str) -> list[str]:
        """Return a list of units or folders. systemctl quotes those that have a backslash."""
        return shlex.split(self[key])

    def seconds(self, key: str) -> float:
        return parse_span(self[key])

    def number(self, key: str) -> float:
        return float(self[key])

    def commands(self, key: str) -> list[Command]:
        return [parse_command(line) for line in self.lines(key) if line]

    def listens(self, kind: str) -> list[str]:
        """Return the addresses of a socket unit of a kind: Stream, SequentialPacket, …"""
        ending = f" ({kind})"
        found = [line.removesuffix(ending) for line in self.lines("Listen") if line.endswith(ending)]
        return [address.replace("\\\\", "\\") for address in found]  # systemd doubles a backslash
