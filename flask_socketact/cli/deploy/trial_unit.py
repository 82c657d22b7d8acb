"""The units of a trial: those of the service, as systemd has loaded them, for another release and private sockets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from flask_socketact import env, files
from flask_socketact.cli.units.existing import Line, parse
from flask_socketact.errors import UntriedError
from flask_socketact.systemd.unit import Unit

#: Begins the names of the units of trials.
PREFIX = "flask-socketact-trial-"
#: How the names of a trial's units, and the folder of drop-ins, continue.
KINDS = (".service", ".service.d", "-*.socket")
#: Properties of the service that :func:`render` needs.
PROPERTIES = (
    "DropInPaths",
    "DynamicUser",
    "FragmentPath",
    "JoinsNamespaceOf",
    "NeedDaemonReload",
    "ProtectSystem",
    "RuntimeDirectory",
    "Type",
    "User",
)
#: Types of services that stay in the foreground, as gunicorn does.
_TYPES = ("simple", "exec", "notify", "notify-reload")
#: Settings that belong to the service alone: commands that run at its end, names that it owns, and what systemd does
#: when it fails. The old names of settings of [Unit] are allowed in [Service], too.
_NOT_FOR_A_TRIAL = frozenset(
    (
        *("BusName", "FailureAction", "FileDescriptorStoreMax", "PIDFile", "RebootArgument", "RuntimeDirectory"),
        *("ExecReload", "ExecStart", "ExecStartPost", "ExecStop", "ExecStopPost", "Sockets"),
        *("StartLimitAction", "StartLimitBurst", "StartLimitInterval"),
    )
)
#: Paths with other characters would have to be quoted, in each setting in another way.
_SAFE_PATH = re.compile(r"/[A-Za-z0-9/._+,@=~-]*")
#: After all drop-ins, which systemd reads in the order of their names.
_LAST = "~trial.conf"
#: How long the processes of a trial may take to stop. Seconds.
STOP_SECONDS = 5


@dataclass(frozen=True)
class Place:
    """Where a trial puts its files."""

    stem: str  #: name of its units, without their types
    units: Path  #: folder of units that are lost at the next boot
    runtime: Path  #: ``/run``, or the user's

    @property
    def service(self) -> str:
        return f"{self.stem}.service"

    @property
    def sockets(self) -> Path:
        """Folder of the Unix sockets. Only root may enter it."""
        return self.runtime / f"{self.stem}.sockets"


@dataclass(frozen=True)
class Move:
    """A path that is another one in the trial."""

    old: str
    new: str

    def apply(self, text: str) -> str:
        """Return `text` with the new path, wherever it has the old one or a path below it."""
        return re.sub(rf"(?<![\w./]){re.escape(self.old)}(?![\w.@~+-])", lambda _: self.new, text)


@dataclass(frozen=True)
class Listener:
    """A socket unit of the service."""

    name: str  #: ``FileDescriptorName=``
    count: int  #: of its addresses


@dataclass(frozen=True)
class Plan:
    """How a trial differs from the service."""

    place: Place
    listeners: Sequence[Listener]
    moves: Sequence[Move]
    mounts: Sequence[str]  #: lines of ``[Service]``
    seconds: float  #: how long it may run, if nothing stops it


def check(unit: Unit) -> None:
    """Check that a second instance of a service can run next to it.

    :raises UntriedError: it cannot.
    """
    if not unit.overlaps:
        raise UntriedError("old and new workers must not run at the same time (SOCKETACT_OVERLAP=no)")
    if unit["Type"] not in _TYPES:
        raise UntriedError(f"{unit.name} has Type={unit['Type']}")
    if unit["NeedDaemonReload"] == "yes":
        raise UntriedError(
            f"the files of {unit.name} are newer than what systemd has loaded: run systemctl daemon-reload"
        )
    if "\\" in unit.name:
        raise UntriedError(f"the name {unit.name} has a backslash")


def render(unit: Unit, plan: Plan) -> dict[str, str]:
    """Return the files of a trial by their names below :attr:`Place.units`.

    Each drop-in of the service becomes one of the same name. So their order is kept, and a drop-in for all services
    (``service.d``) does not apply twice: systemd.unit(5).

    :raises UntriedError: the service cannot be copied.
    """
    place, runtime = plan.place, _runtime_folders(unit, plan.place)
    moves, specifiers = (*plan.moves, *runtime), _specifiers(unit.name, place)
    texts, commands = {}, []
    for path, name in _sources(unit, place):
        lines = [line for line in _read(path) if line.section == "Service"]
        commands += [line.value for line in lines if line.key == "ExecStart"]
        kept = [_moved(str(line), specifiers, moves) for line in lines if _is_kept(line)]
        texts[name] = "\n".join((title(unit.name), "[Service]", *kept, ""))
    folders = [Path(move.new).name for move in runtime] or [place.stem]
    sockets = {f"{place.stem}-{number}.socket": each for number, each in enumerate(plan.listeners)}
    command = _moved(_command(unit, commands), specifiers, moves)
    own = [
        f"ExecStart={command}{_options(command, place.runtime / folders[0])}",
        f"RuntimeDirectory={' '.join(folders)}",
        f"RuntimeMaxSec={plan.seconds:.0f}",
        # The master extends TimeoutStartSec= while it loads.
        f"Environment={env.LOAD_TIMEOUT}={plan.seconds:.0f}",
        f"TimeoutStartSec={plan.seconds:.0f}",
        f"Sockets={' '.join(sockets)}",
        *plan.mounts,
    ]
    texts[f"{place.service}.d/{_LAST}"] = "\n".join((*_last(unit, place), *own, ""))
    paths = iter(addresses(place, plan.listeners))
    return texts | {name: _socket(unit, place, each, paths) for name, each in sockets.items()}


def title(service: str) -> str:
    """Return the first line of the files of a service's trial."""
    return f"# Trial of a release of {service}, made by flask-socketact deploy. It is removed when the trial ends."


