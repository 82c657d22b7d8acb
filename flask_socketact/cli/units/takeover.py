"""Take over a service with units that were written by hand: the same application, settings and rights, with our units.

What our options can say becomes options. The other lines of the old unit, where they mean the same in ours, go into a
drop-in. What is left is told, with the reason.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask_socketact import files
from flask_socketact.cli.units import served as command_lines
from flask_socketact.cli.units.existing import Existing, Line
from flask_socketact.cli.units.install import TAKEN_OVER, is_ours, unit_folder
from flask_socketact.cli.units.render import Application
from flask_socketact.cli.units.served import Served
from flask_socketact.errors import OptionError, UnitError
from flask_socketact.text import printable

#: Lines that mean the same in our units.
_COPIED = re.compile(
    "Description|Documentation|After|Before|Wants|Requires|Requisite|BindsTo|Conflicts|RequiresMountsFor|OnFailure"
    "|OnSuccess|Condition.*|Assert.*|Environment|PassEnvironment|UnsetEnvironment|Limit.*|SupplementaryGroups|Nice"
    "|OOMScoreAdjust|CPU.*|Memory.*|IO.*|Tasks.*|IPAddress.*|UMask|CacheDirectory.*|LogsDirectory.*"
    "|ConfigurationDirectory.*|StateDirectory.*|ReadOnlyPaths|InaccessiblePaths|BindPaths|BindReadOnlyPaths"
    "|TemporaryFileSystem|LoadCredential.*|SetCredential.*|Syslog.*|LogLevelMax|LogExtraFields|StandardOutput"
    "|StandardError|ExecStartPre|ExecStartPost|ExecCondition|TimeoutStartSec|AmbientCapabilities"
    "|CapabilityBoundingSet|Slice|DeviceAllow|KeyringMode"
)
#: Lines whose work our units do, in their own way.
_DONE = re.compile(
    "Type|NotifyAccess|User|Group|DynamicUser|WorkingDirectory|ExecStart|EnvironmentFile|ReadWritePaths|ExecReload"
    "|ExecStop|ExecStopPost|KillMode|KillSignal|SendSIGKILL|PIDFile|Restart|RestartSec|TimeoutStopSec|NonBlocking"
    "|WatchdogSec|StartLimit.*|Sockets|GuessMainPID|NoNewPrivileges|Private.*|Protect.*|Restrict.*|LockPersonality"
    "|SystemCall.*|OOMPolicy"
)
#: Groups of proxies, which connected to a socket that was open to all.
_PROXIES = ("www-data", "nginx", "http", "haproxy")


@dataclass(frozen=True)
class Takeover:
    """A service that is taken over."""

    existing: Existing
    options: dict[str, Any]  #: values of our options, by the names of the command's parameters
    others: str  #: text of the drop-in with the other lines; empty if there are none
    remarks: tuple[str, ...]  #: what is not as before, or should be looked at

    def drop_in(self, wanted: Application) -> dict[str, str]:
        """Return the drop-in by its name, if there is one."""
        return {f"{wanted.name}.service.d/{TAKEN_OVER}": self.others} if self.others else {}

    def replaces(self, wanted: Application) -> list[Path]:
        """Return the files whose place our units take."""
        if wanted.name != self.existing.name:
            return []
        folder = unit_folder(user_manager=wanted.user_manager)
        sockets = [folder / name for name in self.existing.sockets]
        return [path for path in (*self.existing.files, *sockets) if folder in path.parents and path.is_file()]

    def check(self, values: dict[str, Any], *, is_app_known: bool) -> None:
        """Check that what the old units do not say was typed.

        :raises OptionError: it was not.
        """
        name = f"{self.existing.name}.service"
        if not values["user_manager"] and (values["user"] or "root") in ("root", "0"):
            why = "has no user of its own (DynamicUser=)" if self.existing.is_dynamic else "runs as root"
            raise OptionError(f"{name} {why}: add --user, with a user that does not own the code")
        if not (is_app_known or "app" in self.options):
            raise OptionError(f"ExecStart= of {name} does not name the application: add --app")


def plan(existing: Existing, *, is_app_known: bool) -> Takeover:
    """Return how a service is taken over.

    :param is_app_known: a command that is not gunicorn's does not matter
    :raises UnitError: the service is ours, or its command is not gunicorn's.
    """
    if is_ours(files.read(existing.files[0])):
        raise UnitError(f"{existing.files[0]} was made by flask-socketact: use --again {existing.name}")
    try:
        served = served_by(existing)
    except UnitError:
        if not is_app_known:
            raise
        served = Served(
            remarks=[f"ExecStart={existing.command[0]} was not read: check --listen, --workers and --python"]
        )
    remarks = [*served.remarks]
    directory = served.directory or existing.directory
    listen = _listeners(existing, served)
    options = {
        "name": existing.name,
        "app": served.app,
        "user": existing.user or None,
        "group": existing.group or None,
        "directory": directory or None,
        "python": served.python,
        "config": served.config,
        "listen": listen,
        "socket_group": _proxy_group(existing, listen),
        "workers": served.workers,
        "threads": served.threads,
        "drain": served.drain,
        "env_files": tuple(file for each in existing.env_files if os.path.exists(file := each.removeprefix("-"))),
        "write": tuple(_writable(existing, directory, remarks)),
    }
    taken = {key: value for key, value in options.items() if value not in (None, ())}
    return Takeover(existing, taken, _drop_in(existing, served), (*remarks, *_left(existing)))


def served_by(existing: Existing) -> Served:
    environment = dict(each.split("=", 1) for each in existing.environment if "=" in each)
    return command_lines.read(existing.command, environment, existing.directory)


def _listeners(existing: Existing, served: Served) -> tuple[str, ...]:
    """Return the addresses, as ``--listen`` has them: those of the socket units, or gunicorn's."""
    held = tuple(address for addresses in existing.sockets.values() for address in addresses)
    return held or tuple(map(_address, served.bind))


