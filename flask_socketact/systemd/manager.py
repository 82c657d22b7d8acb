"""The service manager's properties of units, by systemctl and busctl.

``systemctl show`` reads most of them, and not busctl's JSON: as root, systemctl reaches the manager without D-Bus, and
``doctor`` must work to report that D-Bus does not. busctl reads what systemctl prints ambiguously: lists of words.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

from flask_socketact.errors import ManagerError, NoServiceError
from flask_socketact.systemd import cgroup, unit_names
from flask_socketact.systemd.unit import Unit, parse_properties

#: The relay's, too, so that both find the same commands.
PATH = "/usr/bin:/bin"
#: How long a command may take. Seconds.
SECONDS = 30
#: The same for what a restart or a stop waits for: SYSTEMD_BUS_TIMEOUT= in handover/relay.
QUICK = 5.0

BUS = "org.freedesktop.systemd1"
OBJECT = "/org/freedesktop/systemd1"


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

    def show(self, name: str, *properties: str, seconds: float = SECONDS) -> Unit:
        """Load a unit if necessary, and read properties of it.

        :param seconds: how long that may take
        :raises ManagerError: there is no manager, or it rejects the name.
        """
        command = ("systemctl", self.option, "show", f"--property={','.join(properties)}", "--", name)
        text = self.run(*command, seconds=seconds)
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

    def job(self, name: str, *, seconds: float = SECONDS) -> str:
        """Return the type of the job that the manager runs for a unit, such as ``restart``; "" without one.

        :param seconds: how long that may take
        :raises ManagerError: the manager does not answer.
        """
        options = ("--plain", "--no-legend", "--full")
        text = self.run("systemctl", self.option, "list-jobs", *options, "--", name, seconds=seconds)
        return next((kind for _, _, kind, _ in map(str.split, text.splitlines())), "")

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


def of_process() -> Manager:
    """Return the manager of the unit that this process is in."""
    return Manager(user=bool(os.getuid()) and "/user@" in (cgroup.of(os.getpid()) or ""))


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


def runtime_root(*, user: bool) -> Path:
    """Return the folder of what a manager's units make at run time: ``/run``, or ``XDG_RUNTIME_DIR``."""
    return Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}") if user else "/run")


def runtime_folders(unit: Unit, manager: Manager) -> list[Path]:
    """Return the folders of ``RuntimeDirectory=`` of a service: first ours, as `service_counters.find_folder` does."""
    names = sorted(unit.names("RuntimeDirectory"), key=lambda name: not name.endswith("-metrics"))
    return [runtime_root(user=manager.user) / name for name in names]
