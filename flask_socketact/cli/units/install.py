"""Write the units and the relay, and leave the files of others unchanged."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact import files
from flask_socketact.cli.units.application import UNIT_FOLDERS
from flask_socketact.cli.units.render import CONFIG, PLAIN_CONFIG
from flask_socketact.cli.units.values import INSTANCE
from flask_socketact.errors import LeftBrokenError, ManagerError, UnitError
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from flask_socketact.cli.units.application import Application

RELAY = "relay"
#: Drop-in with lines of a unit that was taken over.
TAKEN_OVER = "taken-over.conf"
_RELAY_FOLDERS = {False: "/usr/local/lib/flask-socketact", True: "~/.local/lib/flask-socketact"}

#: Beginning of a line in each unit that this command makes.
_MARK = "# Made by flask-socketact units"

#: Where packages install units: a unit of the same name in our folder would hide theirs.
_PACKAGED = {
    False: ("/usr/local/lib/systemd/system", "/usr/lib/systemd/system"),
    True: ("/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"),
}


def write_out(wanted: Application, texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Write units and relay into a folder, and return their paths."""
    contents = {folder / unit: text for unit, text in texts.items()} | {folder / RELAY: _relay()}
    _refuse_others(wanted, contents)
    for drop_ins in {path.parent for path in contents} - {folder}:
        _make_folder(drop_ins, root_owned=False)
    _write(contents, root_owned=False)
    return list(contents)


@dataclass(frozen=True)
class Installed:
    """The written files."""

    paths: list[Path]
    replaced: list[Path]  #: units that had other content before
    moved: list[Path]  #: files of others that are aside now


def install(wanted: Application, texts: Mapping[str, str], replaces: Sequence[Path] = ()) -> Installed:
    """Write units and relay where systemd reads them, and reload systemd.

    :param texts: by the name of the unit; that of a drop-in begins with the name of its folder
    :param replaces: files of others that are moved aside: each gets the ending ``.old``
    :raises UnitError: nothing was written.
    :raises LeftBrokenError: systemd did not load the units.
    """
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        raise UnitError("--install needs systemd, but there is no systemctl on PATH: use --output")
    if not wanted.user_manager and os.geteuid() != 0:
        raise UnitError(f"--install writes to {wanted.folder} and needs root: use sudo, or --output")
    folder, helpers = unit_folder(user_manager=wanted.user_manager), helper_folder(user_manager=wanted.user_manager)
    contents = {helpers / RELAY: _relay()} | {folder / unit: text for unit, text in texts.items()}
    _refuse_others(wanted, [path for path in contents if path not in replaces])
    _refuse_packaged(wanted, texts)
    for path in replaces:
        if os.path.lexists(old_name(path)):
            raise UnitError(f"{old_name(path)} is there, from an earlier takeover: move it away first")
    replaced = [folder / unit for unit, text in texts.items() if _was_other(folder / unit, text)]
    for each in {path.parent for path in contents} - {helpers}:
        _make_folder(each, root_owned=False)
    _make_folder(helpers, root_owned=not wanted.user_manager)
    _write(contents, root_owned=not wanted.user_manager, aside=replaces)
    manager = (systemctl, *wanted.systemctl.split()[1:])
    _run(*manager, "daemon-reload")
    for name in _names(wanted):
        if subprocess.run([*manager, "is-active", "--quiet", f"{name}.service"], check=False).returncode == 0:  # noqa: S603 (checked)
            _start_helpers(manager, wanted, name, texts)
    return Installed(list(contents), [path for path in replaced if path not in replaces], list(replaces))


def _start_helpers(manager: Sequence[str], wanted: Application, name: str, texts: Mapping[str, str]) -> None:
    """Start what a running service needs for its next restart. With units of an earlier version it has not."""
    for what in ("relay.service", "watchdog.path"):
        if unit_names.alongside(wanted.name, what) in texts:
            _run(*manager, "start", unit_names.alongside(name, what))
    if wanted.agent_socket:  # it may be new, or its address: HAProxy asks again
        _run(*manager, "enable", wanted.agent_socket)
        _run(*manager, "restart", wanted.agent_socket)


def _names(wanted: Application) -> list[str]:
    """Return the names of the services that have the units: one, or the instances that the manager has loaded."""
    try:
        return Manager(user=wanted.user_manager).names(wanted.name)
    except ManagerError as error:
        raise LeftBrokenError(f"the units are written, but {error}") from None


def old_name(path: Path) -> Path:
    """Return the name that a replaced file gets; systemd does not read it."""
    return path.with_name(f"{path.name}.old")


def unit_folder(*, user_manager: bool) -> Path:
    """Return the folder where units are installed."""
    return Path(UNIT_FOLDERS[user_manager]).expanduser()


def helper_folder(*, user_manager: bool) -> Path:
    """Return the folder of the relay."""
    return Path(_RELAY_FOLDERS[user_manager]).expanduser()


def _was_other(path: Path, text: str) -> bool:
    try:
        return files.read(path) != text
    except OSError:
        return False  # it is not there


