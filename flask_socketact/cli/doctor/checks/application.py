"""gunicorn's settings, read as the service reads them: by its Python, as its user, in its folder.

Never as root: the configuration is a program, and the user may have written it, or the Python that runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.cli.doctor.checks import as_user
from flask_socketact.cli.doctor.checks.account import Account, account
from flask_socketact.cli.doctor.checks.environment import environment, expand
from flask_socketact.cli.doctor.checks.finding import Finding, error, warning
from flask_socketact.errors import AccountError, ManagerError, SocketActError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask_socketact.systemd.manager import Manager, Unit

SECONDS = 30
_MAX_NUMBER = 2**31 - 1
#: Raised for output that is not what we asked for: no JSON, nested too deeply, or with other keys or values.
_NO_ANSWER = (AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: Runs the Python that the gunicorn command names in its first line, or else the one beside it. In a shell, because
#: not even that line is for root to read: what the user has put there may be a device.
START = """
set -f
read -r line <"$1"
case $line in '#!'*python*) python=${line#??} ;; *) python=$2 ;; esac
exec $python -c "$3" "$4"
"""


@dataclass(frozen=True)
class Settings:
    """What gunicorn reads; `found` is whether there is the application's module, `file` where (a folder has none)."""

    graceful_timeout: int
    worker_connections: int
    workers: int
    threads: int
    worker_class: str
    our_worker: bool
    our_master: bool
    app: str
    found: bool
    file: str | None
    readable: bool


class UnreadError(SocketActError):
    """The settings were not read; the finding says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


@dataclass(frozen=True)
class _Question:
    """What the service starts, which Python is beside that, and where it looks for modules first."""

    program: str
    python: str
    argv: list[str]
    directory: str
    path: str
    variables: Mapping[str, str]


def read_settings(manager: Manager, service: Unit) -> Settings:
    """Read gunicorn's settings as the service's user.

    :raises UnreadError: that is not possible.
    """
    user = _user(service, user_manager=manager.user)
    try:
        answer = _ask(_question(manager, service, user), user)
    except ManagerError as failed:
        remedy = "Let D-Bus answer first (check D-Bus)"
        raise UnreadError(warning(f"gunicorn's settings are not known: {failed}", remedy)) from None
    try:
        return _parse(answer)
    except _NO_ANSWER:
        remedy = f"Let ExecStart= of {service.name} start gunicorn, and nothing else"
        raise UnreadError(error("gunicorn did not read its settings, but ended without an error", remedy)) from None


def _user(service: Unit, *, user_manager: bool) -> Account:
    """Find who is to read the settings: the service's user, if we are or may become that."""
    try:
        user = account(service, user_manager=user_manager)
    except AccountError as failed:
        remedy = f"Make it (useradd --system, groupadd --system), or name another in {service.name}"
        raise UnreadError(error(f"{failed}, which {service.name} is to run as", remedy)) from None
    if user.uid == 0:
        remedy = f"Add User= with a user of its own to {service.name}"
        raise UnreadError(warning(f"{service.name} runs as root: gunicorn's settings are not read", remedy))
    if os.geteuid() not in (0, user.uid):
        remedy = "Run flask-socketact doctor as root"
        raise UnreadError(warning(f"gunicorn's settings could not be read as {user.name}", remedy))
    return user


def _question(manager: Manager, service: Unit, user: Account) -> _Question:
    commands, lines, files = manager.get(service.name, "ExecStartEx", "Environment", "EnvironmentFiles")
    program, (_, *words), flags = commands[0][:3]
    try:
        variables = environment(service, user, lines, files, user_manager=manager.user)
    except OSError as failed:
        remedy = "Make it, or run flask-socketact doctor as root if it is there"
        what = f"EnvironmentFile={failed.filename} cannot be read: {failed.strerror}"
        raise UnreadError(error(what, remedy)) from None
    if "no-env-expand" not in flags:
        words = expand(words, variables)
    directory = _directory(service, user, user_manager=manager.user)
    if Path(program).name.startswith("python") and words[:2] == ["-m", "gunicorn"]:
        return _Question(program, program, words[1:], directory, directory, variables)
    if Path(program).name != "gunicorn":
        remedy = f"Let ExecStart= of {service.name} start gunicorn itself"
        raise UnreadError(warning(f"ExecStart={program} is not gunicorn: its settings are not known", remedy))
    folder = str(Path(program).parent)
    return _Question(program, f"{folder}/python3", [program, *words], directory, folder, variables)


def _directory(service: Unit, user: Account, *, user_manager: bool) -> str:
    """Return the folder that a service runs in."""
    directory = service.directory
    if directory == "~" or (user_manager and not directory):
        return user.home
    return directory or "/"


def _ask(question: _Question, user: Account) -> str:
    """Run our few lines in the service's Python; it goes to its folder as the user."""
    source = resources.files("flask_socketact.cli.doctor.checks").joinpath("read_settings.py").read_text()
    words = json.dumps({name: value for name, value in asdict(question).items() if name != "variables"})
    command = ["/bin/sh", "-c", START, "sh", question.program, question.python, source, words]
    variables = {**question.variables, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = as_user.run(command, user, variables, seconds=SECONDS)
    except (OSError, ValueError) as failed:
        raise _cannot(user, "read gunicorn's settings", getattr(failed, "strerror", "") or str(failed)) from None
    except subprocess.TimeoutExpired:
        raise _cannot(user, "read gunicorn's settings", f"not done within {SECONDS} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if any(map(str.isalpha, line))]
        why = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise _cannot(user, f"read gunicorn's settings in {question.directory}", why)
    return done.stdout


def _cannot(user: Account, what: str, why: str) -> UnreadError:
    remedy = f"Mend that, or let {user.name} read and run the folders of the application and of its Python"
    return UnreadError(error(f"{user.name} cannot {what}: {why}", remedy))


def _parse(answer: str) -> Settings:
    """Check what the service's user has printed: we may be root, and believe nothing of it but that it is theirs.

    :raises Exception: it is no answer; of the types in `_NO_ANSWER`.
    """
    values = json.loads(answer.strip().splitlines()[-1])
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
    )


def _number(value: object) -> int:
    """:raises ValueError: it is no number that gunicorn could work with."""
    if not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError
    return value
