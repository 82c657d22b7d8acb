"""gunicorn's own workers, with our drain and readiness."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.load import Load, ask
from tests.process.test_thread import exchange
from tests.process.test_worker import REQUEST, answer, in_drain
from tests.server import CONF, Server, dial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Folder

SYNC = "flask_socketact.workers.sync.SyncWorker"
GEVENT = "flask_socketact.workers.gevent.GeventWorker"
BOTH = pytest.mark.parametrize("worker", [SYNC, GEVENT])


@BOTH
def test_request_in_flight_is_answered(plain: Path, http: socket.socket, worker: str) -> None:
    arguments = (*CONF, "-w", "1", "-k", worker, "app:app")
    with Server(plain, *arguments, listeners={"web": http}) as server:
        first = json.loads(ask(lambda: dial(http))[1])
        assert (first["listener"], first["draining"]) == ("web", False)
        client = dial(http)
        client.sendall(REQUEST.replace(b"/", b"/sleep/1.0", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        server.process.terminate()
        received = answer(client)
        assert b"200 OK" in received
        assert b"Connection: close" in received
        assert b'"draining": true' in received
        client.close()
        assert server.wait_until_gone() == 0


@BOTH
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTTOU])
def test_nothing_is_lost_when_workers_are_replaced(
    plain: Path, http: socket.socket, worker: str, number: signal.Signals
) -> None:
    with Server(plain, *CONF, "-w", "3", "-k", worker, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with Load(lambda: dial(http), {"new connection": 4, "keep-alive": 4}) as load:
            server.wait_for(lambda: len(load.outcomes) > 50, "load")
            server.signal(number)
            server.wait_for_log("Worker exiting")
            seen = len(load.outcomes)
            server.wait_for(lambda: len(load.outcomes) > seen + 100, "load")
        assert not load.failures()


@BOTH
def test_nothing_is_lost_by_max_requests(plain: Path, http: socket.socket, worker: str) -> None:
    with Server(plain, *CONF, "--max-requests", "50", "-k", worker, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with Load(lambda: dial(http), {"new connection": 4, "keep-alive": 4}) as load:
            server.wait_for(lambda: server.log.count("Worker exiting") >= 4, "recycled workers")
        assert not load.failures()


@BOTH
def test_workers_without_a_master_finish_and_leave(plain: Path, http: socket.socket, worker: str) -> None:
    arguments = (*CONF, "-w", "1", "-k", worker, "app:app")
    with Server(plain, *arguments, listeners={"http": http}) as server, dial(http) as client:
        server.wait_until_ready()
        client.sendall(REQUEST.replace(b"/", b"/sleep/2.0", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        server.process.kill()
        assert b"200 OK" in client.recv(65536)
        server.wait_for(lambda: not server.workers(), "the worker to leave")


@BOTH
def test_application_that_leaves_while_it_is_imported(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder("raise SystemExit('no database')")
    with Server(app, *CONF, "-k", worker, "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() == 3
        assert "the application left with 'no database'" in server.log


@BOTH
def test_status_counts_requests_of_a_worker_that_drains(plain: Path, http: socket.socket, worker: str) -> None:
    arguments = (*CONF, "-w", "1", "-k", worker, "app:app")
    with Server(plain, *arguments, listeners={"http": http}) as server, dial(http) as client:
        (before,) = server.wait_until_ready().workers()
        client.sendall(REQUEST.replace(b"/", b"/sleep/3.0", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        os.kill(before, signal.SIGTERM)
        status = server.wait_for_message("STATUS=Serving with 1 of 1 workers")
        assert status.endswith("; 1 draining, with 1 requests in flight")
        assert json.loads(ask(lambda: dial(http))[1])["pid"] != before
        assert b"200 OK" in client.recv(65536)


def test_gevent_tells_idle_connections_to_close(plain: Path, http: socket.socket) -> None:
    arguments = (*CONF, "-w", "1", "-k", GEVENT, "app:app")
    with (
        Server(plain, *arguments, listeners={"http": http}) as server,
        dial(http) as client,
        dial(http) as idle,
        dial(http) as silent,
    ):
        server.wait_until_ready()
        for kept in (client, idle):
            exchange(kept)
        server.process.terminate()
        began = time.monotonic()
        server.wait_for(lambda: in_drain(http), "the worker to leave the listener alone")
        client.sendall(REQUEST)
        assert b"Connection: close" in answer(client)
        assert answer(idle) == b""
        assert answer(silent) == b""
        assert server.wait_until_gone() == 0
        assert time.monotonic() - began < 10  # and not the drain time, 30 s


def test_gevent_is_imported_by_its_worker_alone() -> None:
    program = "import sys, flask_socketact.conf, flask_socketact.workers.thread; assert 'gevent' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
