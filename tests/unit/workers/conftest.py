"""A real thread worker in the process of the test, with real sockets."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.http.connection import Connection
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Field
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.leader import ThreadPool
from flask_socketact.workers.thread import ThreadWorker
from tests.support import server
from tests.support.control_groups import ControlGroups

DRAIN_TIME = 30


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """The error log of the worker."""
    return tmp_path / "error.log"


@pytest.fixture
def cfg(log_file: Path) -> Config:
    cfg = Config()
    cfg.set("errorlog", str(log_file))
    cfg.set("graceful_timeout", DRAIN_TIME)
    cfg.set("threads", 2)
    cfg.set("keepalive", 5)
    return cfg


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Mailbox]:
    """A mailbox."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "mailbox"))
        listener.listen(64)
        yield Mailbox(listener)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with server.tcp() as listener:
        yield listener


@pytest.fixture
def worker(cfg: Config, listener: socket.socket, box: Mailbox) -> Iterator[ThreadWorker]:
    """A worker with a listener and a mailbox, the only one of its master."""
    worker = ThreadWorker(1, os.getppid(), [listener], None, 30, cfg, Logger(cfg))
    worker.board = Scoreboard()
    worker.slot = worker.board.take(1, cfg.threads)
    worker.slot[Field.PID] = os.getpid()
    worker.mailbox = box
    worker.PIPE = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield worker
    for handler in worker.log.error_log.handlers[:]:
        handler.close()
        worker.log.error_log.removeHandler(handler)
    worker.tmp.close()
    for end in worker.PIPE:
        os.close(end)


@pytest.fixture
def loop(worker: ThreadWorker) -> Iterator[Loop]:
    """The connection loop of the worker; no thread runs it."""
    worker.loop = loop = Loop(worker)
    yield loop
    for connection in list(loop.connections):
        loop.close(connection)
    loop.epoll.close()
    os.close(loop._wakeup)


Dial = Callable[[], tuple[socket.socket, Connection]]


@pytest.fixture
def dial(loop: Loop) -> Iterator[Dial]:
    """Connect a client, and return it with its connection in the loop, which waits for a request."""
    with ExitStack() as clients, server.tcp() as other:

        def dial() -> tuple[socket.socket, Connection]:
            client = clients.enter_context(server.dial(other))
            end, address = other.accept()
            connection = loop.adopt(end, address, other.getsockname(), None)
            loop.set_deadline(connection, begun=False)
            loop.rejoin(connection)
            return client, connection

        yield dial


@pytest.fixture
def pool(worker: ThreadWorker, loop: Loop) -> Iterator[Callable[[Callable[..., Any]], ThreadPool]]:
    """Start the threads of the worker, with an application."""
    started: list[ThreadPool] = []

    def start(application: Callable[..., Any]) -> ThreadPool:
        worker.wsgi = application
        pool = ThreadPool(worker)
        worker._pool = pool
        pool.start(worker.cfg.threads)
        started.append(pool)
        return pool

    yield start
    worker.mailbox, worker.alive = None, False
    with loop.lock:
        for connection in list(loop.connections):
            loop.close(connection)
    for each in started:
        loop.wake()
        each.threads[0].handle.join(0.2)  # the leader finds the drain complete
        while any(thread.handle.is_alive() for thread in each.threads):
            each._promotions.put(None)
            for thread in each.threads:
                thread.handle.join(0.05)
        os.close(each.alarm.fileno())


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlGroups:
    """Control groups in a folder; the process of the test is in the service."""
    return ControlGroups(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def propagating() -> Iterator[None]:
    """Let caplog see what gunicorn's logger writes."""
    log = logging.getLogger("gunicorn.error")
    before = log.propagate
    log.propagate = True
    yield
    log.propagate = before


def wait(event: threading.Event) -> None:
    """Wait for another thread."""
    assert event.wait(10)
