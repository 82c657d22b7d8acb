"""The configuration of the extension: each key, its default, and which values it accepts."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from flask_socketact import env
from flask_socketact.addresses import unmapped_network
from flask_socketact.bridge import keys

PREFIX = "SOCKETACT_"
#: Settings of the server, which reads them from the environment, before it loads the application.
_ENVIRONMENT = (env.HEADER_TIMEOUT, env.LOAD_TIMEOUT, env.IDLE_EXIT, env.OVERLAP)
#: RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: systemd.socket(5), FileDescriptorName=: ASCII, without colons and control characters.
_NAME = re.compile(r"[!-9;-~ ]{1,255}")


@dataclass(frozen=True)
class Settings:
    """The configuration of one application."""

    healthz: str | None
    readyz: str | None
    health_listener: frozenset[str]  #: empty: all
    details_listener: frozenset[str]
    details_networks: tuple[IPv4Network | IPv6Network, ...]
    check_cache: float  #: seconds
    metrics: str | None
    metrics_listener: frozenset[str]  #: empty: all
    deadline: float | None  #: seconds
    request_id: str | None  #: a header's name
    listener: str | None

    def listener_of(self, environ: Mapping[str, Any]) -> str | None:
        """Return the name of the listener that a request came through; without activation, ``SOCKETACT_LISTENER``."""
        name: str | None = environ.get(keys.LISTENER, self.listener)
        return name


def path(value: object) -> str | None:
    """Return a path, or None."""
    if value is None or (isinstance(value, str) and value.startswith("/") and "<" not in value):
        return value
    raise ValueError("give a path that begins with '/', without <>, or None to switch it off")


def names(value: object) -> frozenset[str]:
    """Return the names of listeners; `value` is one name, several, or None."""
    several = [] if value is None else [value] if isinstance(value, str) else value
    if isinstance(several, Iterable):
        found = list(several)
        if all(isinstance(name, str) and _NAME.fullmatch(name) for name in found):
            return frozenset(found)
    raise ValueError("give the FileDescriptorName= of a listener, a list of them, or None")


def networks(value: object) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return networks, given as ``10.0.0.0/8`` or as a dual-stack listener shows it: ``::ffff:10.0.0.0/104``."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        try:
            return tuple(unmapped_network(ip_network(network)) for network in value)
        except ValueError as error:
            raise ValueError(f"{error}; give a list like ['10.0.0.0/8', '::1']") from error
    raise ValueError("give a list like ['10.0.0.0/8', '::1']")


def seconds(value: object) -> float:
    """Return a positive number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ValueError("give a positive number of seconds")


def argument(what: str, value: object) -> float:
    """Return the seconds that a method was given as the argument `what`."""
    try:
        return seconds(value)
    except ValueError as error:
        raise ValueError(f"{what} is {value!r}: {error}") from error


def require_name(what: str, name: object) -> None:
    """Reject a name that is empty, or not a string."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what}({name!r}): give it a name")


def _seconds_or_none(value: object) -> float | None:
    try:
        return None if value is None else seconds(value)
    except ValueError as error:
        raise ValueError(f"{error}, or None for no deadline") from error


def _seconds_or_zero(value: object) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else seconds(value)


def _header(value: object) -> str | None:
    if value is None or (isinstance(value, str) and _TOKEN.fullmatch(value)):
        return value
    raise ValueError("give the name of a header, like 'X-Request-Id', or None to send none")


def _name(value: object) -> str | None:
    if value is None or (isinstance(value, str) and _NAME.fullmatch(value)):
        return value
    raise ValueError("give the name of one listener, or None")


#: Each key without its prefix, in the order of docs/application.md: its default, and the function that reads it.
_KEYS: dict[str, tuple[Any, Callable[[object], Any]]] = {
    "HEALTHZ": ("/healthz", path),
    "READYZ": ("/readyz", path),
    "HEALTH_LISTENER": (None, names),
    "DETAILS_LISTENER": (None, names),
    "DETAILS_NETWORKS": ((), networks),
    "CHECK_CACHE": (1.0, _seconds_or_zero),
    "METRICS": (None, path),
    "METRICS_LISTENER": (None, names),
    "DEADLINE": (None, _seconds_or_none),
    "REQUEST_ID": (None, _header),
    "LISTENER": (None, _name),
}


def read(config: dict[str, Any]) -> Settings:
    """Read the settings from `config`, and add the defaults of missing keys to it.

    :raises ValueError: A key is unknown, or its value cannot be used. The text says what to write.
    """
    _reject_unknown(config)
    for name, (default, _) in _KEYS.items():
        config.setdefault(PREFIX + name, default)
    settings = Settings(**{name.lower(): _read(config, name) for name in _KEYS})
    _reject_same_paths(settings)
    return settings


def _read(config: Mapping[str, Any], name: str) -> Any:
    value = config[PREFIX + name]
    try:
        return _KEYS[name][1](value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{PREFIX}{name} is {value!r}: {error}") from error


def _reject_unknown(config: Mapping[str, Any]) -> None:
    known = [PREFIX + name for name in _KEYS]
    for key in config:
        if not key.startswith(PREFIX) or key in known:
            continue
        if key in _ENVIRONMENT:
            raise ValueError(f"{key} is a setting of the server: set it with Environment={key}=... in the service unit")
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"
        raise ValueError(f"{key} is not a key of this extension: {hint}")


def _reject_same_paths(settings: Settings) -> None:
    paths = {"HEALTHZ": settings.healthz, "READYZ": settings.readyz, "METRICS": settings.metrics}
    seen: dict[str, str] = {}
    for name, value in paths.items():
        if value is None:
            continue
        if value in seen:
            raise ValueError(f"{PREFIX}{seen[value]} and {PREFIX}{name} are both {value!r}: give each its own path")
        seen[value] = name
