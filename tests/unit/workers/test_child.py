"""A process that the application forks is no worker. Each test forks in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_socketact.shared.slot import Field
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.thread import ThreadWorker
from tests.support.child import in_child
from tests.unit.workers.conftest import Dial


def in_child_of_worker(worker: ThreadWorker, function: Callable[[], None]) -> int:
    """Run `function` in a process that a worker forks; return its exit status."""
    status = []

    def run() -> None:
        signal.signal(signal.SIGTERM, worker.handle_exit)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        worker.fork_hooks.watch()
        status.append(in_child(function))
        os._exit(100 if status[0] < 0 else status[0])

    return in_child(run)


def test_a_child_counts_nothing_for_the_worker(worker: ThreadWorker) -> None:
    def run() -> None:
        assert worker.is_child
        worker.slot[Field.REQUESTS] += 1

    assert in_child_of_worker(worker, run) == 0
    assert worker.slot[Field.REQUESTS] == 0


def test_a_child_has_no_signal_handler_of_the_worker(worker: ThreadWorker) -> None:
    def run() -> None:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN  # the application's
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert in_child_of_worker(worker, run) == 0


def test_a_child_is_ended_by_sigterm(worker: ThreadWorker) -> None:
    assert in_child_of_worker(worker, lambda: os.kill(os.getpid(), signal.SIGTERM)) == 100


def test_a_child_has_none_of_the_worker_s_sockets(worker: ThreadWorker, loop: Loop, dial: Dial) -> None:
    """A client would wait for it to close its connection, and systemd for it to leave the port."""
    _, connection = dial()
    worker._threads = None
    closed = [worker.PIPE[0], worker.PIPE[1], worker.sockets[0].fileno(), worker.mailbox.listener.fileno()]  # type: ignore[union-attr]

    def run() -> None:
        for descriptor in closed:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
        loop.close_in_child()
        assert connection.sock.fileno() == -1

    assert in_child_of_worker(worker, run) == 0


def test_the_worker_keeps_its_signals_and_sockets(worker: ThreadWorker) -> None:
    def run() -> None:
        signal.signal(signal.SIGTERM, worker.handle_exit)
        worker.fork_hooks.watch()
        assert in_child(lambda: None) == 0
        assert signal.getsignal(signal.SIGTERM) == worker.handle_exit
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        os.fstat(worker.sockets[0].fileno())
        assert not worker.is_child

    assert in_child(run) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 0), (SystemExit(), 0), (SystemExit(7), 7), (SystemExit("text"), 1), (ValueError("of a view"), 1)],
)
def test_a_view_that_has_forked_ends_its_child(
    worker: ThreadWorker, log_file: Path, error: BaseException | None, status: int
) -> None:
    assert in_child(lambda: worker.fork_hooks.end_child(error)) == status
    assert ("of a view" in log_file.read_text()) == isinstance(error, ValueError)
