"""The environment and the command line of a service, composed as systemd does."""

from __future__ import annotations

import os
import re
import shlex
from glob import glob
from typing import TYPE_CHECKING

from flask_socketact import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flask_socketact.cli.doctor.account import Account
    from flask_socketact.systemd.unit import Unit

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Where systemd creates the folders of StateDirectory= and similar settings.
FOLDERS = {"State": "/var/lib", "Cache": "/var/cache", "Logs": "/var/log", "Configuration": "/etc", "Runtime": "/run"}
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_VARIABLE = re.compile(r"\$\$|\$\{(\w+)\}", re.ASCII)


def environment(
    service: Unit, account: Account, variables: Iterable[str], named: Iterable[tuple[str, bool]], *, user_manager: bool
) -> dict[str, str]:
    """Return the environment variables of a service, without those that only a running one has.

    :param variables: the lines of ``Environment=``
    :param named: the paths of ``EnvironmentFile=``, and whether each may be absent
    :raises OSError: a file cannot be read.
    """
    found = {"PATH": PATH, "HOME": account.home, "USER": account.name, "LOGNAME": account.name, "SHELL": account.shell}
    for kind, above in _folders(account, user_manager=user_manager).items():
        names = service[f"{kind}Directory"].split()
        if names:
            found[f"{kind.upper()}_DIRECTORY"] = ":".join(f"{above}/{name}" for name in names)
    for line in variables:
        name, _, value = line.partition("=")
        found[name] = value
    for pattern, optional in named:
        found |= _read_files(pattern, optional=optional)
    return found


def _folders(account: Account, *, user_manager: bool) -> dict[str, str]:
    if not user_manager:
        return FOLDERS
    config = os.environ.get("XDG_CONFIG_HOME", f"{account.home}/.config")
    cache = os.environ.get("XDG_CACHE_HOME", f"{account.home}/.cache")
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{account.uid}")
    return {"State": config, "Cache": cache, "Logs": f"{config}/log", "Configuration": config, "Runtime": runtime}


def _read_files(pattern: str, *, optional: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(glob(pattern)) or ([] if optional else [pattern]):
        found |= parse_environment(files.read(path))
    return found


def parse_environment(text: str) -> dict[str, str]:
    """Parse an ``EnvironmentFile=``."""
    found = {}
    for line in map(str.strip, text.replace("\\\n", "").splitlines()):
        name, equals, value = line.partition("=")
        if equals and _NAME.fullmatch(name.strip()):
            found[name.strip()] = _unquote(value.strip())
    return found


def _unquote(value: str) -> str:
    try:
        return "".join(shlex.split(value)) if value.startswith(("'", '"')) else value
    except ValueError:
        return value


def expand(words: Iterable[str], variables: Mapping[str, str]) -> list[str]:
    """Expand variables in a command line: ``${NAME}`` within a word, ``$NAME`` to separate words."""
    expanded: list[str] = []
    for word in words:
        if re.fullmatch(r"\$\w+", word, re.ASCII):
            expanded += shlex.split(variables.get(word[1:], ""))
        else:
            expanded.append(_VARIABLE.sub(lambda found: variables.get(found[1], "") if found[1] else "$", word))
    return expanded
