"""Requests without progress; with a clock of the test, and real sockets."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest
from gunicorn.config import Config

from flask_socketact.http.connection import Connection
from flask_socketact.shared.slot import Field
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.lasting import RequestThread
from flask_socketact.workers.supervisor import watch_requests
from flask_socketact.workers.thread import ThreadWorker
from tests.support.control_groups import SERVICE, SLICE, ControlGroups
from tests.unit.workers.conftest import Dial

NOW = 1000.0
TIMEOUT = 30  #: of the worker


def idle() -> RequestThread:
    """Return a thread without a request."""
    thread = RequestThread()
    thread.handle = threading.current_thread()
    return thread


def busy(connection: Connection, since: float, progress: float | None = None, **clock: Any) -> RequestThread:
    """Return a thread in a request that began `since` seconds ago, with progress `progress` seconds ago."""
    thread = idle()
    thread.connection = connection
    connection.clock.began = NOW - since
    connection.clock.last_progress = NOW - (since if progress is None else progress)
    for name, value in clock.items():
        setattr(connection.clock, name, value)
    return thread


def seconds(worker: ThreadWorker, field: Field) -> float:
    return worker.slot[field] / 1e9


@pytest.fixture
def connections(dial: Dial) -> list[tuple[socket.socket, Connection]]:
    return [dial() for _ in range(2)]


@pytest.fixture(autouse=True)
def timeout(cfg: Config) -> None:
    cfg.set("timeout", TIMEOUT)


def test_without_requests_nothing_is_old(worker: ThreadWorker) -> None:
    watch_requests(worker, [idle(), idle()], NOW)
    assert (seconds(worker, Field.OLDEST), seconds(worker, Field.PROGRESS)) == (0.0, NOW)


def test_a_thread_that_is_free_is_progress(
    worker: ThreadWorker, connections: list[tuple[socket.socket, Connection]]
) -> None:
    (_, connection), _ = connections
    watch_requests(worker, [busy(connection, since=20), idle()], NOW)
    assert (seconds(worker, Field.OLDEST), seconds(worker, Field.PROGRESS)) == (NOW - 20, NOW)


def test_the_request_that_has_moved_last_counts(
    worker: ThreadWorker, connections: list[tuple[socket.socket, Connection]]
) -> None:
    (_, first), (_, second) = connections
    threads = [busy(first, since=20, progress=3), busy(second, since=25, progress=10)]
    watch_requests(worker, threads, NOW)
    assert (seconds(worker, Field.OLDEST), seconds(worker, Field.PROGRESS)) == (NOW - 25, NOW - 3)
    assert worker.alive


def test_a_client_that_is_waited_for_is_no_lack_of_progress(
    worker: ThreadWorker, connections: list[tuple[socket.socket, Connection]]
) -> None:
    (_, connection), _ = connections
    watch_requests(worker, [busy(connection, since=20, waits_for_client=True)], NOW)
    assert seconds(worker, Field.PROGRESS) == NOW


def test_a_request_that_runs_too_long_is_reported_once_and_the_worker_replaced(
    worker: ThreadWorker, connections: list[tuple[socket.socket, Connection]], caplog: pytest.LogCaptureFixture
) -> None:
    (client, connection), _ = connections
    thread = busy(connection, since=TIMEOUT + 1)
    for _ in range(2):
        watch_requests(worker, [thread], NOW)
    assert not worker.alive
    (record,) = (record for record in caplog.records if record.levelname == "CRITICAL")
    assert f"timeout = {TIMEOUT} s" in record.getMessage()
    assert "in test_a_request_that_runs_too_long" in record.getMessage()  # where it is
    client.setblocking(False)
    with pytest.raises(BlockingIOError):  # its response may still come
        client.recv(1)


def test_a_request_at_its_limit_is_left_alone(
    worker: ThreadWorker, connections: list[tuple[socket.socket, Connection]], cfg: Config
) -> None:
    (_, connection), (_, other) = connections
    watch_requests(worker, [busy(connection, since=TIMEOUT)], NOW)
    assert worker.alive
    cfg.set("timeout", 0)  # there is none
    watch_requests(worker, [busy(other, since=10_000)], NOW + 10_000)
    assert worker.alive


def test_a_relayed_worker_is_not_replaced(
    worker: ThreadWorker,
    connections: list[tuple[socket.socket, Connection]],
    groups: ControlGroups,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has no master to fork another."""
    (_, connection), _ = connections
    worker.cgroup = SERVICE
    groups.add_process(os.getpid(), f"{SLICE}/app-drain-1-2.scope")
    watch_requests(worker, [busy(connection, since=TIMEOUT + 1)], NOW)
    assert worker.alive
    assert "CRITICAL" in caplog.text


def test_a_client_that_does_not_move_is_cut_off(
    worker: ThreadWorker, connections: list[tuple[socket.socket, Connection]]
) -> None:
    (client, connection), _ = connections
    thread = busy(connection, since=TIMEOUT + 1, waits_for_client=True)
    watch_requests(worker, [thread], NOW)  # looks at the client for the first time, which counts as progress
    assert connection.clock.last_progress == NOW
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    watch_requests(worker, [thread], NOW + TIMEOUT + 1)
    client.settimeout(10)
    assert client.recv(1) == b""
    assert worker.alive


def test_a_client_that_sends_slowly_is_not_cut_off(
    worker: ThreadWorker, connections: list[tuple[socket.socket, Connection]]
) -> None:
    (client, connection), _ = connections
    thread = busy(connection, since=TIMEOUT + 1, waits_for_client=True)
    watch_requests(worker, [thread], NOW)
    client.sendall(b"x")
    connection.sock.settimeout(10)
    assert connection.sock.recv(1) == b"x"
    watch_requests(worker, [thread], NOW + TIMEOUT + 1)
    assert connection.clock.last_progress == NOW + TIMEOUT + 1
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)


def test_a_connection_that_has_just_ended_is_no_error(
    worker: ThreadWorker, loop: Loop, connections: list[tuple[socket.socket, Connection]]
) -> None:
    (_, connection), _ = connections
    thread = busy(connection, since=TIMEOUT + 1, waits_for_client=True)
    loop.close(connection)
    watch_requests(worker, [thread], NOW)
    assert worker.alive