def addresses(place: Place, listeners: Sequence[Listener]) -> list[str]:
    """Return the addresses of a trial, in the order of the service's."""
    return [
        str(place.sockets / f"{number}-{index}") for number, each in enumerate(listeners) for index in range(each.count)
    ]


def is_safe(path: str) -> bool:
    """Return whether a path can be written into a unit as it is."""
    return _SAFE_PATH.fullmatch(path) is not None


def _sources(unit: Unit, place: Place) -> list[tuple[str, str]]:
    """Return the files of a service, each with the name of the trial's."""
    if not unit["FragmentPath"]:
        raise UntriedError(f"{unit.name} has no file")
    drop_ins = [(path, f"{place.service}.d/{Path(path).name}") for path in unit["DropInPaths"].split()]
    return [(unit["FragmentPath"], place.service), *drop_ins]


def _read(path: str) -> list[Line]:
    try:
        return parse(files.read(path))
    except OSError as error:
        raise UntriedError(f"{path} cannot be read: {error.strerror}") from None


def _is_kept(line: Line) -> bool:
    ours = line.key == "ExecStartPre" and "/flask-socketact/relay " in line.value
    return line.key not in _NOT_FOR_A_TRIAL and not ours


def _command(unit: Unit, values: Sequence[str]) -> str:
    """Return ``ExecStart=``. An empty value removes those before it."""
    commands: list[str] = []
    for value in values:
        commands = [*commands, value] if value else []
    if len(commands) != 1:
        raise UntriedError(f"{unit.name} has {len(commands)} lines ExecStart=")
    return commands[0]


