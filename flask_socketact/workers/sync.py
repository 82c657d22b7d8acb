"""gunicorn's sync worker as a service of systemd: one request at a time."""

from __future__ import annotations

from typing import Any

from gunicorn.workers import sync

from flask_socketact.workers.classic import ClassicWorker
from flask_socketact.workers.lifecycle import HEARTBEAT


class SyncWorker(ClassicWorker, sync.SyncWorker):
    """One request at a time, without keep-alive: ``-k flask_socketact.workers.sync.SyncWorker``.

    A client that is slow to send or to take blocks the worker, as it does gunicorn's: put a proxy in front.
    """

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
