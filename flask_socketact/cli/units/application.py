"""The application that the options of ``flask-socketact units`` describe, with checked values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from flask_socketact.cli import ports
from flask_socketact.cli.units.values import (
    INSTANCE,
    Listener,
    check_account,
    check_name,
    check_path,
    parse_agent,
    parse_listener,
    plain_app,
    refuse_instances,
    sample,
)
from flask_socketact.errors import OptionError
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import as_typed

#: Where units are installed: in the system's manager, and in a user's.
UNIT_FOLDERS = {False: "/etc/systemd/system", True: "~/.config/systemd/user"}


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
            check_account("--user", sample(self.user))
        for option, value in (("--group", self.group), ("--socket-group", self.socket_group)):
            if value is not None:
                check_account(option, sample(value))
        check_path("--directory", sample(self.directory))
        check_path("--python", self.python)
        if self.config is not None:
            config = sample(self.config)
            check_path("--config", config if config.startswith("/") else f"/{config}")
        for option, paths in (("--env-file", self.env_files), ("--write", self.write)):
            for path in paths:
                check_path(option, sample(path))
        if self.user_manager and self.write:
            raise OptionError("--write has no effect with --user-manager, whose services may write: remove it")
        self._check_addresses()
        if self.agent is not None:
            self._check_agent(self.agent)

    def _check_agent(self, address: str) -> None:
        if self.is_template:
            raise OptionError(f"--agent is one address, but {self.name} has several instances: remove one of them")
        for listener in self.listeners:
            if ports.collide(listener.address, address):
                raise OptionError(f"--agent {address} collides with --listen {listener.address}: choose another port")
        if self.agent_socket in [socket.unit for socket in self.sockets]:
            raise OptionError(
                f"--agent needs the unit {self.agent_socket}: choose another name than =agent for --listen"
            )

    def _check_addresses(self) -> None:
        taken = [sample(self.mailbox)]
        for listener in self.listeners:
            address = sample(listener.address)
            if self.is_template and address == listener.address:
                raise OptionError(
                    f"--listen {address} would be the same for all instances of {self.name}: write {INSTANCE}, which "
                    "stands for the instance, as in 127.0.0.1:80%i or /run/app/%i.sock"
                )
            for other in taken:
                what = "the workers' mailbox" if other == taken[0] else "another --listen"
                # A socket cannot be at the path of a folder.
                if address == other or address.startswith(f"{other}/") or other.startswith(f"{address}/"):
                    raise OptionError(f"--listen {address} collides with {what}, {other}")
                if ports.collide(address, other):
                    raise OptionError(
                        f"--listen {address} collides with {what}, {other}: one of them is on all addresses, "
                        "so remove the other"
                    )
            taken.append(address)

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
    def is_template(self) -> bool:
        return unit_names.is_template(self.name)

    @property
    def own_name(self) -> str:
        """The name as the units have it: of a template, each instance has its own."""
        return f"{self.name}{INSTANCE}" if self.is_template else self.name

    @property
    def mailbox(self) -> str:
        return f"{'%t' if self.user_manager else '/run'}/{self.own_name}/mailbox"

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
                unit=unit_names.alongside(self.name, f"{fdname}.socket") if number else f"{self.name}.socket",
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
    stem = given["name"].removesuffix("@")
    if not unit_names.is_template(given["name"]):
        refuse_instances(given | {"listen": listen})
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
    for option, value in (("user", stem), ("directory", f"/srv/{stem}")):
        if given[option] is None:
            given[option] = value
    return Application(listeners=listeners, **given)