def _address(bind: str) -> str:
    """Return an address of gunicorn as ``--listen`` has it."""
    if bind.startswith("unix:"):
        return "/" + bind.removeprefix("unix:").lstrip("/")
    host, colon, port = bind.removeprefix("tcp://").rpartition(":")
    if not colon:
        return f"{port}:8000"  # gunicorn's default port
    hosts = {"": "", "localhost": "127.0.0.1:", "*": ""}
    return f"{hosts.get(host, f'{host}:')}{port}"


def _proxy_group(existing: Existing, listen: tuple[str, ...]) -> str | None:
    """Return the group of a proxy for a path: gunicorn's own sockets are open to all users."""
    if not any(address.startswith("/") for address in listen):
        return None
    for name in _PROXIES:
        with suppress(KeyError):
            return grp.getgrnam(name).gr_name
    return existing.group or None


def _writable(existing: Existing, directory: str, remarks: list[str]) -> list[str]:
    """Return what the service may write: what its unit says, and what its user owns, unless the unit has a sandbox."""
    if any(line.key == "ProtectSystem" and line.value == "strict" for line in existing.lines):
        return [path.lstrip("-+") for path in existing.write]
    try:
        account = pwd.getpwnam(existing.user)
    except KeyError:
        return list(existing.write)
    candidates = [account.pw_dir, directory, f"/var/log/{existing.name}", f"/var/cache/{existing.name}"]
    owned = [path for path in map(os.path.realpath, filter(None, candidates)) if _owns(account.pw_uid, path)]
    found = dict.fromkeys([*(path.lstrip("-+") for path in existing.write), *owned])
    paths = [path for path in found if not any(path.startswith(f"{other}/") for other in found)]
    for path in owned:
        if path in paths:
            remarks.append(
                f"{existing.user} owns {path}, so the service may write there, as before: narrow it with --write"
            )
    return paths


def _owns(uid: int, path: str) -> bool:
    try:
        return path != "/" and os.stat(path).st_uid == uid
    except OSError:
        return False


def _drop_in(existing: Existing, served: Served) -> str:
    """Return the drop-in with the lines that no option has."""
    sections: dict[str, list[str]] = {}
    for line in existing.lines:
        if (text := _copy(existing, line)) is not None:
            sections.setdefault(line.section, []).append(text)
    if served.others:
        words = " ".join(_quote(word) for word in served.others)
        text = f"GUNICORN_CMD_ARGS={words}".replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        sections.setdefault("Service", []).append(f'Environment="{text}"')
    for file in existing.env_files:
        if not os.path.exists(file.removeprefix("-")):
            sections.setdefault("Service", []).append(f"EnvironmentFile={file}")
    parts = ["".join(f"{line}\n" for line in (f"[{section}]", *lines)) for section, lines in sections.items()]
    return f"# Taken over from {existing.files[0]}.\n" + "\n".join(parts) if parts else ""


def _quote(word: str) -> str:
    """Quote a word for gunicorn, which splits as a shell does."""
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def _copy(existing: Existing, line: Line) -> str | None:
    """Return a line for the drop-in: as it is, without words that mean the old units; None if it is not copied."""
    if line.section not in ("Unit", "Service") or not _COPIED.fullmatch(line.key):
        return None
    if line.section == "Service":
        return str(line)
    words = [word for word in line.value.split(" ") if word not in {*existing.sockets, f"{existing.name}.socket"}]
    return f"{line.key}={' '.join(words)}" if words else None


def _left(existing: Existing) -> list[str]:
    """Return a remark for each line that is not taken over, and not done by our units."""
    remarks = []
    for line in existing.lines:
        if line.key in ("RuntimeDirectory", "RuntimeDirectoryMode"):
            remarks.append(f"{line} was not taken over: the socket units make the folders that they need")
        elif not _is_known(line):
            remarks.append(f"[{line.section}] {line} was not taken over: systemctl edit {existing.name} adds it")
    return [printable(remark) for remark in remarks]


def _is_known(line: Line) -> bool:
    if line.section == "Install":
        return line.key == "Also" or (line.key == "WantedBy" and line.value in ("multi-user.target", "default.target"))
    return bool(_COPIED.fullmatch(line.key) or _DONE.fullmatch(line.key))
