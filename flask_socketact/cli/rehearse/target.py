"""The target of a rehearsal: a URL, and its address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from flask_socketact.addresses import of_socket
from flask_socketact.cli.rehearse.client_connection import Connection
from flask_socketact.errors import OptionError, RehearsalError

_PORT = 80
#: Characters that could end a request line or begin another request.
_UNSAFE = frozenset(map(chr, (*range(0x21), 0x7F)))


@dataclass(frozen=True)
class Target:
    """Where requests go. The address is fixed, so that no name is looked up under load."""

    host: str  #: value of the header Host
    path: str  #: with the query
    address: tuple[str, int] | str  #: numeric host and port, or the path of a Unix socket

    @property
    def url(self) -> str:
        return f"http://{self.host}{self.path}"

    @property
    def place(self) -> str:
        """The address in the form of ``ListenStream=``."""
        if isinstance(self.address, str):
            return self.address
        return of_socket(self.address)

    @property
    def places(self) -> list[str]:
        """All addresses of listeners that accept connections to this one."""
        if isinstance(self.address, str):
            return [self.place]
        port = self.address[1]
        return [self.place, f"[::]:{port}", *([] if ":" in self.address[0] else [f"0.0.0.0:{port}"])]

    async def connect(self) -> Connection:
        """Open a connection.

        :raises OSError: the address does not accept it.
        """
        loop = asyncio.get_running_loop()
        if isinstance(self.address, str):
            _, connection = await loop.create_unix_connection(Connection, self.address)
        else:
            _, connection = await loop.create_connection(Connection, *self.address)
        return connection

    def at(self, path: str) -> Target:
        """Return another page of the same service.

        :raises OptionError: `path` is malformed.
        """
        return replace(self, path=check_path(path))


def check_path(path: str) -> str:
    """Return the path of a page, with its query.

    :raises OptionError: it is malformed.
    """
    if not path.startswith("/") or not _UNSAFE.isdisjoint(path) or not path.isascii():
        raise OptionError(f"{path!r} is not a path: it must begin with /, and have only ASCII characters and no spaces")
    return path


def parse(url: str, *, unix_socket: str | None = None, allow_remote: bool = False) -> Target:
    """Parse a URL, and look up its host.

    :param unix_socket: connect to this path instead, as ``curl --unix-socket`` does.
    :raises OptionError: it is not an HTTP URL.
    :raises RehearsalError: the host is unknown, or another machine and `allow_remote` is false.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORT
    except ValueError as error:
        raise OptionError(f"{url!r} is not a URL such as http://127.0.0.1:8000/: {error}") from None
    if parts.scheme != "http" or not host or parts.username is not None or parts.fragment:
        raise OptionError(
            f"{url!r} is not of the form http://HOST:PORT/PATH (for TLS, rehearse the service behind the proxy)"
        )
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    address = unix_socket or _look_up(host, port, allow_remote=allow_remote)
    return Target(parts.netloc, "/", address).at(path)


def _look_up(host: str, port: int, *, allow_remote: bool) -> tuple[str, int]:
    """Return the first address of a host that accepts connections, or else its first address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RehearsalError(f"the host {host} is unknown: {why}: correct --url") from None
    addresses = [(str(address[0]), port) for *_, address in found]
    if not allow_remote:
        for address, _ in addresses:
            if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
                raise RehearsalError(
                    f"{host} is at {address}, not this machine's loopback: add --allow-remote if the machine is yours"
                )
    return next(filter(_accepts, addresses), addresses[0])


def _accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1.0).close()
    except OSError:
        return False
    return True
