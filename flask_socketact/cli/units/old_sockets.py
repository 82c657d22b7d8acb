"""What the socket units of a service that is taken over say besides their addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flask_socketact.cli.units.existing import Existing, Line
from flask_socketact.text import printable

#: Lines that mean the same in our socket unit.
_COPIED = re.compile(
    "Backlog|KeepAlive.*|NoDelay|DeferAcceptSec|ReceiveBuffer|SendBuffer|Priority|IPTOS|IPTTL|Mark|TCPCongestion"
    "|BindIPv6Only|BindToDevice|FreeBind|Transparent|SmackLabel.*"
)
#: Lines whose work our units do, in their own way.
_DONE = re.compile("ListenStream|Service|Accept|RemoveOnStop|TriggerLimit.*|Timeout(Sec|StartSec|StopSec)")
#: Told with what replaces them.
_ACCESS = ("SocketUser", "SocketGroup", "SocketMode")
#: systemd's default of SocketMode=, and that of our units.
_ALL, _GROUP = 0o666, 0o660


def drop_in(existing: Existing) -> str:
    """Return the text of the drop-in of our socket unit; empty if no line is taken over."""
    lines = [str(line) for line in _socket_lines(existing) if _is_copied(existing, line)]
    return "\n".join((f"# Taken over from {next(iter(existing.sockets))}.", "[Socket]", *lines, "")) if lines else ""


def remarks(existing: Existing, group_now: str | None) -> Iterator[str]:
    """Yield what is not as before.

    :param group_now: group that may connect to a path from now on
    """
    has_path = any(address.startswith("/") for addresses in existing.sockets.values() for address in addresses)
    now = f"the service's user and the group {group_now}" if group_now else "the service's user and its group"
    if has_path and _mode(existing) != _GROUP:
        told = f"SocketMode={_mode(existing):04o} was not taken over"
        yield f"{told}: only {now} can connect to the socket; --socket-group sets another"
    if has_path and (owner := _value(existing, "SocketUser")) not in ("", existing.user):
        yield printable(f"SocketUser={owner} was not taken over: the socket belongs to the service's user")
    for line in _socket_lines(existing):
        if not (_is_copied(existing, line) or _DONE.fullmatch(line.key) or line.key in _ACCESS):
            yield printable(f"[Socket] {line} was not taken over: systemctl edit {existing.name}.socket adds it")


def is_open(existing: Existing) -> bool:
    """Return whether all users can connect to the paths of the socket units."""
    return bool(existing.sockets) and bool(_mode(existing) & 0o002)


def group(existing: Existing) -> str | None:
    return _value(existing, "SocketGroup") or None


def _mode(existing: Existing) -> int:
    try:
        return int(_value(existing, "SocketMode"), 8)
    except ValueError:
        return _ALL


def _value(existing: Existing, key: str) -> str:
    """Return the last value of a setting; empty if there is none."""
    return next((line.value for line in reversed(_socket_lines(existing)) if line.key == key), "")


def _socket_lines(existing: Existing) -> list[Line]:
    return [line for lines in existing.socket_lines.values() for line in lines if line.section == "Socket"]


def _is_copied(existing: Existing, line: Line) -> bool:
    """Return whether a line is taken over; of several units, none is, as ours may have their addresses in one."""
    return bool(_COPIED.fullmatch(line.key)) and len(existing.sockets) == 1
