"""Carry connections that are idle to whoever reads the mailbox: a sibling, or the next generation.

The mailbox is a listening ``SOCK_SEQPACKET`` socket that systemd holds (``ListenSequentialPacket=``).
A sender connects, sends and closes; what nobody has accepted yet waits in the kernel, so sender
and receiver need not live at the same time. A message is one line of JSON about connections that
have the same origin, with their descriptors alongside (``SCM_RIGHTS``, unix(7)); after the line comes what has been
read already of a connection's next request.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flask_socketact.errors import MailboxError
from flask_socketact.linux.descriptors import NO_RESOURCES, above_streams

#: Python's own class: an application may put another in its place (PySocks), which would not do for a mailbox.
Socket = socket.socket
#: The real one, for the same reason: gevent's would wait for the loop, also in a signal handler that the loop runs.
_poll = select.poll
VERSION = 1
#: The kernel takes 253 in a message (SCM_MAX_FD).
MAX_DESCRIPTORS = 250
#: Longer than any message of ours without what has been read: a name has at most 255 characters. Bytes.
MAX_LINE = 16 * 1024
#: More than this of a next request is not sent along. Bytes.
MAX_UNREAD = 64 * 1024
MAX_MESSAGE = MAX_LINE + MAX_UNREAD
#: How long a sender may take, in seconds: one that has sent all has closed already.
SENDER_TIMEOUT = 5.0

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_CREDENTIALS = struct.Struct("=iII")  #: pid, uid, gid
_INT = struct.calcsize("i")


@dataclass(frozen=True)
class Origin:
    """What the receiver has to know of a connection."""

    listener: str | None  #: name of the listener that it came by
    served: bool  #: a request was answered on it
    proxy: tuple[tuple[str, Any], ...] | None = None  #: what the PROXY protocol said, as sorted pairs
    unread: bytes = b""  #: what has been read beyond the last request: the next one, or a part of it

    @property
    def is_new(self) -> bool:
        """Whether nothing has been read of the connection."""
        return not (self.served or self.proxy or self.unread)

    def pack(self) -> bytes:
        fields = {"version": VERSION, "listener": self.listener, "served": self.served, "proxy": self.proxy}
        line = json.dumps(fields).encode()
        return line + b"\n" + self.unread if self.unread else line

    @classmethod
    def unpack(cls, data: bytes) -> Origin:
        """:raises MailboxError: `data` is no message of this version."""
        line, _, unread = data.partition(b"\n")
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise MailboxError("a message that is no JSON") from None
        if not isinstance(fields, dict) or fields.pop("version", None) != VERSION:
            raise MailboxError(f"a message that is not of version {VERSION}")
        proxy = fields.get("proxy")
        if not (
            fields.keys() == {"listener", "served", "proxy"}
            and isinstance(fields["listener"], str | None)
            and isinstance(fields["served"], bool)
            and (proxy is None or _are_pairs(proxy))
        ):
            raise MailboxError("a message with fields that are not ours")
        pairs = None if proxy is None else tuple((key, value) for key, value in proxy)
        return cls(fields["listener"], fields["served"], pairs, unread)


def _are_pairs(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list)
        and len(pair) == 2  # noqa: PLR2004 (key and value)
        and isinstance(pair[0], str)
        and isinstance(pair[1], str | int | None)
        for pair in value
    )


def accept(listener: Any) -> tuple[socket.socket, Any]:
    """Return the next connection of a listener, which blocks, and the address of its other end. It is of Python's own
    class, and its descriptor is above those of stdin, stdout and stderr.

    :raises OSError: as accept(2).
    """
    fd, address = listener._accept()  # socket.accept() makes whatever socket.socket is now of it
    connection = Socket(listener.family, listener.type, listener.proto, fileno=above_streams(fd))
    if connection.gettimeout() is not None:  # socket.setdefaulttimeout() of the application
        connection.settimeout(None)
    return connection, address


class Mailbox:
    """The mailbox, read and written by the workers."""

    def __init__(self, listener: socket.socket) -> None:
        """Take the listener; it does not block afterwards."""
        listener.setblocking(False)
        self.listener = listener

    def send(self, connections: Iterable[tuple[Origin, int]], batch: int) -> Iterator[list[int]]:
        """Send descriptors, and return those sent, message by message; those are to be closed here.

        `batch`: how many at most go into one message, and so to one receiver.

        :raises MailboxError: the mailbox takes no more; those not returned yet are still ours.
        """
        groups: dict[Origin, list[int]] = {}
        for origin, fd in connections:
            groups.setdefault(origin, []).append(fd)
        for origin, fds in groups.items():
            for start in range(0, len(fds), batch):
                yield self._send(origin, fds[start : start + batch])

    def _send(self, origin: Origin, fds: list[int]) -> list[int]:
        with Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sender:
            sender.setblocking(False)
            try:
                sender.connect(self.listener.getsockname())
                # Both are who made the listener: if not, somebody else listens at its address.
                if _credentials(sender) != _credentials(self.listener):
                    raise MailboxError(f"{self._address} belongs to somebody else")
                socket.send_fds(sender, [origin.pack()], fds)
            except OSError as error:
                raise MailboxError(f"{self._address} takes nothing ({error.strerror})") from error
        return fds

    def knock(self) -> None:
        """Wake another reader, if there is something to read: the kernel may have woken one who reads no more."""
        if self.has_mail():
            with Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sender, suppress(OSError):  # full: they are awake
                sender.setblocking(False)
                sender.connect(self.listener.getsockname())

    def accept(self) -> socket.socket | None:
        """Return the next sender's connection; None when there is none.

        :raises MailboxError: the sender was refused, and what it has sent is closed.
        :raises OSError: there is no descriptor left for it, or no memory.
        """
        try:
            sender, _ = accept(self.listener)
        except OSError as error:
            if error.errno in NO_RESOURCES:
                raise
            return None
        sender.setblocking(False)
        _, uid, _ = _credentials(sender)
        if uid != os.geteuid():
            sender.close()
            raise MailboxError(f"user {uid} has no business here")
        return sender

    def has_mail(self) -> bool:
        """Whether a sender waits that nobody has accepted."""
        poll = _poll()
        poll.register(self.listener, select.POLLIN)
        return bool(poll.poll(0))

    def drop_all(self) -> int:
        """Close all that waits, and return how many senders that were: what
        stays in the mailbox would make systemd start the service again."""
        dropped = 0
        while True:
            try:
                sender, _ = self.listener.accept()
            except OSError:
                return dropped
            sender.close()
            dropped += 1

    @property
    def _address(self) -> str:
        return os.fsdecode(self.listener.getsockname()).replace("\0", "@")


def receive(sender: socket.socket) -> tuple[Origin, list[socket.socket], list[str]] | None:
    """Return the next message: its origin, the connections, and what was wrong with others.

    None at the end. All descriptors of a message that is refused are closed.

    :raises BlockingIOError: there is no message yet.
    :raises MailboxError: the message is not ours; read no more of this sender.
    :raises OSError: the sender's connection is broken.
    """
    data, fds, flags = _receive(sender)
    if not data and not fds:
        return None
    try:
        origin = Origin.unpack(data[:0] if flags & socket.MSG_TRUNC else data)
    except MailboxError:
        for fd in fds:
            os.close(fd)
        raise
    connections, refused = [], []
    if flags & socket.MSG_CTRUNC:  # the kernel gives as many as fit
        refused.append("connections lost, for want of descriptors: raise LimitNOFILE= of the service")
    for fd in fds:
        try:
            connections.append(_connection(fd))
        except (MailboxError, OSError) as error:
            os.close(fd)
            refused.append(f"a connection that cannot be used: {error}")
    return origin, connections, refused


def _receive(sender: socket.socket) -> tuple[bytes, list[int], int]:
    data, ancillary, flags, _ = sender.recvmsg(
        MAX_MESSAGE, socket.CMSG_SPACE((MAX_DESCRIPTORS + 3) * _INT), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    )
    received = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(content[: len(content) - len(content) % _INT])
    return data, list(received), flags


def _connection(fd: int) -> socket.socket:
    """Return the connected stream socket that `fd` is.

    :raises MailboxError: it is something else; it stays open.
    :raises OSError: the client has closed meanwhile, or it never was connected.
    """
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise MailboxError("no socket")
    connection = Socket(fileno=fd)
    try:
        _check(connection)
    except BaseException:
        connection.detach()
        raise
    # Whoever sent it may have left it not to block: the flag belongs to the open socket, not to the descriptor.
    connection.setblocking(True)
    return connection


def _check(connection: socket.socket) -> None:
    if connection.family not in _FAMILIES or connection.type != socket.SOCK_STREAM:
        raise MailboxError("a socket of another kind")
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise MailboxError("a listener")
    connection.getpeername()


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the peer, or for a listener of who made it (SO_PEERCRED, unix(7))."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, gid


def batch_size(connections: int, receivers: int) -> int:
    """Return how many connections to send in one go, so that all receivers get a share."""
    return max(1, min(MAX_DESCRIPTORS, -(-connections // (4 * max(1, receivers)))))
