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


def _count(path: str) -> int:
    """Count the connections to a Unix socket that wait: what has its path, and is not accepted."""
    lines = Path("/proc/self/net/unix").read_text(errors="surrogateescape").splitlines()
    entries = (line.split(maxsplit=_PATH) for line in lines)
    return sum(1 for entry in entries if entry[_PATH:] == [path] and entry[_STATE] == _CONNECTING)
