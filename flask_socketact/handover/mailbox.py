"""The mailbox, through which a worker hands connections over to another worker, of its own or the next generation.

The mailbox is a listening ``SOCK_SEQPACKET`` socket that systemd holds (``ListenSequentialPacket=``). A sender
connects, sends and closes. Until a receiver accepts it, the message waits in the kernel, so sender and receiver need
not run at the same time. A message has connections with equal `Origin`: their descriptors (``SCM_RIGHTS``, unix(7)),
one line of JSON (version, listener, served, proxy), and after it the bytes that were already read of the next request,
if any.
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

from flask_socketact import addresses
from flask_socketact.errors import MailboxError
from flask_socketact.handover.steps import Step, reached
from flask_socketact.linux.descriptors import NO_RESOURCES, above_streams

#: Python's own class: an application may replace ``socket.socket`` (PySocks), by a class that cannot do this.
Socket = socket.socket
#: The real one, for the same reason: gevent's would wait for gevent's loop, even in a signal handler.
_poll = select.poll
VERSION = 1
#: Descriptors in a message; the kernel's limit is 253 (SCM_MAX_FD).
MAX_DESCRIPTORS = 250
#: Longer than any line of ours: a listener's name has at most 255 characters. Bytes.
MAX_LINE = 16 * 1024
#: Most bytes of a next request that are sent along.
MAX_UNREAD = 64 * 1024
MAX_MESSAGE = MAX_LINE + MAX_UNREAD
#: How long a sender may take. A well-behaved one has closed before it is accepted. Seconds.
SENDER_TIMEOUT = 5.0

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_CREDENTIALS = struct.Struct("=iII")  #: pid, uid, gid
_INT = struct.calcsize("i")


@dataclass(frozen=True)
class Origin:
    """What the receiver needs to know about a connection."""

    listener: str | None  #: name of the listener that accepted it
    served: bool  #: it has had a request
    proxy: tuple[tuple[str, Any], ...] | None = None  #: fields of the PROXY protocol, as sorted pairs
    unread: bytes = b""  #: bytes read after the last request: the next one, or a part of it

    @property
    def is_new(self) -> bool:
        """Whether no byte has been read from the connection."""
        return not (self.served or self.proxy or self.unread)

    def pack(self) -> bytes:
        fields = {"version": VERSION, "listener": self.listener, "served": self.served, "proxy": self.proxy}
        line = json.dumps(fields).encode()
        return line + b"\n" + self.unread if self.unread else line

    @classmethod
    def unpack(cls, data: bytes) -> Origin:
        """Return the origin that a message describes.

        :raises MailboxError: `data` is not a message of this version.
        """
        line, _, unread = data.partition(b"\n")
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise MailboxError("a message that is not JSON") from None
        if not isinstance(fields, dict) or fields.pop("version", None) != VERSION:
            raise MailboxError(f"a message that is not of version {VERSION}")
        proxy = fields.get("proxy")
        if not (
            fields.keys() == {"listener", "served", "proxy"}
            and isinstance(fields["listener"], str | None)
            and isinstance(fields["served"], bool)
            and (proxy is None or _are_pairs(proxy))
        ):
            raise MailboxError("a message with unknown fields")
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
    """Return the next connection of a listener, and the address of its peer. It blocks, is of Python's own class, and
    its descriptor is above those of stdin, stdout and stderr.

    :raises OSError: as accept(2).
    """
    fd, address = listener._accept()  # socket.accept() returns what socket.socket is now
    connection = Socket(listener.family, listener.type, listener.proto, fileno=above_streams(fd))
    if connection.gettimeout() is not None:  # socket.setdefaulttimeout() of the application
        connection.settimeout(None)
    return connection, address


class Mailbox:
    """The mailbox, as workers read and write it."""

    def __init__(self, listener: socket.socket, *, is_private: bool = False) -> None:
        """Take the listener, and make it non-blocking."""
        listener.setblocking(False)
        self.listener = listener
        self.is_private = is_private  #: nothing but the workers of this master reads it: it ends with them

    @classmethod
    def create(cls) -> Mailbox:
        """Make a private mailbox. Its address is abstract (unix(7)): nothing stays in the file system.

        :raises OSError: it cannot be made.
        """
        listener = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.bind("")  # the kernel chooses an address
            listener.listen(socket.SOMAXCONN)
        except OSError:
            listener.close()
            raise
        return cls(listener, is_private=True)

    def send(self, connections: Iterable[tuple[Origin, int]], batch: int) -> Iterator[list[int]]:
        """Send connections, and yield their descriptors message by message. The caller closes what was sent.

        :param connections: origins and descriptors
        :param batch: most connections in one message, and so to one receiver
        :raises MailboxError: the mailbox accepts no more; what was not yielded was not sent.
        """
        groups: dict[Origin, list[int]] = {}
        for origin, fd in connections:
            groups.setdefault(origin, []).append(fd)
        for origin, fds in groups.items():
            for start in range(0, len(fds), batch):
                yield self._send(origin, fds[start : start + batch])

    def _send(self, origin: Origin, fds: list[int]) -> list[int]:
        try:
            with Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sender:
                sender.setblocking(False)
                sender.connect(self.listener.getsockname())
                # Both name the process that created the listener; otherwise another process listens at its address.
                if _credentials(sender) != _credentials(self.listener):
                    raise MailboxError(f"another process listens at {self._address}")
                socket.send_fds(sender, [origin.pack()], fds)
        except OSError as error:
            raise MailboxError(f"cannot send to the mailbox {self._address} ({error.strerror})") from error
        return fds

    def knock(self) -> None:
        """Wake another reader, if there are messages: the kernel may have woken a worker that no longer reads."""
        if self.has_mail():
            # If it is full, readers are awake.
            with suppress(OSError), Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sender:
                sender.setblocking(False)
                sender.connect(self.listener.getsockname())

    def accept(self) -> socket.socket | None:
        """Return the next sender's socket; None when there is none.

        :raises MailboxError: the sender was rejected, and what it has sent is closed.
        :raises OSError: there is no free descriptor, or no memory.
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
            raise MailboxError(f"rejected sender: uid {uid} is not the service user")
        return sender

    def has_mail(self) -> bool:
        """Whether a sender waits."""
        poll = _poll()
        poll.register(self.listener, select.POLLIN)
        return bool(poll.poll(0))

    def drop_all(self) -> int:
        """Close all messages, and return the number of their senders: a message that stays in the mailbox would make
        systemd start the service again."""
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
        return addresses.of_socket(self.listener.getsockname())


