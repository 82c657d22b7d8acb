"""The bytes of a client's connection: received and sent, with and without waiting for the client."""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from typing import Any

from flask_socketact.http.clock import Clock
from flask_socketact.http.unsent import ShorterFileError, Unsent
from flask_socketact.linux import socket_queues

#: How much is read and discarded at once after we have sent FIN. Bytes.
DISCARD_SIZE = 64 * 1024

#: Nothing has arrived yet, or the send buffer is full.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Transport:
    """A client's socket."""

    __slots__ = ("broken", "clock", "fd", "sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        """Take over `sock`, a blocking socket."""
        self.sock = sock
        self.fd = sock.fileno()
        self.broken = False  #: sending or receiving has failed
        self.unsent: Unsent | None = None  #: the end of a response that the loop sends
        self.clock = Clock()

    @property
    def is_portable(self) -> bool:
        """Whether the connection can be handed over at all. TLS cannot: its state is in this process."""
        return True

    def has_input(self) -> bool:
        """Return whether unread bytes wait in the kernel."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except (OSError, ValueError):  # nothing, or a reset; with TLS it is unknown
            return False

    def receive_now(self, size: int) -> bytes:
        """Return the bytes that have arrived, without blocking; b"" if the client has closed.

        :raises BlockingIOError: nothing has arrived.
        """
        return self.sock.recv(size, socket.MSG_DONTWAIT)

    def send_now(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes without blocking, and return its length in bytes.

        :raises BlockingIOError: it takes nothing.
        """
        return self.sock.send(data, socket.MSG_DONTWAIT)

    def send_file_now(self, fd: int, offset: int, count: int) -> int:
        """Send what the kernel takes of a file without blocking, and return its length in bytes: 0 at the file's end.

        Our socket is non-blocking: sendfile(2) has no MSG_DONTWAIT.

        :raises BlockingIOError: it takes nothing.
        """
        return os.sendfile(self.fd, fd, offset, count)

    # The next two repeat the code around the system call: as a decorator it costs a trivial request 2 % of its time.

    def receive(self, size: int) -> bytes:
        """Wait for bytes of a body, and return them.

        :raises OSError: the connection is broken.
        """
        clock = self.clock
        clock.waits_for_client = True
        try:
            while True:
                try:
                    return self.sock.recv(size)
                except WOULD_BLOCK:  # the application set its duplicate to non-blocking, and so ours
                    self._wait(select.POLLIN)
        except OSError:
            self.broken = True
            raise
        finally:
            clock.waits_for_client = False
            clock.last_progress = time.monotonic()

    def send(self, data: bytes | memoryview) -> int:
        """Send all of `data`, and return its length in bytes.

        :raises OSError: the connection is broken.
        """
        clock = self.clock
        clock.waits_for_client = True
        try:
            sent = self._send_some(data)
            if sent < len(data):
                view = memoryview(data)
                while sent < len(data):
                    sent += self._send_some(view[sent:])
        except OSError:
            self.broken = True
            raise
        finally:
            clock.waits_for_client = False
            clock.last_progress = time.monotonic()
        return sent

    def send_or_keep(self, data: bytes) -> None:
        """Send the last part of a response: keep what the client does not take in :attr:`unsent`, if there is room.

        :raises OSError: the connection is broken.
        """
        if self.unsent is None:
            try:
                sent = self.send_now(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.broken = True
                raise
            if sent == len(data):
                self.clock.last_progress = time.monotonic()
                return
            rest, unsent = memoryview(data)[sent:], Unsent()
            if unsent.add(rest):
                self.unsent = unsent
            else:
                self.send(rest)
        elif not self.unsent.add(data):
            self._send_unsent()
            self.send(data)

    sendall = send  #: for gunicorn, which sends "100 Continue" and early hints

    def send_file(self, file: Any, offset: int, count: int) -> None:
        """Send `count` bytes of `file` from `offset` on. Keep in :attr:`unsent` what the client does not take.

        :raises OSError: the connection is broken, or the file cannot be read.
        :raises ShorterFileError: the file has become shorter.
        """
        if self.unsent is not None:
            self.unsent.add_file(file, offset, count)
            return
        unsent = Unsent()
        unsent.add_file(file, offset, count)
        self.sock.setblocking(False)
        try:
            is_sent = unsent.send_all(self)
        except ShorterFileError:
            unsent.discard()
            raise
        except OSError:
            unsent.discard()
            self.broken = True
            raise
        finally:
            self.sock.setblocking(True)
            self.clock.last_progress = time.monotonic()
        if not is_sent:
            self.unsent = unsent

    def has_client_progress(self) -> bool:
        """Return whether the client has sent or taken anything since the last call."""
        try:
            counters = socket_queues.progress(self.sock)
        except (OSError, ValueError):
            return False
        before, self.clock.client_counters = self.clock.client_counters, counters
        return counters != before

    def _send_unsent(self) -> None:
        """Wait until the client has taken what was kept for it."""
        unsent, self.unsent = self.unsent, None
        self.clock.waits_for_client = True
        try:
            while unsent is not None and not unsent.send(self):
                self._wait(select.POLLOUT)
        except (OSError, ShorterFileError) as error:
            self.broken = isinstance(error, OSError)
            raise
        finally:
            self.clock.waits_for_client = False
            self.clock.last_progress = time.monotonic()
            if unsent is not None:
                unsent.discard()

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self.sock.send(data)
        except WOULD_BLOCK:  # as in receive()
            self._wait(select.POLLOUT)
            return 0

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.sock, event)
        poll.poll()

    def is_closed_by_client(self) -> bool:
        """Discard what has arrived, and return whether the client has closed the connection."""
        try:
            return not self.sock.recv(DISCARD_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a reset closes it, too
            return True
