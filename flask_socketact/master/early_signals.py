"""Signals to a worker that was just forked, and has not installed its handlers yet.

It still has the master's handlers, which would put a signal into a copy of the master's queue that no process reads. So
signals are blocked from just before the fork until handlers are installed that remember them; not longer, because child
processes and threads that a hook starts inherit the blocked signals.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

from gunicorn.workers.base import Worker

from flask_socketact.handover import protocol

#: What the master sends to workers.
_MESSAGES = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, protocol.REOPEN, protocol.DRAIN, protocol.STOP)


def block() -> None:
    """Block the signals. Called just before the fork; the master unblocks them after it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _MESSAGES)


def remember_for(worker: Worker) -> None:
    """Unblock the signals, and raise them again when `worker` has installed its own handlers. Called in its process."""
    init_signals = worker.init_signals
    pid = os.getpid()
    remembered: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (a signal handler)
        if os.getpid() == pid:
            remembered.append(number)
        else:  # a process that a hook has forked: the signal must end it
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def init_and_send() -> None:
        init_signals()
        for message, handler in inherited.items():
            if signal.getsignal(message) is remember:  # gunicorn's own workers have no handler for some
                signal.signal(message, handler)
        for number in remembered:
            signal.raise_signal(number)

    inherited = {number: signal.signal(number, remember) for number in _MESSAGES}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _MESSAGES)
    worker.init_signals = init_and_send
