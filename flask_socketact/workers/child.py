"""Processes that the application forks. They are not workers: they must neither serve nor count."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

from flask_socketact.bridge.children import end_child
from flask_socketact.http.client_socket import ClientSocket
from flask_socketact.linux.fork_signals import ForkSignals
from flask_socketact.shared.slot import private_slot

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker

#: The unpatched function: gevent's closes in its loop, which does not run in a child.
close_descriptor = os.close


class ForkHooks:
    """Fork hooks of one worker."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self._signals = ForkSignals(worker.handled_signals)

    def watch(self) -> None:
        """Install the hooks for all later forks."""
        os.register_at_fork(
            before=self._signals.hold, after_in_parent=self._signals.release, after_in_child=self._become_child
        )

    def _become_child(self) -> None:
        """Close what belongs to the worker, and restore the default signal handlers."""
        worker = self._worker
        worker.is_child = True
        ClientSocket.in_worker = False
        signal.set_wakeup_fd(-1)
        for number in worker.handled_signals:
            if getattr(signal.getsignal(number), "__self__", None) is worker:
                signal.signal(number, signal.SIG_DFL)
        self._signals.release()
        worker.slot = private_slot()
        for descriptor in worker.PIPE:
            close_descriptor(descriptor)
        if worker.mailbox is not None:
            worker.mailbox.listener.close()
        worker.close_in_child()

    def end_child(self, error: BaseException | None) -> NoReturn:
        """Exit a process that a view has forked, after its view returned or raised `error`.

        The parent responds to the client.
        """
        end_child(error, self._worker.log)
