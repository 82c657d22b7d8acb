"""Processes that the application forks: none of them is a worker."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from flask_socketact.http.client_socket import ClientSocket
from flask_socketact.shared import scoreboard

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker

#: The real one: gevent's closes a descriptor later, by its loop, which a child has not.
close_descriptor = os.close


class Forks:
    """The forks of one worker."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self._forking = threading.local()  # the signals that a thread has blocked before it forked

    def watch(self) -> None:
        """See to every process that is forked from now on."""
        os.register_at_fork(
            before=self._hold_signals, after_in_parent=self._release_signals, after_in_child=self._become_child
        )

    def _hold_signals(self) -> None:
        """Let signals wait while the application forks: one that comes early is for the child, and not for our handlers
        in it (``multiprocessing.Process.terminate()``)."""
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._worker.handled_signals)

    def _release_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _become_child(self) -> None:
        """Be no worker any more: touch nothing that is the worker's, and take signals as any process."""
        worker = self._worker
        worker.is_child = True
        ClientSocket.in_worker = False
        signal.set_wakeup_fd(-1)
        for number in worker.handled_signals:
            if getattr(signal.getsignal(number), "__self__", None) is worker:
                signal.signal(number, signal.SIG_DFL)
        self._release_signals()
        worker.slot = scoreboard.private_slot()
        for descriptor in worker.PIPE:
            close_descriptor(descriptor)
        if worker.mailbox is not None:
            worker.mailbox.listener.close()
        worker.close_in_child()

    def end_child(self, error: BaseException | None) -> NoReturn:
        """End a process that the application has forked in a request, and in which its view has returned, or has raised
        `error`: its parent answers the client."""
        status = 0
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            status = 1
            self._worker.log.error("Error in a process that a view has forked (pid: %s)", os.getpid(), exc_info=error)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # none, or closed
                stream.flush()
        os._exit(status)
