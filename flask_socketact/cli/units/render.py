"""Render the units of an application."""

from __future__ import annotations

import os
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flask_socketact.cli import ports
from flask_socketact.cli.lb import state
from flask_socketact.cli.units.values import (
    Listener,
    check_account,
    check_name,
    check_path,
    parse_agent,
    parse_listener,
    plain_app,
)
from flask_socketact.errors import OptionError, UnitError
from flask_socketact.systemd.manager import as_typed

#: Configuration files of gunicorn that are used if they are in the application's folder: ours, which `init` writes, and
#: gunicorn's default.
CONFIG, PLAIN_CONFIG = "flask_socketact.conf", "gunicorn.conf.py"
#: In the comment at the top of a service's unit: how its options begin, and how a second line of them does.
OPTIONS, CONTINUATION = "# Options:", "#    "
#: gunicorn's default graceful_timeout, in seconds.
_DRAIN = 30
#: Least WatchdogSec=, in seconds.
_WATCHDOG = 60
#: The oldest version that this package supports, and the first with Type=notify-reload.
OLDEST_SYSTEMD = 252
_NOTIFY_RELOAD = 253
#: Where units are installed: in the system's manager, and in a user's.
UNIT_FOLDERS = {False: "/etc/systemd/system", True: "~/.config/systemd/user"}
#: Folders that ProtectHome= hides.
_HOMES = ("/home", "/root", "/run/user")


@dataclass(frozen=True)
class SocketUnit:
    """A socket unit. All its addresses share one FileDescriptorName=."""

    unit: str
    fdname: str
    addresses: tuple[str, ...]
    mailbox: str | None  #: only the first socket unit of a service has it

    @property
    def has_paths(self) -> bool:
        return any(address.startswith("/") for address in self.addresses)


@dataclass(frozen=True, kw_only=True)
class Application:
    """Checked values for the units. None omits a line."""

    app: str
    name: str
    user: str
    group: str | None
    directory: str
    python: str
    listeners: tuple[Listener, ...]
    socket_group: str | None
    workers: int | None
    threads: int | None
    drain: int | None
    idle_exit: int | None
    systemd_version: int
    user_manager: bool
    overlap: bool
    metrics: bool
    config: str | None = None  #: within `directory`, or absolute
    env_files: tuple[str, ...] = ()
    write: tuple[str, ...] = ()  #: paths
    agent: str | None = None  #: address of HAProxy's agent-check
    options: tuple[str, ...] = ()  #: the command's, which stand in the unit, so that it can be made again

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.user_manager:
            if self.user in ("root", "0"):
                raise OptionError(f"--user {self.user}: workers must not run as root, choose another user")
            check_account("--user", self.user)
        for option, value in (("--group", self.group), ("--socket-group", self.socket_group)):
            if value is not None:
                check_account(option, value)
        check_path("--directory", self.directory)
        check_path("--python", self.python)
        if self.config is not None:
            check_path("--config", self.config if self.config.startswith("/") else f"/{self.config}")
        for option, paths in (("--env-file", self.env_files), ("--write", self.write)):
            for path in paths:
                check_path(option, path)
        if self.user_manager and self.write:
            raise OptionError("--write has no effect with --user-manager, whose services may write: remove it")
        self._check_addresses()

    def _check_addresses(self) -> None:
        taken = [self.mailbox]
        for listener in self.listeners:
            address = listener.address
            for other in taken:
                what = "the workers' mailbox" if other == self.mailbox else "another --listen"
                # A socket cannot be at the path of a folder.
                if address == other or address.startswith(f"{other}/") or other.startswith(f"{address}/"):
                    raise OptionError(f"--listen {address} collides with {what}, {other}")
                if ports.collide(address, other):
                    raise OptionError(
                        f"--listen {address} collides with {what}, {other}: one of them is on all addresses, "
                        "so remove the other"
                    )
            taken.append(address)
        for listener in self.listeners if self.agent else ():
            if ports.collide(listener.address, self.agent or ""):
                raise OptionError(
                    f"--agent {self.agent} collides with --listen {listener.address}: choose another port"
                )
        if self.agent_socket in [socket.unit for socket in self.sockets]:
            raise OptionError(
                f"--agent needs the unit {self.agent_socket}: choose another name than =agent for --listen"
            )

    @property
    def folder(self) -> str:
        """The folder where the units are installed."""
        return UNIT_FOLDERS[self.user_manager]

    @property
    def systemctl(self) -> str:
        return as_typed(user=self.user_manager)

    @property
    def gunicorn(self) -> str:
        return str(PurePosixPath(self.python).parent / "gunicorn")

    @property
    def command(self) -> str:
        """The command ``flask-socketact`` of the same Python."""
        return str(PurePosixPath(self.python).parent / "flask-socketact")

    @property
    def mailbox(self) -> str:
        return f"{'%t' if self.user_manager else '/run'}/{self.name}/mailbox"

    @property
    def agent_socket(self) -> str | None:
        """The unit of HAProxy's agent-check."""
        return f"{self.name}-agent.socket" if self.agent else None

    @property
    def sockets(self) -> tuple[SocketUnit, ...]:
        """One for each name of a listener, in the order of the options."""
        groups: dict[str, list[str]] = {}
        for listener in self.listeners:
            groups.setdefault(listener.fdname, []).append(listener.address)
        return tuple(
            SocketUnit(
                unit=f"{self.name}-{fdname}.socket" if number else f"{self.name}.socket",
                fdname=fdname,
                addresses=tuple(addresses),
                mailbox=None if number else self.mailbox,
            )
            for number, (fdname, addresses) in enumerate(groups.items())
        )


