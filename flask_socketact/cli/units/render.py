"""The units of an application: which there are, and their text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flask_socketact.cli import ports
from flask_socketact.cli.units.values import Listener, check_account, check_name, check_path, parse_listener, plain_app
from flask_socketact.errors import OptionError, UnitError
from flask_socketact.systemd.manager import as_typed

CONFIG = "flask_socketact.conf"
#: gunicorn's graceful_timeout, where nothing else is said.
_DRAIN = 30
_WATCHDOG = 60
#: The oldest version that everything works with; and the first that has Type=notify-reload.
OLDEST_SYSTEMD = 252
_NOTIFY_RELOAD = 253
#: What ProtectHome= hides.
_HOMES = ("/home", "/root", "/run/user")


@dataclass(frozen=True)
class SocketUnit:
    """A socket unit: all its addresses have the same FileDescriptorName=."""

    unit: str
    fdname: str
    addresses: tuple[str, ...]
    #: Of one socket unit of a service.
    mailbox: str | None

    @property
    def has_paths(self) -> bool:
        return any(address.startswith("/") for address in self.addresses)


@dataclass(frozen=True, kw_only=True)
class Application:
    """What the units are made for, checked; None where a line is left out."""

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

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.user_manager:
            if self.user in ("root", "0"):
                raise OptionError(f"--user {self.user}: the workers must not be root, so give them a user of their own")
            check_account("--user", self.user)
        for option, value in (("--group", self.group), ("--socket-group", self.socket_group)):
            if value is not None:
                check_account(option, value)
        check_path("--directory", self.directory)
        check_path("--python", self.python)
        self._check_addresses()

    def _check_addresses(self) -> None:
        taken = [self.mailbox]
        for listener in self.listeners:
            address = listener.address
            for other in taken:
                what = "the workers' mailbox" if other == self.mailbox else "another --listen"
                # Where a socket is there cannot be a folder.
                if address == other or address.startswith(f"{other}/") or other.startswith(f"{address}/"):
                    raise OptionError(f"--listen {address} is at the same place as {what}, {other}")
                if ports.collide(address, other):
                    raise OptionError(
                        f"--listen {address} is at the same place as {what}, {other}: one of them is on all addresses, "
                        "so leave out the other"
                    )
            taken.append(address)

    @property
    def folder(self) -> str:
        """Where the units are installed."""
        return "~/.config/systemd/user" if self.user_manager else "/etc/systemd/system"

    @property
    def systemctl(self) -> str:
        return as_typed(user=self.user_manager)

    @property
    def gunicorn(self) -> str:
        return str(PurePosixPath(self.python).parent / "gunicorn")

    @property
    def mailbox(self) -> str:
        return f"{'%t' if self.user_manager else '/run'}/{self.name}/mailbox"

    @property
    def sockets(self) -> tuple[SocketUnit, ...]:
        """One for each name, in the order in which the names have come."""
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
    """Make an application of the options of the command: fill in what follows from others, and check all of it.

    :raises OptionError: a value cannot stand in a unit file, or two contradict.
    """
    listeners = tuple(map(parse_listener, listen))
    given["app"] = plain_app(given["app"])
    if given["user_manager"]:
        for option in ("user", "group", "socket_group"):
            if given[option] is not None:
                raise OptionError(
                    f"--{option.replace('_', '-')} has no effect in a user manager, whose services are its user's: "
                    "leave out one of them"
                )
    if given["socket_group"] is None:
        given["socket_group"] = given["group"]
    elif not any(listener.is_path for listener in listeners):
        raise OptionError("--socket-group is for Unix sockets, and no --listen is a path: leave it out, or add one")
    for option, value in (("user", given["name"]), ("directory", f"/srv/{given['name']}")):
        if given[option] is None:
            given[option] = value
    if given["python"] is None:
        given["python"] = f"{given['directory']}/venv/bin/python3"
    return Application(listeners=listeners, **given)


def render(wanted: Application) -> dict[str, str]:
    """Return the text of each unit by its file name; the service is the first, and then the sockets.

    :raises UnitError: the application's folder cannot be looked at.
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
    if wanted.overlap and not wanted.user_manager:  # where one need not be root to move workers
        helpers |= {"watchdog.path": "watchdog_path.jinja", "watchdog.service": "watchdog_service.jinja"}
    for suffix, template in helpers.items():
        texts[f"{wanted.name}-{suffix}"] = templates.get_template(template).render(values)
    return texts


def _values(wanted: Application) -> dict[str, Any]:
    """Return what the templates call by name."""
    options = {"workers": wanted.workers, "threads": wanted.threads, "graceful-timeout": wanted.drain}
    drain = _DRAIN if wanted.drain is None else wanted.drain
    names = ("name", "user", "group", "directory", "socket_group", "user_manager")
    computed = ("folder", "systemctl", "gunicorn", "sockets", "idle_exit", "systemd_version", "overlap", "metrics")
    return {name: getattr(wanted, name) for name in (*names, *computed)} | {
        # Between double quotes systemd takes single ones as they are.
        "app": f'"{wanted.app}"' if "'" in wanted.app else wanted.app,
        "config": _config(wanted.directory),
        "options": "".join(f"--{option} {number} " for option, number in options.items() if number is not None),
        "relay": "%h/.local/lib/flask-socketact/relay --user"
        if wanted.user_manager
        else "/usr/local/lib/flask-socketact/relay",
        "protect_home": "read-only" if _needs_home(wanted.directory, wanted.python) else "yes",
        "drain": drain,
        "notify_reload": _NOTIFY_RELOAD,
        "timeout_stop": 2 * drain + 15,
        "watchdog": max(_WATCHDOG, 2 * drain),
    }


def _config(directory: str) -> str:
    """Return what gunicorn's ``-c`` gets: the application's own settings where there are some."""
    try:
        os.stat(f"{directory}/{CONFIG}")
    except (FileNotFoundError, NotADirectoryError):
        return "python:flask_socketact.conf"
    except OSError as error:
        raise UnitError(f"{directory}/{CONFIG} cannot be looked for: {error.strerror}") from None
    return CONFIG


def _needs_home(*paths: str) -> bool:
    """Whether a path is in a home, or leads there by symbolic links, as a virtual environment's Python may."""
    homes = {place for home in _HOMES for place in (home, os.path.realpath(home))}
    places = {place for path in paths for place in (path, os.path.realpath(path))}
    return any(place == home or place.startswith(f"{home}/") for place in places for home in homes)
