"""Queues of sockets in the kernel: connections not accepted yet, bytes not read yet by us or by the client."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask_socketact.addresses import host_and_port, is_unix, of_socket, unmapped

#: Offsets in struct tcp_info (linux/tcp.h): tcpi_unacked (of a listener: the length of its queue) and
#: tcpi_last_data_recv (milliseconds), both 32 bits; tcpi_bytes_acked and tcpi_bytes_received, both 64 bits.
_UNACKED = 24
_LAST_DATA_RECEIVED = 52
_BYTES = 120
_read_bytes = struct.Struct("=QQ").unpack_from
_read = struct.Struct("=I").unpack_from
#: /proc/net/unix: state of a connection that is not accepted yet (SS_CONNECTING).
_CONNECTING = "02"
_FLAGS, _STATE, _INODE, _PATH = 3, 5, 6, 7  # columns
#: Flag of a listener (__SO_ACCEPTCON).
_ACCEPTS = 0x10000
#: /proc/net/tcp, proc(5). The queues are bytes not sent, and bytes not read; of a listener the second is the number of
#: connections not accepted.
_LOCAL, _REMOTE, _TCP_STATE, _QUEUES, _TCP_INODE = 1, 2, 3, 4, 9  # columns
_LISTEN = "0A"


def listening() -> Iterator[tuple[int, str]]:
    """Yield the inode and the address of all listening sockets on this machine, in the format of ``ListenStream=``."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for fields in _tcp_table(family):
            if fields[_TCP_STATE] == _LISTEN:
                yield int(fields[_TCP_INODE]), _as_written(fields[_LOCAL])
    for fields in _unix_table():
        if int(fields[_FLAGS], 16) & _ACCEPTS:
            yield int(fields[_INODE]), "".join(fields[_PATH:])


def length(listener: Any) -> int | None:
    """Return how many connections wait in the queue of `listener`; None if it is unknown."""
    try:
        if listener.family == socket.AF_UNIX:
            return _count(of_socket(listener.getsockname()))
        return int(_read(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED + 4), _UNACKED)[0])
    except (AttributeError, OSError, ValueError, struct.error):  # closed, or another kind of socket
        return None


def seconds_since_data(connection: Any) -> float:
    """Return how long ago the last bytes of a TCP connection arrived, in seconds.

    A request that was just read has waited at least that long. Return 0.0 for other sockets, where it is unknown.
    """
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED + 4)
        return float(_read(info, _LAST_DATA_RECEIVED)[0]) / 1000
    except (OSError, struct.error):
        return 0.0


def unsent(connection: socket.socket) -> int:
    """Return how many bytes the client has not acknowledged; 0 if it has disconnected."""
    try:
        return int(struct.unpack("=i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):
        return 0


def progress(connection: socket.socket) -> tuple[int, ...]:
    """Return counters that change when the client of `connection` sends or reads anything.

    For TCP: bytes acknowledged, and bytes received. The kernel of a slow reader acknowledges in steps of a sixteenth of
    its buffer or more (RFC 9293, section 3.8.6.2.2). For a client on this machine, such as a proxy, the bytes that it
    has not read are added. For a Unix socket: the bytes that it has not read.

    :raises OSError: the connection is broken.
    """
    if connection.family == socket.AF_UNIX:
        return struct.unpack("=i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES + 16)
    unread = _unread_by_peer(connection)
    return (*_read_bytes(info, _BYTES), *(() if unread is None else (unread,)))


def _unread_by_peer(connection: socket.socket) -> int | None:
    """Return how many bytes the peer of a TCP connection has not read; None if it is on another machine."""
    addresses = [(unmapped(host), port) for host, port, *_ in (connection.getsockname(), connection.getpeername())]
    try:
        ours, peer = (_as_in_proc(*address) for address in addresses)
        table = _tcp_table(socket.AF_INET6 if ":" in addresses[0][0] else socket.AF_INET)
    except OSError:  # an address with a scope ID, and so not of this machine
        return None
    for fields in table:
        if fields[_LOCAL] == peer and fields[_REMOTE] == ours:
            return int(fields[_QUEUES].partition(":")[2], 16)
    return None


def _tcp_table(family: int) -> list[list[str]]:
    text = Path("/proc/self/net/tcp6" if family == socket.AF_INET6 else "/proc/self/net/tcp").read_text()
    return [line.split() for line in text.splitlines()[1:]]


def _as_in_proc(host: str, port: int) -> str:
    """Return an address in the format of proc(5): words of 32 bits in the machine's byte order.

    :raises OSError: `host` is not an address.
    """
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{port:04X}"


def _as_written(address: str) -> str:
    host, _, port = address.partition(":")
    words = [int(host[start : start + 8], 16) for start in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET6 if len(words) > 1 else socket.AF_INET
    return of_socket((socket.inet_ntop(family, packed), int(port, 16)))


def length_at(address: str) -> int | None:
    """Return how many connections wait at an address in the format of ``ListenStream=``.

    Return None if no socket listens there, or it is unknown. The caller needs no access to the listener.
    """
    if is_unix(address):
        return _count(address)
    host, port = host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        wanted = _as_in_proc(host, int(port))
        table = _tcp_table(family)
    except OSError:
        return None
    for fields in table:
        if fields[_LOCAL] == wanted and fields[_TCP_STATE] == _LISTEN:
            return int(fields[_QUEUES].partition(":")[2], 16)
    return None


def somaxconn() -> int:
    """Return the kernel's limit for the queue of a listener, which caps its backlog."""
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


def _count(path: str) -> int | None:
    """Count the connections to a Unix socket that are not accepted yet; None if no socket listens there."""
    sockets = [fields for fields in _unix_table() if fields[_PATH:] == [path]]
    if not any(int(fields[_FLAGS], 16) & _ACCEPTS for fields in sockets):
        return None
    return sum(fields[_STATE] == _CONNECTING for fields in sockets)


def _unix_table() -> list[list[str]]:
    text = Path("/proc/self/net/unix").read_text(errors="surrogateescape")
    return [line.split(maxsplit=_PATH) for line in text.splitlines()[1:]]
