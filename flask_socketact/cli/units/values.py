"""What may stand in a unit file: the values that an administrator gives, checked character by character.

Root's systemd reads these files. Nothing in a value may begin a line, or mean anything to systemd: no space, no
specifier (%), no variable ($), no quote, no backslash. What is not allowed is refused, nothing is quoted or repaired.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from flask_socketact.errors import OptionError

#: Longest path of a Unix socket: sun_path has 108 bytes, with the one that ends it.
_MAX_SOCKET_PATH = 107
_MAX_PORT = 65535
#: Names become parts of units' names, which have at most 255 characters, and of the mailbox's path.
_MAX_NAME = 64

#: Without ":", which may stand in a unit's name: in StateDirectory= it would ask for a symbolic link.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_ACCOUNT = r"[a-z_][a-z0-9_-]{0,31}|[1-9][0-9]{0,9}"
_PATH = r"(/[A-Za-z0-9_.+@-]+)+"
_PORT = r"[1-9][0-9]{0,4}"
_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
_TEXT = r"[A-Za-z0-9_./:@+-]*"
_ARGUMENT = rf"({_IDENTIFIER}=)?('{_TEXT}'|-?[0-9]+(\.[0-9]+)?|True|False|None)"
#: As gunicorn takes it: the object is a name, not a path of names, and the arguments of a factory are literals.
_APP = rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}(\(({_ARGUMENT}(,{_ARGUMENT})*)?\))?"

#: Numbers of accounts end here; and this one in between means "none", as those behind the end.
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
    """Return the application in the one way that we write it: without spaces, and texts between single quotes."""
    plain = re.sub(rf'"({_TEXT})"', r"'\1'", re.sub(" *([(),=]) *", r"\1", value))
    if not re.fullmatch(_APP, plain):
        raise OptionError(
            f"--app {value!r} is not MODULE:OBJECT, as app:app, package.web:app, app:create_app() or "
            "app:create_app('production'), where texts have letters, digits and _./:@+- alone"
        )
    return plain


def check_name(value: str) -> None:
    for suffix in (".service", ".socket"):
        if value.endswith(suffix):
            raise OptionError(f"--name {value!r} is a unit: give the name without {suffix}")
    if "@" in value:
        raise OptionError(
            f"--name {value!r} has an @: instances of a template are not supported, give a name without it"
        )
    if not re.fullmatch(_NAME, value) or len(value) > _MAX_NAME:
        raise OptionError(
            f"--name {value!r} is not a name of a unit: write at most {_MAX_NAME} letters, digits and _.-, "
            "of which the first is a letter or a digit"
        )


def check_account(option: str, value: str) -> None:
    """Check the name or number of a user or group; root's number 0 is none that can be given."""
    if not re.fullmatch(_ACCOUNT, value) or (
        value.isdigit() and (int(value) > _MAX_ACCOUNT or int(value) == _NO_ACCOUNT)
    ):
        raise OptionError(
            f"{option} {value!r} is not an account for a service: write a name of at most 32 small letters, digits and "
            "_-, of which the first is no digit, or a number, not 0"
        )


def check_path(option: str, value: str) -> None:
    if not re.fullmatch(_PATH, value) or not {".", ".."}.isdisjoint(value.split("/")):
        raise OptionError(
            f"{option} {value!r} is not a plain absolute path, as /srv/app: write letters, digits and _.+@- "
            "between single slashes, without . and .. and a slash at the end"
        )


def parse_listener(value: str) -> Listener:
    """Read ADDRESS or ADDRESS=NAME."""
    address, named, fdname = value.partition("=")
    if named and (not re.fullmatch(_NAME, fdname) or len(fdname) > _MAX_NAME):
        raise OptionError(
            f"--listen {value!r} has no usable name after =: write at most {_MAX_NAME} letters, digits and _.-, "
            "of which the first is a letter or a digit, as in 127.0.0.1:8000=http"
        )
    if address.startswith("/"):
        check_path("--listen", address)
        if len(address) > _MAX_SOCKET_PATH:
            raise OptionError(
                f"--listen {address!r} is too long: a Unix socket has at most {_MAX_SOCKET_PATH} characters"
            )
    else:
        address = _parse_address(address)
    return Listener(address, fdname or "http")


def _parse_address(value: str) -> str:
    """Return a TCP address in the one way that systemd and we write it."""
    host, colon, port = value.rpartition(":")
    if not re.fullmatch(_PORT, port) or int(port) > _MAX_PORT:
        raise OptionError(
            f"--listen {value!r} has no port from 1 to {_MAX_PORT} at its end: "
            "write 127.0.0.1:8000, [::1]:8000, 8000 (on all addresses) or /run/app.sock"
        )
    if not colon:
        return port
    try:
        if host.startswith("[") and host.endswith("]") and "%" not in host:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]:{port}"
        return f"{ipaddress.IPv4Address(host)}:{port}"
    except ValueError:
        raise OptionError(
            f"--listen {value!r} has no address before its port: systemd takes addresses, not names, "
            f"so write 127.0.0.1:{port}, [::1]:{port} or {port} (on all addresses)"
        ) from None
