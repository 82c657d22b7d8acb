"""The greenlet that reads the mailbox."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import gevent
from gevent.socket import wait_read

from flask_socketact.errors import MailboxError
from flask_socketact.handover import mailbox
from flask_socketact.linux import descriptors
from flask_socketact.workers.drain import DRAIN_POLL

if TYPE_CHECKING:
    from flask_socketact.workers.gevent import GeventWorker


class MailReader:
    """Takes over connections from the mailbox, until its worker begins to send its own."""

    def __init__(self, worker: GeventWorker) -> None:
        self._worker = worker
        self._greenlet: gevent.Greenlet | None = None
        self.is_reading = False  #: from one sender

    def start(self, box: mailbox.Mailbox) -> None:
        """Read the mailbox in a greenlet, if none does."""
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = gevent.spawn(self._read, box)

    def _read(self, box: mailbox.Mailbox) -> None:
        worker = self._worker
        while True:
            wait_read(box.listener.fileno())
            if worker.carrier.is_carrying:
                return
            if worker.board.is_superseded:
                gevent.sleep(DRAIN_POLL)
                continue
            if worker.is_full or not descriptors.has_room(box.listener.fileno()):
                gevent.sleep(descriptors.ACCEPT_PAUSE)
                continue
            try:
                sender = box.accept()
            except MailboxError as error:
                worker.log.warning("Mailbox: %s", error)
                continue
            except OSError as error:
                worker.log.warning("Mailbox: %s", error)
                gevent.sleep(descriptors.ACCEPT_PAUSE)
                continue
            if sender is not None:
                self._read_sender(sender)

    def _read_sender(self, sender: socket.socket) -> None:
        """Take over the connections of one sender."""
        worker = self._worker
        self.is_reading = True
        try:
            while message := self._receive(sender):
                for client in worker.take_over(*message):
                    worker.serve_carried(client)
        except (MailboxError, OSError) as error:
            worker.log.warning("Mailbox: %s", error)
        except Exception:
            worker.log.exception("Unexpected error with the mailbox")
        finally:
            sender.close()
            self.is_reading = False

    @staticmethod
    def _receive(sender: socket.socket) -> tuple[mailbox.Origin, list[socket.socket], list[str]] | None:
        while True:
            try:
                return mailbox.receive(sender)
            except BlockingIOError:
                wait_read(sender.fileno(), timeout=mailbox.SENDER_TIMEOUT)
