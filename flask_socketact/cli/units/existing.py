"""A service with units that were written by hand, as systemd has loaded it."""

from __future__ import annotations

import pwd
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flask_socketact import files
from flask_socketact.errors import UnitError
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import Manager

#: The name of an instance of which a template is read; nothing else has it.
_INSTANCE = "flasksocketactinstance"
_PROPERTIES = ("FragmentPath", "DropInPaths", "User", "Group", "WorkingDirectory", "DynamicUser", "TriggeredBy")


@dataclass(frozen=True)
class Line:
    """An assignment in a unit file."""

    section: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


@dataclass(frozen=True, kw_only=True)
class Existing:
    """What a service's own units say."""

    name: str  #: without ``.service``
    files: tuple[Path, ...]  #: the unit's file and its drop-ins
    lines: tuple[Line, ...]  #: of all of them, in their order
    user: str
    group: str
    directory: str
    is_dynamic: bool  #: it has no user of its own
    command: tuple[str, ...]  #: of ``ExecStart=``: the program, and its arguments
    environment: dict[str, str]
    env_files: tuple[str, ...]
    write: tuple[str, ...]  #: ``ReadWritePaths=``
    sockets: dict[str, tuple[str, ...]]  #: addresses of the socket units that start it, by the unit's name
    socket_lines: dict[str, tuple[Line, ...]] = field(default_factory=dict)  #: of their files, by the same name
    socket_drop_ins: tuple[Path, ...] = ()


def read(name: str, manager: Manager) -> Existing:
    """Read a service, or a template, in which ``%i`` stands for the instance.

    :raises UnitError: it starts no program.
    :raises ManagerError: there is no such service, or the manager does not answer.
    """
    if not unit_names.is_template(name):
        return _read(name, manager)
    of_instance = _read(f"{name}{_INSTANCE}", manager)
    raw = tuple(_lines(f"{name}{_INSTANCE}.socket", manager)) if _has_socket(name, manager) else ()
    addresses = tuple(line.value for line in raw if line.key == "ListenStream")
    sockets = {f"{name}.socket": addresses} if addresses else {}
    texts = {each.name: _as_template(getattr(of_instance, each.name)) for each in fields(Existing)}
    return Existing(**texts | {"name": name, "sockets": sockets, "socket_lines": dict.fromkeys(sockets, raw)})


def _has_socket(template: str, manager: Manager) -> bool:
    """Return whether there is a socket unit; with this name for an instance, its addresses may be wrong."""
    return manager.show(f"{template}{_INSTANCE}.socket", "LoadState")["LoadState"] != "not-found"


def _as_template(value: Any) -> Any:
    """Return a value of the instance that was read, as it is in the template."""
    if isinstance(value, str):
        return value.replace(_INSTANCE, "%i")
    if isinstance(value, dict):
        return {_as_template(key): _as_template(each) for key, each in value.items()}
    return tuple(map(_as_template, value)) if isinstance(value, tuple) else value


def _read(name: str, manager: Manager) -> Existing:
    service = f"{name}.service"
    unit = manager.find(service, *_PROPERTIES)
    if unit["LoadState"] != "loaded":
        raise UnitError(f"{service} is not loaded, but {unit['LoadState']}: there is nothing to take over")
    properties = ("ExecStart", "Environment", "EnvironmentFiles", "ReadWritePaths")
    commands, variables, env_files, write = manager.get(service, *properties)
    if not commands:
        raise UnitError(f"{service} has no ExecStart=: there is nothing to take over")
    path, arguments, *_ = commands[-1]
    names = [word for word in unit.names("TriggeredBy") if word.endswith(".socket")]
    sockets = {socket: manager.show(socket, "Listen", "DropInPaths") for socket in names}
    return Existing(
        name=name,
        files=tuple(map(Path, [unit["FragmentPath"], *unit["DropInPaths"].split()])),
        lines=tuple(_lines(service, manager)),
        user=unit["User"],
        group=unit["Group"],
        directory=_home(unit["User"]) if unit.directory in ("", "~") else unit.directory,
        is_dynamic=unit["DynamicUser"] == "yes",
        command=(path, *arguments[1:]),
        environment=_environment(variables, env_files),
        env_files=tuple(f"{'-' if may_be_missing else ''}{file}" for file, may_be_missing in env_files),
        write=tuple(write),
        sockets={name: tuple(socket.listens("Stream")) for name, socket in sockets.items()},
        socket_lines={name: tuple(_lines(name, manager)) for name in sockets},
        socket_drop_ins=tuple(Path(path) for socket in sockets.values() for path in socket["DropInPaths"].split()),
    )


def _lines(unit: str, manager: Manager) -> list[Line]:
    return parse(manager.run("systemctl", manager.option, "cat", "--", unit))


def account(user: str) -> pwd.struct_passwd:
    """Return a user of ``User=``, which may be a number.

    :raises KeyError: there is no such user.
    """
    return pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user or "root")


def _home(user: str) -> str:
    try:
        return account(user).pw_dir
    except KeyError:
        return ""


def _environment(lines: list[str], env_files: list[list[object]]) -> dict[str, str]:
    """Return the variables of ``Environment=``, and of ``EnvironmentFile=``, as far as they are plain."""
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    for file, _ in env_files:
        with suppress(OSError):
            pairs = (line.strip().split("=", 1) for line in files.read(str(file)).splitlines())
            found |= {pair[0]: pair[1].strip("'\"") for pair in pairs if len(pair) > 1 and not pair[0].startswith("#")}
    return found


def parse(text: str) -> list[Line]:
    """Read unit files, as ``systemctl cat`` prints them: systemd.syntax(7)."""
    lines, section, begun = [], "", ""
    for raw in text.splitlines():
        if raw.lstrip().startswith(("#", ";")):
            continue
        line = begun + raw.strip()
        if line.endswith("\\"):
            begun = f"{line[:-1]} "
            continue
        begun = ""
        key, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif equals:
            lines.append(Line(section, key.strip(), value.strip()))
    return lines