def application(*, listen: tuple[str, ...], **given: Any) -> Application:
    """Return the application that the command's options describe, with defaults filled in.

    :raises OptionError: a value cannot stand in a unit file, or two options contradict each other.
    """
    listeners = tuple(map(parse_listener, listen))
    given["app"] = plain_app(given["app"])
    given["agent"] = parse_agent(given["agent"]) if given.get("agent") else None
    if given["user_manager"]:
        for option in ("user", "group", "socket_group"):
            if given[option] is not None:
                raise OptionError(
                    f"--{option.replace('_', '-')} has no effect with --user-manager, whose services run as its user: "
                    "remove one of them"
                )
    if given["socket_group"] is None:
        given["socket_group"] = given["group"]
    elif not any(listener.is_path for listener in listeners):
        raise OptionError("--socket-group needs a --listen that is a path: remove it, or add one")
    for option, value in (("user", given["name"]), ("directory", f"/srv/{given['name']}")):
        if given[option] is None:
            given[option] = value
    return Application(listeners=listeners, **given)


def render(wanted: Application) -> dict[str, str]:
    """Return the text of each unit by its file name: first the service, then the sockets.

    :raises UnitError: the application's folder cannot be read.
    """
    templates = Environment(
        loader=PackageLoader("flask_socketact.cli.units"),
        autoescape=False,  # noqa: S701 (no HTML; the values are checked)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    values = _values(wanted)
    texts = {f"{wanted.name}.service": templates.get_template("service.jinja").render(values)}
    for socket in wanted.sockets:
        texts[socket.unit] = templates.get_template("socket.jinja").render(values, socket=socket)
    helpers = {"relay.service": "relay.jinja"} if wanted.overlap else {}
    if wanted.overlap and not wanted.user_manager:  # there the service itself may move workers
        helpers |= {"watchdog.path": "watchdog_path.jinja", "watchdog.service": "watchdog_service.jinja"}
    if wanted.agent:
        helpers |= {"agent.socket": "agent_socket.jinja", "agent@.service": "agent_service.jinja"}
    for suffix, template in helpers.items():
        texts[f"{wanted.name}-{suffix}"] = templates.get_template(template).render(values)
    return texts


def _values(wanted: Application) -> dict[str, Any]:
    """Return the variables of the templates."""
    numbers = {"workers": wanted.workers, "threads": wanted.threads, "graceful-timeout": wanted.drain}
    drain = _DRAIN if wanted.drain is None else wanted.drain
    config, own_config = _configs(wanted)
    names = ("name", "user", "group", "directory", "socket_group", "user_manager", "env_files", "write", "command")
    computed = (
        "folder",
        "systemctl",
        "gunicorn",
        "sockets",
        "idle_exit",
        "systemd_version",
        "overlap",
        "metrics",
        "agent",
    )
    return {name: getattr(wanted, name) for name in (*names, *computed)} | {
        # systemd keeps single quotes within double quotes.
        "app": f'"{wanted.app}"' if "'" in wanted.app else wanted.app,
        "config": config,
        "own_config": own_config,
        "state_file": state.path_in_units(wanted.name, user_manager=wanted.user_manager),
        "made_with": _comment(wanted.options),
        "options": "".join(f"--{option} {number} " for option, number in numbers.items() if number is not None),
        "relay": "%h/.local/lib/flask-socketact/relay --user"
        if wanted.user_manager
        else "/usr/local/lib/flask-socketact/relay",
        "protect_home": "read-only" if _needs_home(wanted.directory, wanted.python, *wanted.write) else "yes",
        "drain": drain,
        "notify_reload": _NOTIFY_RELOAD,
        "timeout_stop": 2 * drain + 15,
        "watchdog": max(_WATCHDOG, 2 * drain),
    }


def _configs(wanted: Application) -> tuple[str, str | None]:
    """Return the value of gunicorn's ``-c``, and the file whose settings come on top of ours, if there is one."""
    ours = "python:flask_socketact.conf"
    if wanted.config is not None:
        return ours, wanted.config
    if _exists(f"{wanted.directory}/{CONFIG}"):
        return CONFIG, None
    return ours, PLAIN_CONFIG if _exists(f"{wanted.directory}/{PLAIN_CONFIG}") else None


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UnitError(f"{path} cannot be read: {error.strerror}") from None
    return True


def _comment(options: tuple[str, ...]) -> str:
    """Return the options as lines of a comment; none of them has a space."""
    wrapper = textwrap.TextWrapper(118, subsequent_indent=CONTINUATION, break_on_hyphens=False, break_long_words=False)
    return wrapper.fill(f"{OPTIONS} {shlex.join(options)}")


def _needs_home(*paths: str) -> bool:
    """Return whether a path is in a home folder, or leads there by symbolic links, as a venv's Python may."""
    homes = {place for home in _HOMES for place in (home, os.path.realpath(home))}
    places = {place for path in paths for place in (path, os.path.realpath(path))}
    return any(place == home or place.startswith(f"{home}/") for place in places for home in homes)
