"""The service manager's properties of units, by systemctl and busctl.

``systemctl show`` reads most of them, and not busctl's JSON: as root, systemctl reaches the manager without D-Bus, and
``doctor`` must work to report that D-Bus does not. busctl reads what systemctl prints ambiguously: lists of words.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask_socketact import env
from flask_socketact.errors import ManagerError, NoServiceError
from flask_socketact.systemd import unit_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The relay's, too, so that both find the same commands.
PATH = "/usr/bin:/bin"
#: How long a command may take. Seconds.
SECONDS = 30

#: Values of ``ActiveState`` of a service that runs.
ACTIVE_STATES = ("active", "reloading")

BUS = "org.freedesktop.systemd1"
OBJECT = "/org/freedesktop/systemd1"
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


def describe_masked(unit: Unit, *, user: bool) -> str:
    """Return a line for a masked unit, with the remedy."""
    return f"{unit.name} is masked, so nothing can start it: {as_typed(user=user)} unmask {unit.name}"


def as_typed(*, user: bool) -> str:
    """Return the systemctl command of a manager, as you type it."""
    return "systemctl --user" if user else "systemctl"


class Manager:
    """The manager of the system, or of the user."""

    def __init__(self, *, user: bool) -> None:
        self.user = user
        self.option = "--user" if user else "--system"

    def show(self, name: str, *properties: str) -> Unit:
        """Load a unit if necessary, and read properties of it.

        :raises ManagerError: there is no manager, or it rejects the name.
        """
        text = self.run("systemctl", self.option, "show", f"--property={','.join(properties)}", "--", name)
        return Unit(name, parse_properties(text))

    def find(self, name: str, *properties: str) -> Unit:
        """Read properties of a unit that must exist, and its LoadState.

        :raises NoServiceError: it does not exist.
        :raises ManagerError: there is no manager.
        """
        unit = self.show(name, "LoadState", *properties)
        if unit["LoadState"] == "not-found":
            raise NoServiceError(f"there is no {name}")
        return unit

    def listening(self) -> list[tuple[str, str]]:
        """Return the addresses of all active socket units, as in their files, with the units' names.

        :raises ManagerError: the manager does not answer.
        """
        text = self.run("systemctl", self.option, "list-sockets", "--plain", "--no-legend", "--full")
        lines = (line.split() for line in text.split("\n"))
        return [(words[0], words[1]) for words in lines if len(words) > 1]

    def instances(self, template: str) -> list[str]:
        """Return the instances of a template that the manager has loaded, without ``.service``, sorted.

        Those are the ones that run, that have failed, whose socket unit listens, and that start at boot.

        :param template: such as ``app@``
        :raises ManagerError: the manager does not answer.
        """
        patterns = [f"{template}*.{kind}" for kind in ("service", "socket")]
        text = self.run("systemctl", self.option, "list-units", "--all", "--plain", "--no-legend", "--full", *patterns)
        return sorted({line.split()[0].rpartition(".")[0] for line in text.splitlines() if line.strip()})

    def names(self, name: str) -> list[str]:
        """Return the services of a name: of a template those of :meth:`instances`, else the one.

        :raises ManagerError: the manager does not answer.
        """
        return self.instances(name) if unit_names.is_template(name) else [name]

    def unit_folders(self) -> list[Path]:
        """Return the folders from which the manager loads units, the ones that count most first.

        :raises ManagerError: the manager does not answer.
        """
        text = self.run("systemctl", self.option, "show", "--value", "--property=UnitPath")
        return [Path(folder) for folder in text.split()]

    def version(self) -> str:
        return self.run("systemctl", self.option, "show", "--value", "--property=Version").strip()

    def get(self, unit: str, *properties: str) -> list[Any]:
        """Read properties of a service by D-Bus, as JSON: in a list of words, systemctl does not tell them apart.

        :raises ManagerError: D-Bus does not answer.
        """
        path = f"{OBJECT}/unit/{''.join(c if c.isalnum() else f'_{ord(c):02x}' for c in unit)}"
        arguments = (path, f"{BUS}.Service", *properties)
        lines = self.run("busctl", self.option, "--json=short", "get-property", BUS, *arguments).splitlines()
        return [json.loads(line)["data"] for line in lines]

    def ping_bus(self) -> str:
        """Use D-Bus as the relay does; return why that fails, or an empty string."""
        try:
            self.run("busctl", self.option, "get-property", BUS, OBJECT, f"{BUS}.Manager", "Version")
        except ManagerError as error:
            return str(error)
        return ""

    def run(self, *command: str, seconds: float = SECONDS) -> str:
        """Run a command of systemd, and return its output.

        :param seconds: how long it may take
        :raises ManagerError: it fails; the text has the first line of its stderr.
        """
        try:
            done = call(*command, seconds=seconds)
        except subprocess.TimeoutExpired:
            raise ManagerError(f"{command[0]} does not answer within {seconds:g} s") from None
        if done.returncode != 0:
            session = self.user and "XDG_RUNTIME_DIR" not in os.environ
            remedy = ": log in as the user, since sudo and su do not set XDG_RUNTIME_DIR" if session else ""
            raise ManagerError(f"{command[0]}: {complaint(done)}{remedy}")
        return done.stdout


def call(*command: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command of systemd, in an environment with only the variables that say which manager is meant.

    :raises ManagerError: there is no such command.
    :raises TimeoutExpired: it takes longer; a job that it has started continues.
    """
    keep = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "HOME")
    environment = {"PATH": PATH, "LC_ALL": "C"} | {key: os.environ[key] for key in keep if key in os.environ}
    try:
        return subprocess.run(  # noqa: S603 (a list of words, no shell)
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=None if math.isinf(seconds) else seconds,
        )
    except FileNotFoundError:
        raise ManagerError(f"there is no {command[0]} in {PATH}") from None


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return the first line of a command's stderr."""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[0]


def runtime_folders(unit: Unit, manager: Manager) -> list[Path]:
    """Return the folders of ``RuntimeDirectory=`` of a service: first ours, as `service_counters.find_folder` does."""
    root = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}") if manager.user else "/run"
    names = sorted(unit.names("RuntimeDirectory"), key=lambda name: not name.endswith("-metrics"))
    return [Path(root, name) for name in names]
