"""Take over a service with units that were written by hand: the same application, settings and rights, with our units.

What our options can say becomes options. The other lines of the old unit, where they mean the same in ours, go into a
drop-in. What is left is told, with the reason.
"""

from __future__ import annotations

import grp
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask_socketact import files
from flask_socketact.cli.units import old_sockets, writable
from flask_socketact.cli.units import served as command_lines
from flask_socketact.cli.units.application import Application
from flask_socketact.cli.units.existing import Existing, Line
from flask_socketact.cli.units.existing import account as account_of
from flask_socketact.cli.units.install import TAKEN_OVER, is_ours, unit_folder
from flask_socketact.cli.units.served import Served
from flask_socketact.errors import OptionError, UnitError
from flask_socketact.systemd import unit_names
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
    "|SystemCall.*|OOMPolicy|ReadWriteDirectories|RuntimeDirectory"
)
#: Groups of proxies.
_PROXIES = ("www-data", "nginx", "http", "haproxy")


@dataclass(frozen=True)
class Takeover:
    """A service that is taken over."""

    existing: Existing
    options: dict[str, Any]  #: values of our options, by the names of the command's parameters
    others: str  #: text of the drop-in with the other lines; empty if there are none
    remarks: tuple[str, ...]  #: what is not as before, or should be looked at

    def drop_ins(self, wanted: Application) -> dict[str, str]:
        """Return the drop-ins by their names, as far as there are lines for them."""
        kept, _ = self._runtime_folders(wanted)
        section = "" if "[Service]" in self.others else "\n[Service]\n" if self.others else "[Service]\n"
        service = self.others + (f"{section}RuntimeDirectory={' '.join(kept)}\n" if kept else "")
        texts = {"service": service, "socket": old_sockets.drop_in(self.existing)}
        return {f"{wanted.name}.{kind}.d/{TAKEN_OVER}": text for kind, text in texts.items() if text}

    def notes(self, wanted: Application) -> Iterator[str]:
        """Yield what is not as before, or should be looked at."""
        yield from self.remarks
        _, refused = self._runtime_folders(wanted)
        for folder in refused:
            yield (
                f"RuntimeDirectory={folder} was not taken over: root opens sockets in /run/{folder}, which the "
                f"service's user must not own. If the application writes there, let it write to /run/{folder}/data, "
                f"with RuntimeDirectory={folder}/data (systemctl edit {wanted.name})"
            )

    def _runtime_folders(self, wanted: Application) -> tuple[list[str], list[str]]:
        """Return the folders of ``RuntimeDirectory=`` that the service can have, and those with sockets of root."""
        lines = [line.value for line in self.existing.lines if line.key == "RuntimeDirectory"]
        folders = [_expand(self.existing, name) for value in lines for name in value.split()]
        sockets = [wanted.mailbox, *(listener.address for listener in wanted.listeners)]
        above = {name: f"{'%t' if wanted.user_manager else '/run'}/{name}/" for name in dict.fromkeys(folders)}
        refused = [name for name, path in above.items() if any(socket.startswith(path) for socket in sockets)]
        return [name for name in above if name not in refused], refused

    def can_run_next_to(self, wanted: Application) -> bool:
        """Whether the old service and ours have different names and addresses."""
        taken = {listener.address for listener in wanted.listeners} & set(self.options.get("listen", ()))
        return wanted.name != self.existing.name and not taken

    def replaces(self, wanted: Application) -> list[Path]:
        """Return the files whose place our units take."""
        if wanted.name != self.existing.name:
            return []
        folder = unit_folder(user_manager=wanted.user_manager)
        own = [folder / f"{wanted.name}.service", *(folder / name for name in self.existing.sockets)]
        drop_ins = folder / f"{wanted.name}.service.d"  # and not those that other services have, too
        own += [path for path in self.existing.files if path.parent == drop_ins]
        own += [path for path in self.existing.socket_drop_ins if path.parent.parent == folder]
        return [path for path in own if path.is_file()]

    def check(self, values: dict[str, Any], typed: set[str]) -> None:
        """Check that what the old units do not say was typed.

        :param typed: names of the options that were
        :raises OptionError: it was not.
        """
        name = f"{self.existing.name}.service"
        if not values["user_manager"] and (values["user"] or "root") in ("root", "0"):
            why = "has no user of its own (DynamicUser=)" if self.existing.is_dynamic else "runs as root"
            raise OptionError(f"{name} {why}: add --user, with a user that does not own the code")
        if "app" not in {*self.options, *typed}:
            raise OptionError(f"ExecStart= of {name} does not name the application: add --app")
        if "listen" not in {*self.options, *typed}:
            raise OptionError(
                f"the configuration file of {name} computes its bind: add --listen, such as 127.0.0.1:8000"
            )