def _options(command: str, folder: Path) -> str:
    """Return options for a command that starts gunicorn itself; a script would not pass them on.

    :param folder: for a PID file, as a second master must not find that of the service
    """
    program = Path(command.split(maxsplit=1)[0].lstrip("-@:+!")).name
    is_gunicorn = program.startswith("gunicorn") or (program.startswith("python") and " -m gunicorn" in command)
    return f" --workers=1 --pid={folder}/trial.pid" if is_gunicorn else ""


def _runtime_folders(unit: Unit, place: Place) -> list[Move]:
    """Return the folders of ``RuntimeDirectory=`` and the trial's: systemd removes a service's when it stops."""
    names = unit["RuntimeDirectory"].split()
    moves = [
        Move(str(place.runtime / name.partition(":")[0]), str(place.runtime / f"{place.stem}{number or ''}"))
        for number, name in enumerate(names)
    ]
    if unsafe := [move.old for move in moves if not is_safe(move.old)]:
        raise UntriedError(f"{unsafe[0]} has characters with a meaning in units")
    return moves


def _specifiers(name: str, place: Place) -> Mapping[str, str]:
    """Return the specifiers that depend on the unit's name, which is another one in the trial: systemd.unit(5)."""
    stem = name.removesuffix(".service")
    prefix, _, instance = stem.partition("@")
    last = prefix.rpartition("-")[2]
    return {
        "n": name,
        "N": stem,
        "p": prefix,
        "i": instance,
        "j": last,
        "t": str(place.runtime),
        "P": _unescape(prefix),
        "I": _unescape(instance),
        "J": _unescape(last),
        "f": f"/{_unescape(instance or prefix)}",
    }


def _unescape(name: str) -> str:
    return name.replace("-", "/")


def _moved(text: str, specifiers: Mapping[str, str], moves: Sequence[Move]) -> str:
    text = re.sub("%(.)", lambda found: specifiers.get(found[1], found[0]), text)
    for move in moves:
        text = move.apply(text)
    return text


def _last(unit: Unit, place: Place) -> list[str]:
    """Return the beginning of the last drop-in."""
    leftovers = " ".join(map(str, (place.sockets, *(place.units / f"{place.stem}{kind}" for kind in KINDS))))
    return [
        title(unit.name),
        "[Unit]",
        f"Description=Trial of a release of {unit.name}",
        "CollectMode=inactive-or-failed",
        *(f"JoinsNamespaceOf={other}" for other in unit["JoinsNamespaceOf"].split()),
        "[Service]",
        # If deploy is killed, nothing else removes them.
        f"ExecStopPost=-+/bin/sh -c 'rm -rf -- {leftovers}'",
        f"Environment=WEB_CONCURRENCY=1 {env.TRIAL}=yes",
        # systemd derives a dynamic user from the unit's name; another one would take the service's folders over.
        *([f"User={unit['User']}"] if unit["DynamicUser"] == "yes" else []),
        *("RuntimeDirectoryPreserve=no", "RemainAfterExit=no", "Restart=no", "WatchdogSec=0"),
        f"TimeoutStopSec={STOP_SECONDS}",
        *("KillMode=mixed", "KillSignal=SIGTERM", "SendSIGKILL=yes"),
    ]


def _socket(unit: Unit, place: Place, listener: Listener, paths: Iterator[str]) -> str:
    lines = [
        title(unit.name),
        "[Unit]",
        f"Description=Listener of a trial of {unit.name}",
        *("CollectMode=inactive-or-failed", "StopWhenUnneeded=yes"),
        "[Socket]",
        *(f"ListenStream={path}" for path in islice(paths, listener.count)),
        f"FileDescriptorName={listener.name.replace('%', '%%')}",
        f"Service={place.service}",
        *("SocketMode=0600", "DirectoryMode=0700", "RemoveOnStop=yes", "TriggerLimitIntervalSec=0"),
    ]
    return "\n".join((*lines, ""))


def new_stem() -> str:
    """Return a name for the units of a trial: a new one, or systemd might still know an old one."""
    return f"{PREFIX}{os.urandom(4).hex()}"
