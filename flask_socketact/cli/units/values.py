"""Check the values that go into unit files, character by character.

systemd reads these files as root. No value may begin a new line or have a special meaning: no space, specifier (%),
variable ($), quote or backslash. Other values are refused; nothing is quoted or repaired.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from flask_socketact.errors import OptionError

#: Longest path of a Unix socket: sun_path has 108 bytes, including the final zero.
_MAX_SOCKET_PATH = 107
_MAX_PORT = 65535
#: Names become parts of unit names, which have up to 255 characters, and of the mailbox's path.
_MAX_NAME = 64

#: A unit's name may have ":", but in StateDirectory= that asks for a symbolic link.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_ACCOUNT = r"[a-z_][a-z0-9_-]{0,31}|[1-9][0-9]{0,9}"
_PATH = r"(/[A-Za-z0-9_.+@-]+)+"
_PORT = r"[1-9][0-9]{0,4}"
_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
_TEXT = r"[A-Za-z0-9_./:@+-]*"
_ARGUMENT = rf"({_IDENTIFIER}=)?('{_TEXT}'|-?[0-9]+(\.[0-9]+)?|True|False|None)"
#: As gunicorn reads it: the object is a plain name, and the arguments of a factory are literals.
_APP = rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}(\(({_ARGUMENT}(,{_ARGUMENT})*)?\))?"

#: Highest number of an account, and a number that means "none".
_MAX_ACCOUNT = 4294967294
_NO_ACCOUNT = 65535


@dataclass(frozen=True)
class Listener:
    """An address, as ListenStream= has it, and its FileDescriptorName=."""

    address: str
    fdname: str

    @property
    def is_path(self) -> bool:
        return self.address.startswith("/")


def plain_app(value: str) -> str:
    """Return the application in canonical form: without spaces, strings in single quotes."""
    plain = re.sub(rf'"({_TEXT})"', r"'\1'", re.sub(" *([(),=]) *", r"\1", value))
    if not re.fullmatch(_APP, plain):
        raise OptionError(
            f"--app {value!r} is not MODULE:OBJECT, such as app:app, package.web:app, app:create_app() or "
            "app:create_app('production'); strings may have only letters, digits and _./:@+-"
        )
    return plain


def check_name(value: str) -> None:
    """Check the name of a service."""
    for suffix in (".service", ".socket"):
        if value.endswith(suffix):
            raise OptionError(f"--name {value!r} is a unit: write the name without {suffix}")
    if "@" in value:
        raise OptionError(
            f"--name {value!r} has an @: instances of a template are not supported, write a name without it"
        )
    if not re.fullmatch(_NAME, value) or len(value) > _MAX_NAME:
        raise OptionError(
            f"--name {value!r} is not a name of a unit: write up to {_MAX_NAME} letters, digits and _.-, "
            "beginning with a letter or a digit"
        )


def check_account(option: str, value: str) -> None:
    """Check the name or number of a user or group; 0, which is root, is refused."""
    if not re.fullmatch(_ACCOUNT, value) or (
        value.isdigit() and (int(value) > _MAX_ACCOUNT or int(value) == _NO_ACCOUNT)
    ):
        raise OptionError(
            f"{option} {value!r} is not an account for a service: write a name of up to 32 lower-case letters, digits "
            "and _-, not beginning with a digit, or a number other than 0"
        )


def check_path(option: str, value: str) -> None:
    """Check an absolute path."""
    if not re.fullmatch(_PATH, value) or not {".", ".."}.isdisjoint(value.split("/")):
        raise OptionError(
            f"{option} {value!r} is not a plain absolute path such as /srv/app: write letters, digits and _.+@- "
            "between single slashes, without . or .., and no slash at the end"
        )


def parse_listener(value: str) -> Listener:
    """Parse ADDRESS or ADDRESS=NAME."""
    address, named, fdname = value.partition("=")
    if named and (not re.fullmatch(_NAME, fdname) or len(fdname) > _MAX_NAME):
        raise OptionError(
            f"--listen {value!r} has no usable name after =: write up to {_MAX_NAME} letters, digits and _.-, "
            "beginning with a letter or a digit, as in 127.0.0.1:8000=http"
        )
    if address.startswith("/"):
        check_path("--listen", address)
        if len(address) > _MAX_SOCKET_PATH:
            raise OptionError(
                f"--listen {address!r} is too long: the path of a Unix socket has up to {_MAX_SOCKET_PATH} characters"
            )
    else:
        address = _parse_address("--listen", address)
    return Listener(address, fdname or "http")


def parse_agent(value: str) -> str:
    """Return the TCP address of ``--agent`` in canonical form."""
    if value.startswith("/"):
        raise OptionError(f"--agent {value!r} is a path, but HAProxy's agent-check needs TCP: write 10.0.0.5:8001")
    return _parse_address("--agent", value)


def _parse_address(option: str, value: str) -> str:
    """Return a TCP address in canonical form."""
    host, colon, port = value.rpartition(":")
    if not re.fullmatch(_PORT, port) or int(port) > _MAX_PORT:
        raise OptionError(
            f"{option} {value!r} has no port from 1 to {_MAX_PORT} at its end: "
            "write 127.0.0.1:8000, [::1]:8000"
            + (" or 8000 (on all addresses)" if option == "--agent" else ", 8000 (on all addresses) or /run/app.sock")
        )
    if not colon:
        return port
    try:
        if host.startswith("[") and host.endswith("]") and "%" not in host:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]:{port}"
        return f"{ipaddress.IPv4Address(host)}:{port}"
    except ValueError:
        raise OptionError(
            f"{option} {value!r} has no address before its port: systemd needs an address, not a name, "
            f"so write 127.0.0.1:{port}, [::1]:{port} or {port} (on all addresses)"
        ) from None