def plan(existing: Existing, *, is_app_known: bool) -> Takeover:
    """Return how a service is taken over.

    :param is_app_known: a command that is not gunicorn's does not matter
    :raises UnitError: the service is ours, or its command is not gunicorn's.
    """
    if is_ours(files.read(existing.files[0])):
        raise UnitError(f"{existing.files[0]} was made by flask-socketact: use --again {existing.name}")
    try:
        served = command_lines.read(existing.command, existing.environment, existing.directory)
    except UnitError:
        if not is_app_known:
            raise
        served = Served(
            remarks=[f"ExecStart={existing.command[0]} was not read: check --listen, --workers and --python"]
        )
    remarks = [*served.remarks]
    directory = served.directory or existing.directory
    user = None if existing.is_dynamic else _user(existing, served)
    listen = _listeners(existing, served)
    socket_group = _socket_group(existing, served, listen)
    remarks += old_sockets.remarks(existing, socket_group)
    if socket_group is not None and not existing.sockets:
        remarks.append(f"the socket was open to all users, and now is to the group {socket_group}: --socket-group")
    options = {
        "name": existing.name,
        "app": served.app,
        "user": user,
        "group": None if existing.is_dynamic else existing.group or served.group or None,
        "directory": directory or None,
        "python": served.python,
        "config": served.config,
        "listen": listen,
        "socket_group": socket_group,
        "workers": served.workers,
        "threads": served.threads,
        "drain": served.drain,
        "env_files": tuple(file for each in existing.env_files if os.path.exists(file := each.removeprefix("-"))),
        "write": tuple(writable.find(existing, served, user, directory, remarks)),
    }
    taken = {key: value for key, value in options.items() if value not in (None, ())}
    told = dict.fromkeys((*remarks, *_left(existing)))
    return Takeover(existing, taken, _drop_in(existing, served), tuple(told))


def _user(existing: Existing, served: Served) -> str | None:
    """Return the user of the unit; or, if that is root, the one that the command changes to."""
    return (served.user if existing.user in ("", "root", "0") else None) or existing.user or None


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


def _socket_group(existing: Existing, served: Served, listen: tuple[str, ...]) -> str | None:
    """Return the group that may connect to a path: as before; or that of a proxy on this machine, if all users could.

    Ours is open to a group: the mailbox is in the same unit.
    """
    if not any(address.startswith("/") for address in listen):
        return None
    gunicorns = not existing.sockets and served.umask is not None and not served.umask & stat.S_IWOTH
    if not gunicorns and not old_sockets.is_open(existing):
        return old_sockets.group(existing)
    for name in _PROXIES:
        with suppress(KeyError):
            return grp.getgrnam(name).gr_name
    return old_sockets.group(existing)


def _drop_in(existing: Existing, served: Served) -> str:
    """Return the drop-in with the lines that no option has."""
    sections: dict[str, list[str]] = {"Unit": [], "Service": []}
    for line in existing.lines:
        if (text := _copy(existing, line)) is not None:
            lines = sections[line.section]
            if not line.value:  # it resets those before; in a drop-in, it would reset ours
                lines[:] = [other for other in lines if not other.startswith(f"{line.key}=")]
            else:
                lines.append(text)
    sections["Service"] += _added(existing, served)
    parts = ["".join(f"{line}\n" for line in (f"[{section}]", *lines)) for section, lines in sections.items() if lines]
    return f"# Taken over from {existing.files[0]}.\n" + "\n".join(parts) if parts else ""


def _added(existing: Existing, served: Served) -> Iterator[str]:
    """Yield lines that keep what the old unit had by default, and what its command said."""
    keys = {line.key for line in existing.lines}
    if "UMask" not in keys:
        yield "UMask=0022"
    for variable in served.variables:
        yield _environment(existing, variable)
    if served.others:
        words = " ".join(_quote(word) for word in served.others)
        yield _environment(existing, f"GUNICORN_CMD_ARGS={words}")
    for file in existing.env_files:
        if not os.path.exists(file.removeprefix("-")):
            yield f"EnvironmentFile={file}"
    with suppress(OSError, KeyError):
        state = os.stat(f"/var/lib/{existing.name}")
        if "StateDirectory" not in keys:  # that of our unit would change the mode and owner of what is there
            is_own = state.st_uid == account_of(existing.user).pw_uid
            yield f"StateDirectoryMode={stat.S_IMODE(state.st_mode):04o}" if is_own else "StateDirectory="


def _environment(existing: Existing, variable: str) -> str:
    text = variable.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if unit_names.is_template(existing.name):
        text = text.replace("%%i", "%i")
    return f'Environment="{text}"'


def _quote(word: str) -> str:
    """Quote a word for gunicorn, which splits as a shell does."""
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def _copy(existing: Existing, line: Line) -> str | None:
    """Return a line for the drop-in: as it is, without words that mean the old units; None if it is not copied."""
    if line.section not in ("Unit", "Service") or not _COPIED.fullmatch(line.key):
        return None
    if line.section == "Service":
        return f"{line.key}={_expand(existing, line.value)}"
    words = [word for word in line.value.split(" ") if word not in {*existing.sockets, f"{existing.name}.socket"}]
    return f"{line.key}={' '.join(words)}" if words else None


def _expand(existing: Existing, value: str) -> str:
    """Replace the instance of a template, which our units do not have."""
    instance = existing.name.partition("@")[2]
    return re.sub("%[iI]", instance, value) if instance else value


def _left(existing: Existing) -> list[str]:
    """Return a remark for each line that is not taken over, and not done by our units."""
    remarks = []
    for line in existing.lines:
        if line.key.startswith("Exec") and line.value.startswith("+") and _COPIED.fullmatch(line.key):
            remarks.append(f"{line} runs as root, in the environment of the service: doctor shows an error for it")
        elif not _is_known(line):
            remarks.append(f"[{line.section}] {line} was not taken over: systemctl edit {existing.name} adds it")
    return [printable(remark) for remark in remarks]


def _is_known(line: Line) -> bool:
    if line.section == "Install":
        return line.key == "Also" or (line.key == "WantedBy" and line.value in ("multi-user.target", "default.target"))
    return bool(_COPIED.fullmatch(line.key) or _DONE.fullmatch(line.key))
