"""gunicorn's sync worker as a service of systemd: one request at a time."""

from __future__ import annotations

import errno
import time
from typing import Any

from gunicorn.workers import sync

from flask_socketact.workers.classic import ClassicWorker
from flask_socketact.workers.lifecycle import HEARTBEAT

#: What gunicorn's loop takes for an empty queue; anything else would end the worker.
_NONE_WAITS = (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK)
#: After an error in accept(2), in seconds.
PAUSE = 0.1


class SyncWorker(ClassicWorker, sync.SyncWorker):
    """One request at a time, without keep-alive: ``-k flask_socketact.workers.sync.SyncWorker``.

    A client that is slow to send or to take blocks the worker, as it does gunicorn's: put a proxy in front.
    """

    def run(self) -> None:
        while self.alive:
            try:
                super().run()
            except BaseException:  # noqa: BLE001 (the worker goes on, whatever it is)
                self.note_failure()
            else:
                return  # the master has died

    def accept(self, listener: Any) -> None:
        """Accept a connection, and serve it; without a descriptor for it leave it in the queue for a while."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno in _NONE_WAITS:
                raise  # gunicorn waits for the next one
            self.log.error("Cannot accept a connection (%s)", error.strerror or error)
            time.sleep(PAUSE)

    def wait(self, timeout: float) -> Any:
        """Wait for a connection; not as long as gunicorn does, whose idle workers give a sign of life
        every ``timeout / 2`` seconds."""
        return super().wait(min(timeout, HEARTBEAT))

    def notify(self) -> None:
        """Tell the master that the worker lives, and see that the master does: under
        load gunicorn's loop never comes to look."""
        super().notify()
        self.reopen_files()
        self.beat()
        self.is_parent_alive()