def missing(wanted: Application) -> Iterator[str]:
    """Yield a warning for each thing that the service needs and this machine lacks."""
    if not wanted.user_manager and not wanted.user.isdigit() and INSTANCE not in wanted.user:
        try:
            pwd.getpwnam(wanted.user)
        except KeyError:
            yield f"there is no user {wanted.user} yet: useradd --system {wanted.user}"
    if not os.path.isdir(wanted.directory) and INSTANCE not in wanted.directory:
        yield f"there is no folder {wanted.directory} yet: put the application there, or choose another --directory"
    yield from _missing_files(wanted)
    for program in (wanted.gunicorn, wanted.command):
        if not os.path.isfile(program):
            yield (
                f"there is no {program} yet: install flask-socketact into that virtual environment, or choose the "
                "Python of another with --python"
            )
            return


def _missing_files(wanted: Application) -> Iterator[str]:
    for file in wanted.env_files:
        if not os.path.exists(file) and INSTANCE not in file:
            yield f"there is no {file} yet: without it the service does not start"
    for path in wanted.write:
        if not os.path.exists(path) and INSTANCE not in path:
            yield f"there is no {path} yet, and without it the service does not start: make it for {wanted.user}"
    folder = Path(wanted.directory)
    if INSTANCE in f"{wanted.directory}{wanted.config}":
        return
    if wanted.config is not None and not (folder / wanted.config).is_file():
        yield f"there is no {folder / wanted.config} yet: without it the service does not start"
    used = {wanted.config} if wanted.config is not None else {CONFIG}
    for name in {CONFIG, PLAIN_CONFIG} - used:
        if (folder / name).is_file() and (wanted.config is not None or (folder / CONFIG).is_file()):
            yield f"{folder / name} is not used: the service reads {folder / used.copy().pop()}"


def _relay() -> str:
    return resources.files("flask_socketact.handover").joinpath(RELAY).read_text()


def _refuse_others(wanted: Application, paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            text = "" if path.is_symlink() else files.read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UnitError(f"{path} cannot be read: {error.strerror}") from None
        if "flask-socketact" not in text if path.name == RELAY else not is_ours(text):
            raise UnitError(
                f"{path} was not made by flask-socketact and was not changed: take the service over with --from, or "
                "move the file away first"
            )
        of, own = made_for(text), f"{wanted.name}.service"
        if path.name == own:
            if any(name.endswith(".service") for name in of):
                raise UnitError(f"{path} belongs to another service: change --name")
        elif path.name != RELAY and own not in of:
            raise UnitError(f"{path} belongs to another service: change --name, or the listener's name")


def is_ours(text: str) -> bool:
    """Return whether this command made a unit."""
    return any(line.startswith(_MARK) for line in text.splitlines())


def made_for(text: str) -> set[str]:
    """Return the service that a unit was made for; an empty set if an administrator removed that comment.

    The name is not enough: the listener "unix" of app has the same socket unit as the application app-unix.
    """
    return {line.rpartition(", beside ")[2].removesuffix(".") for line in text.splitlines() if ".service." in line}


def _refuse_packaged(wanted: Application, units: Mapping[str, str]) -> None:
    for folder in _PACKAGED[wanted.user_manager]:
        for unit in units:
            if os.path.lexists(f"{folder}/{unit}"):
                raise UnitError(f"{folder}/{unit} has the same name, and would be hidden: change --name")


def _make_folder(path: Path, *, root_owned: bool) -> None:
    """Create a folder. Only root may write to one whose files root runs.

    In Debian /usr/local/lib may belong to the group staff, which new folders in it inherit.
    """
    with _unit_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if root_owned:
            os.chown(path, 0, 0)
            path.chmod(0o755)


def _write(contents: Mapping[Path, str], *, root_owned: bool, aside: Sequence[Path] = ()) -> None:
    """Write all files, or none (if the disk is full).

    Each is renamed into place, since systemd or a service may read it at any moment.

    :param aside: files that get another name just before
    """
    with ExitStack() as stack:
        written = {}
        for path, text in contents.items():
            with _unit_errors(path):
                mode = 0o755 if path.name == RELAY else 0o644
                folder = stack.enter_context(files.Folder(path.parent))
                written[path] = folder, stack.enter_context(folder.temporary(path.name, text, mode=mode))
                if root_owned:
                    os.chown(written[path][1], 0, 0, dir_fd=folder.descriptor)
        for path in aside:
            with _unit_errors(path):
                path.rename(old_name(path))
        for path, (folder, whole) in written.items():
            with _unit_errors(path):
                folder.rename(whole, path.name)


@contextmanager
def _unit_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnitError(f"{path} cannot be written: {error.strerror}") from None


def running_systemd(otherwise: int) -> int:
    """Return the version of the installed systemd, or `otherwise` if there is none."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return otherwise
    done = subprocess.run([systemctl, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 (as below)
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found[1]) if found else otherwise


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (checked)
    if done.returncode != 0:
        why = " ".join(done.stderr.split())
        raise LeftBrokenError(f"the units are written, but `{shlex.join(command)}` failed: {why}")
