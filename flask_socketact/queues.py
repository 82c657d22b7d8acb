"""How much waits in the kernel: connections that nobody has accepted yet, and requests that nobody has read."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

#: Where struct tcp_info (linux/tcp.h) has tcpi_unacked, of a listener the length of its queue, and
#: tcpi_last_data_recv, in milliseconds. Both are of 32 bits.
_UNACKED = 24
_LAST_DATA_RECEIVED = 52
_read = struct.Struct("=I").unpack_from
#: /proc/net/unix: the state of a connection that was not accepted yet (SS_CONNECTING).
_CONNECTING = "02"
_STATE, _PATH = 5, 7  # columns
#: /proc/net/tcp, proc(5): of a listener, the second of the queues is the connections that wait.
_LOCAL, _TCP_STATE, _QUEUES = 1, 3, 4  # columns
_LISTEN = "0A"


def length(listener: Any) -> int | None:
    """Return how many connections wait in the queue of `listener`; None when the kernel does not tell."""
    try:
        if listener.family == socket.AF_UNIX:
            return _count(os.fsdecode(listener.getsockname()).replace("\0", "@"))
        return int(_read(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED + 4), _UNACKED)[0])
    except (
        AttributeError,
        OSError,
        ValueError,
        struct.error,
    ):  # closed, as gunicorn or Python have it; or another kind
        return None


def seconds_since_data(connection: Any) -> float:
    """Return how long ago the last bytes of a TCP connection came: as long as a request that has just
    been read has waited for it, at least. 0.0 for other kinds of sockets, which do not tell."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED + 4)
        return float(_read(info, _LAST_DATA_RECEIVED)[0]) / 1000
    except (OSError, struct.error):
        return 0.0


def length_at(address: str) -> int | None:
    """Return how many connections wait at an address as ``ListenStream=`` has it; None when nobody listens there, or
    the kernel does not tell. Whoever asks needs no right to the listener."""
    if address.startswith(("/", "@")):
        return _count(address)
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host.strip("[]") or "::")
        table = Path("/proc/self/net/tcp6" if family == socket.AF_INET6 else "/proc/self/net/tcp").read_text()
    except OSError:
        return None
    words = struct.unpack(f"={len(packed) // 4}I", packed)  # as the kernel prints them, in its own order of bytes
    wanted = f"{''.join(f'{word:08X}' for word in words)}:{int(port):04X}"
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[_LOCAL] == wanted and fields[_TCP_STATE] == _LISTEN:
            return int(fields[_QUEUES].partition(":")[2], 16)
    return None


def somaxconn() -> int:
    """Return how many connections may wait at a listener at most, whatever it asks for."""
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


def _count(path: str) -> int:
    """Count the connections to a Unix socket that wait: what has its path, and is not accepted."""
    lines = Path("/proc/self/net/unix").read_text(errors="surrogateescape").splitlines()
    entries = (line.split(maxsplit=_PATH) for line in lines)
    return sum(1 for entry in entries if entry[_PATH:] == [path] and entry[_STATE] == _CONNECTING)
