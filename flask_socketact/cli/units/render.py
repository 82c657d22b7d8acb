"""Render the units of an application."""

from __future__ import annotations

import os
import shlex
import textwrap
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flask_socketact.cli.lb import state
from flask_socketact.cli.units.application import Application
from flask_socketact.errors import UnitError
from flask_socketact.systemd import unit_names

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
#: Folders that ProtectHome= hides.
_HOMES = ("/home", "/root", "/run/user")


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
    templates.filters["within"] = unit_names.within
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
        texts[unit_names.alongside(wanted.name, suffix)] = templates.get_template(template).render(values)
    return texts


#: Values of the application that templates use as they are.
_PLAIN = (
    *(
        "user",
        "group",
        "directory",
        "socket_group",
        "user_manager",
        "env_files",
        "write",
        "command",
        "folder",
        "systemctl",
    ),
    *("gunicorn", "sockets", "idle_exit", "systemd_version", "overlap", "metrics", "agent", "is_template"),
)


def _values(wanted: Application) -> dict[str, Any]:
    """Return the variables of the templates."""
    drain = _DRAIN if wanted.drain is None else wanted.drain
    config, own_config = _configs(wanted)
    return {name: getattr(wanted, name) for name in _PLAIN} | {
        "name": wanted.own_name,
        "made_as": wanted.name,
        "service": f"{wanted.name}.service",
        "relay_unit": unit_names.alongside(wanted.name, "relay.service"),
        "watchdog_unit": unit_names.alongside(wanted.name, "watchdog.service"),
        "watchdog_path_unit": unit_names.alongside(wanted.name, "watchdog.path"),
        "drain_scope": f"{unit_names.scope_stem(wanted.own_name)}-drain-PID-START.scope",
        # systemd keeps single quotes within double quotes.
        "app": f'"{wanted.app}"' if "'" in wanted.app else wanted.app,
        "config": config,
        "own_config": own_config,
        "state_file": state.path_in_units(wanted.name, user_manager=wanted.user_manager),
        "made_with": _comment(wanted.options),
        "options": _gunicorn_options(wanted),
        "relay": "%h/.local/lib/flask-socketact/relay --user"
        if wanted.user_manager
        else "/usr/local/lib/flask-socketact/relay",
        "protect_home": "read-only" if _needs_home(wanted.directory, wanted.python, *wanted.write) else "yes",
        "drain": drain,
        "notify_reload": _NOTIFY_RELOAD,
        "timeout_stop": 2 * drain + 15,
        "watchdog": max(_WATCHDOG, 2 * drain),
    }


def _gunicorn_options(wanted: Application) -> str:
    numbers = {"workers": wanted.workers, "threads": wanted.threads, "graceful-timeout": wanted.drain}
    return "".join(f"--{option} {number} " for option, number in numbers.items() if number is not None)


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
