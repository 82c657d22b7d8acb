"""Signals for a worker that has just been forked, and has no handlers of its own yet.

It has those of its master, which would put a signal into a copy of the master's queue that nothing reads. So signals
are blocked from just before the fork until handlers are there that remember them; not longer, because programs and
threads that a hook starts inherit what is blocked.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

from gunicorn.workers.base import Worker

#: What a worker may be sent.
_MESSAGES = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGURG, signal.SIGWINCH)


def block() -> None:
    """Let signals wait. Called just before the fork; the master unblocks them when it has forked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _MESSAGES)


def remember_for(worker: Worker) -> None:
    """Unblock signals, and send them to `worker` again when its own handlers are there. Called in its process."""
    init_signals = worker.init_signals
    pid = os.getpid()
    remembered: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (a signal handler)
        if os.getpid() == pid:
            remembered.append(number)
        else:  # a process that a hook has forked: no worker, and the signal is to end it
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def init_and_send() -> None:
        init_signals()
        for message, handler in inherited.items():
            if signal.getsignal(message) is remember:  # gunicorn's own workers have none for some
                signal.signal(message, handler)
        for number in remembered:
            signal.raise_signal(number)

    inherited = {number: signal.signal(number, remember) for number in _MESSAGES}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _MESSAGES)
    worker.init_signals = init_and_send
