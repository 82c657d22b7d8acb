"""Read gunicorn's settings as the service does: with its Python, as its user, in its folder.

Never as root: the configuration is a program. The service's user may have written it, or the Python that runs it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.cli.doctor import as_user
from flask_socketact.cli.doctor.account import Account, account
from flask_socketact.cli.doctor.environment import environment, expand
from flask_socketact.cli.doctor.finding import Finding, error, warning
from flask_socketact.errors import AccountError, ManagerError, SocketActError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask_socketact.systemd.manager import Manager
    from flask_socketact.systemd.unit import Unit

#: How long reading the settings may take, in seconds.
SECONDS = 30
_MAX_NUMBER = 2**31 - 1
#: How many databases and folders of the application are examined.
_MOST_DATA = 100
#: No path: it appears in a remedy.
_DATA = re.compile(r"[a-z]+/|[\w-][\w. -]*", re.ASCII)
#: Raised for output that is not ours: no JSON, nested too deeply, or with other keys or values.
_MALFORMED = (AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: Runs the Python in the first line of the gunicorn command, or else the one next to it. A shell of the user reads that
#: line: root must not read the user's file, which may be a device.
START = """
set -f
read -r line <"$1"
case $line in '#!'*python*) python=${line#??} ;; *) python=$2 ;; esac
exec $python -c "$3" "$4"
"""


@dataclass(frozen=True)
class Settings:
    """gunicorn's settings, where the application is, and its data."""

    graceful_timeout: int
    worker_connections: int
    workers: int
    threads: int
    worker_class: str
    our_worker: bool
    our_master: bool
    app: str
    found: bool  #: the application's module exists
    file: str | None  #: its path; None for a namespace package
    readable: bool
    #: Names in the working directory that the service's user may write: of databases, and of folders with a slash.
    data: tuple[str, ...] = ()


class UnreadError(SocketActError):
    """The settings could not be read; the finding has the reason."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


@dataclass(frozen=True)
class _Command:
    """The command that the service runs, and how Python finds modules for it."""

    program: str
    python: str  #: the Python next to the program
    argv: list[str]
    directory: str
    path: str  #: first entry of ``sys.path``
    variables: Mapping[str, str]


def read_settings(manager: Manager, service: Unit) -> Settings:
    """Read gunicorn's settings as the service's user.

    :raises UnreadError: they cannot be read.
    """
    user = _user(service, user_manager=manager.user)
    try:
        printed = _run(_command(manager, service, user), user)
    except ManagerError as failed:
        remedy = "Repair D-Bus first (see the check D-Bus)"
        raise UnreadError(warning(f"gunicorn's settings are unknown: {failed}", remedy)) from None
    try:
        return _parse(printed)
    except _MALFORMED:
        remedy = f"Start only gunicorn in ExecStart= of {service.name}"
        raise UnreadError(error("gunicorn exited without an error, but did not print its settings", remedy)) from None


def _user(service: Unit, *, user_manager: bool) -> Account:
    """Return the service's user, if this process is or may become that user.

    :raises UnreadError: it may not.
    """
    try:
        user = account(service, user_manager=user_manager)
    except AccountError as failed:
        remedy = f"Create it (useradd --system, groupadd --system), or set another in {service.name}"
        raise UnreadError(error(f"{failed}, which {service.name} runs as", remedy)) from None
    if user.uid == 0:
        remedy = f"Set User= in {service.name} to a user of its own"
        raise UnreadError(warning(f"{service.name} runs as root: gunicorn's settings are not read", remedy))
    if os.geteuid() not in (0, user.uid):
        remedy = "Run flask-socketact doctor as root"
        raise UnreadError(warning(f"gunicorn's settings could not be read as {user.name}", remedy))
    return user


def _command(manager: Manager, service: Unit, user: Account) -> _Command:
    commands, lines, files = manager.get(service.name, "ExecStartEx", "Environment", "EnvironmentFiles")
    program, (_, *words), flags = commands[0][:3]
    try:
        variables = environment(service, user, lines, files, user_manager=manager.user)
    except OSError as failed:
        remedy = "Create it; if it exists, run flask-socketact doctor as root"
        what = f"EnvironmentFile={failed.filename} cannot be read: {failed.strerror}"
        raise UnreadError(error(what, remedy)) from None
    if "no-env-expand" not in flags:
        words = expand(words, variables)
    directory = _directory(service, user, user_manager=manager.user)
    if Path(program).name.startswith("python") and words[:2] == ["-m", "gunicorn"]:
        return _Command(program, program, words[1:], directory, directory, variables)
    if Path(program).name != "gunicorn":
        remedy = f"Start gunicorn itself in ExecStart= of {service.name}"
        raise UnreadError(warning(f"ExecStart={program} is not gunicorn: its settings are unknown", remedy))
    folder = str(Path(program).parent)
    return _Command(program, f"{folder}/python3", [program, *words], directory, folder, variables)


def _directory(service: Unit, user: Account, *, user_manager: bool) -> str:
    """Return the working directory of a service."""
    directory = service.directory
    if directory == "~" or (user_manager and not directory):
        return user.home
    return directory or "/"


def _run(service: _Command, user: Account) -> str:
    """Run read_settings.py in the service's Python as the user, and return what it prints."""
    source = resources.files("flask_socketact.cli.doctor").joinpath("read_settings.py").read_text()
    words = json.dumps({name: value for name, value in asdict(service).items() if name != "variables"})
    command = ["/bin/sh", "-c", START, "sh", service.program, service.python, source, words]
    variables = {**service.variables, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = as_user.run(command, user, variables, seconds=SECONDS)
    except (OSError, ValueError) as failed:
        raise _cannot(user, "read gunicorn's settings", getattr(failed, "strerror", "") or str(failed)) from None
    except subprocess.TimeoutExpired:
        raise _cannot(user, "read gunicorn's settings", f"timeout after {SECONDS} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if any(map(str.isalpha, line))]
        why = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise _cannot(user, f"read gunicorn's settings in {service.directory}", why)
    return done.stdout


def _cannot(user: Account, what: str, why: str) -> UnreadError:
    remedy = f"Correct that, or give {user.name} access to the folders of the application and of its Python"
    return UnreadError(error(f"{user.name} cannot {what}: {why}", remedy))


def _parse(printed: str) -> Settings:
    """Parse the settings. The service's user printed them, so every value is checked.

    :raises Exception: they are malformed; one of `_MALFORMED`.
    """
    values = json.loads(printed.strip().splitlines()[-1])
    return Settings(
        graceful_timeout=_number(values["graceful_timeout"]),
        worker_connections=_number(values["worker_connections"]),
        workers=_number(values["workers"]),
        threads=_number(values["threads"]),
        worker_class=str(values["worker_class"]),
        our_worker=bool(values["our_worker"]),
        our_master=bool(values["our_master"]),
        app=str(values["app"]),
        found=bool(values["found"]),
        file=str(values["file"]) if values.get("file") else None,
        readable=bool(values.get("readable")),
        data=tuple(name for name in map(str, values["data"][:_MOST_DATA]) if _DATA.fullmatch(name)),
    )


def _number(value: object) -> int:
    """Return a number that gunicorn can work with.

    :raises ValueError: it is not one.
    """
    if not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError
    return value