def receive(sender: socket.socket) -> tuple[Origin, list[socket.socket], list[str]] | None:
    """Return the next message: its origin, its connections, and why other descriptors in it were rejected; None at the
    end. All descriptors of a rejected message are closed.

    :raises BlockingIOError: there is no message yet.
    :raises MailboxError: the message is malformed; read no more from this sender.
    :raises OSError: the sender's socket is broken.
    """
    data, fds, flags = _receive(sender)
    if not data and not fds:
        return None
    reached(Step.WORKER_RECEIVES)
    try:
        origin = Origin.unpack(data[:0] if flags & socket.MSG_TRUNC else data)
    except MailboxError:
        for fd in fds:
            os.close(fd)
        raise
    connections, refused = [], []
    if flags & socket.MSG_CTRUNC:  # the kernel passes as many as fit
        refused.append("connections were lost, as no descriptors are free: raise LimitNOFILE= of the service")
    for fd in fds:
        try:
            connections.append(_connection(fd))
        except (MailboxError, OSError) as error:
            os.close(fd)
            refused.append(f"not a client's connection: {error}")
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
    """Return the connected stream socket with the descriptor `fd`.

    :raises MailboxError: it is something else; it stays open.
    :raises OSError: the client has closed the connection, or it was never connected.
    """
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise MailboxError("it is not a socket")
    connection = Socket(fileno=fd)
    try:
        _check(connection)
    except BaseException:
        connection.detach()
        raise
    # The sender may have made it non-blocking: that flag belongs to the socket, not to the descriptor.
    connection.setblocking(True)
    return connection


def _check(connection: socket.socket) -> None:
    if connection.family not in _FAMILIES or connection.type != socket.SOCK_STREAM:
        raise MailboxError("it is a socket of another kind")
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise MailboxError("it is a listener")
    connection.getpeername()


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the peer; of a listener, of the process that created it (SO_PEERCRED, unix(7))."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, gid


def batch_size(connections: int, receivers: int) -> int:
    """Return how many connections to send in one message, so that all receivers get a share."""
    return max(1, min(MAX_DESCRIPTORS, -(-connections // (4 * max(1, receivers)))))
