"""gunicorn's own workers, with our drain and readiness."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

from flask_socketact.workers.drain import LINGER
from tests.support.http import REQUEST, answer, ask, certificate, connect_and_reset, exchange, in_drain
from tests.support.load import Load
from tests.support.server import CONF, Server, dial, tcp

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Folder

SYNC = "flask_socketact.workers.sync.SyncWorker"
GEVENT = "flask_socketact.workers.gevent.GeventWorker"
BOTH = pytest.mark.parametrize("worker", [SYNC, GEVENT])


@BOTH
def test_request_in_flight_is_finished(plain: Path, http: socket.socket, worker: str) -> None:
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
        began = time.monotonic()
        assert server.wait_until_gone() == 0
        assert time.monotonic() - began < LINGER  # without connections it does not wait


@BOTH
def test_several_listeners_after_the_master_has_exited(plain: Path, http: socket.socket, worker: str) -> None:
    """A relay may be the reason: the worker serves until it knows. gunicorn's loop with several listeners would end."""
    with tcp() as other:
        arguments = (*CONF, "-w", "1", "-k", worker, "app:app")
        with Server(plain, *arguments, listeners={"web": http, "other": other}) as server:
            server.wait_until_ready()
            server.process.kill()
            for listener in (http, other) * 3:
                assert ask(partial(dial, listener))[0] == 200
            server.wait_for_log("The master has died: this worker drains")
            assert "Parent changed" not in server.log
            server.wait_for(lambda: not server.processes(), "the worker to exit")


@BOTH
def test_gunicorns_own_master(plain: Path, http: socket.socket, worker: str) -> None:
    """It has no scoreboard, and no names of listeners."""
    with Server(plain, "-w", "1", "-k", worker, "app:app", listeners={"web": http}) as server:
        first = json.loads(ask(lambda: dial(http))[1])
        assert (first["listener"], first["draining"]) == (None, False)
        client = dial(http)
        client.sendall(REQUEST.replace(b"/", b"/sleep/1.0", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        server.process.terminate()
        assert b"Connection: close" in answer(client)
        client.close()
        assert server.wait_until_gone() == 0
        assert "Traceback" not in server.log


@BOTH
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTTOU])
def test_nothing_is_lost_when_workers_are_replaced(
    plain: Path, http: socket.socket, worker: str, number: signal.Signals
) -> None:
    with Server(plain, *CONF, "-w", "3", "-k", worker, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with Load(lambda: dial(http), {"new connection": 4, "keep-alive": 4}) as load:
            server.wait_for(lambda: load.requests > 50, "load")
            server.signal(number)
            server.wait_for_log("Worker exiting")
            seen = load.requests
            server.wait_for(lambda: load.requests > seen + 100, "load")
        assert not load.failures()


@BOTH
def test_nothing_is_lost_by_max_requests(plain: Path, http: socket.socket, worker: str) -> None:
    with Server(plain, *CONF, "--max-requests", "50", "-k", worker, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with Load(lambda: dial(http), {"new connection": 4, "keep-alive": 4}) as load:
            server.wait_for(lambda: server.log.count("Worker exiting") >= 4, "recycled workers")
        assert not load.failures()


@BOTH
def test_replacement_does_not_wait_for_the_last_response(plain: Path, http: socket.socket, worker: str) -> None:
    arguments = (*CONF, "-w", "1", "--max-requests", "1", "-k", worker, "app:app")
    with Server(plain, *arguments, listeners={"http": http}) as server, dial(http) as client:
        (before,) = server.wait_until_ready().workers()
        client.sendall(REQUEST.replace(b"/", b"/sleep/5.0", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        server.wait_for(lambda: json.loads(ask(lambda: dial(http))[1])["pid"] != before, "a response of another worker")
        assert select.select([client], [], [], 0)[0] == []
        assert b"200 OK" in client.recv(65536)


@BOTH
def test_workers_without_a_master_finish_and_exit(plain: Path, http: socket.socket, worker: str) -> None:
    arguments = (*CONF, "-w", "1", "-k", worker, "app:app")
    with Server(plain, *arguments, listeners={"http": http}) as server, dial(http) as client:
        server.wait_until_ready()
        client.sendall(REQUEST.replace(b"/", b"/sleep/2.0", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        server.process.kill()
        assert b"200 OK" in client.recv(65536)
        server.wait_for(lambda: not server.workers(), "the worker to exit")


@BOTH
def test_application_that_exits_while_it_is_imported(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder("raise SystemExit('no database')")
    with Server(app, *CONF, "-k", worker, "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() == 3
        assert "the application called sys.exit('no database')" in server.log


@BOTH
def test_status_counts_requests_of_a_draining_worker(plain: Path, http: socket.socket, worker: str) -> None:
    arguments = (*CONF, "-w", "1", "-k", worker, "app:app")
    with Server(plain, *arguments, listeners={"http": http}) as server, dial(http) as client:
        (before,) = server.wait_until_ready().workers()
        client.sendall(REQUEST.replace(b"/", b"/sleep/3.0", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        os.kill(before, signal.SIGTERM)
        draining = "; draining: generation 1, 1 requests in flight"
        server.wait_for(lambda: server.wait_for_message("STATUS=Serving with 1 of 1").endswith(draining), draining)
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
        server.wait_for(lambda: in_drain(http), "the worker to stop accepting")
        client.sendall(REQUEST)
        assert b"Connection: close" in answer(client)
        assert answer(idle) == b""
        assert answer(silent) == b""
        assert server.wait_until_gone() == 0
        assert time.monotonic() - began < 10  # and not the drain time, 30 s
        assert "Traceback" not in server.log


def test_gevent_tls_in_the_drain(plain: Path, http: socket.socket) -> None:
    """A handshake after the drain has begun succeeds, and its request is served; idle connections end without error."""
    arguments = (*CONF, "-w", "1", "-k", GEVENT, *certificate(plain), "app:app")
    context = ssl.create_default_context(cafile=str(plain / "cert.pem"))
    with (
        Server(plain, *arguments, listeners={"http": http}) as server,
        context.wrap_socket(dial(http), server_hostname="localhost") as idle,
        dial(http) as silent,
        dial(http) as late,
    ):
        server.wait_until_ready()
        exchange(idle)
        server.wait_for(lambda: not select.select([http], [], [], 0)[0], "the worker to accept")
        server.process.terminate()
        server.wait_for(lambda: in_drain(http), "the worker to stop accepting")
        with context.wrap_socket(late, server_hostname="localhost") as client:
            client.sendall(REQUEST)
            received = answer(client)
        assert b"200 OK" in received
        assert b"Connection: close" in received
        assert answer(idle) == b""
        assert answer(silent) == b""
        assert server.wait_until_gone(10) == 0
        assert "Traceback" not in server.log


def test_gevent_clients_that_disconnect_before_the_handshake(plain: Path, http: socket.socket) -> None:
    arguments = (*CONF, "-w", "1", "-k", GEVENT, *certificate(plain), "app:app")
    context = ssl.create_default_context(cafile=str(plain / "cert.pem"))
    with Server(plain, *arguments, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        for _ in range(50):
            connect_and_reset(http)
        with context.wrap_socket(dial(http), server_hostname="localhost") as good:
            exchange(good)
        assert server.workers() == before
        assert "Traceback" not in server.log


def test_gevent_http2_request_in_flight_is_finished(folder: Folder, http: socket.socket) -> None:
    """Its body continues after the linger time."""
    app = folder(
        """
        def app(environ, start_response):
            open("begun", "w").close()
            length = len(environ["wsgi.input"].read())
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"%d" % length]
        """
    )
    http2 = ("--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge")
    arguments = (*CONF, "-w", "1", "-k", GEVENT, *http2, "app:app")
    with Server(app, *arguments, listeners={"http": http}) as server, dial(http) as client:
        (before,) = server.wait_until_ready().workers()
        protocol = H2Connection()
        protocol.initiate_connection()
        headers = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "app")]
        protocol.send_headers(1, headers)
        client.sendall(protocol.data_to_send())
        server.wait_for((app / "begun").exists, "the view to run")
        os.kill(before, signal.SIGTERM)
        began = time.monotonic()
        draining = "; draining: generation 1, 1 requests in flight"
        server.wait_for(lambda: server.wait_for_message("STATUS=Serving with 1 of 1").endswith(draining), draining)
        sent = 0
        while time.monotonic() - began < LINGER + 0.5:
            protocol.send_data(1, b"x")
            client.sendall(protocol.data_to_send())
            sent += 1
            time.sleep(0.1)  # a slow client
        protocol.end_stream(1)
        client.sendall(protocol.data_to_send())
        content, ended = b"", False
        while not ended:
            data = client.recv(65536)
            assert data
            for event in protocol.receive_data(data):
                content += event.data if isinstance(event, DataReceived) else b""
                ended = ended or isinstance(event, StreamEnded)
        assert content == str(sent).encode()


def test_gevent_serves_connections_accepted_as_the_drain_begins(folder: Folder, http: socket.socket) -> None:
    """While the view blocks the loop, `late` connects, `kept` sends a request, and the drain begins, all seen in one
    turn of the loop."""
    app = folder(
        """
        import os
        from gevent.monkey import get_original
        sleep = get_original("time", "sleep")

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/block":
                open("blocked", "w").close()
                while not os.path.exists("go"):
                    sleep(0.01)
            start_response("200 OK", [("Content-Length", "2")])
            return [b"{}"]
        """
    )
    arguments = (*CONF, "-w", "1", "-k", GEVENT, "app:app")
    with (
        Server(app, *arguments, listeners={"http": http}) as server,
        dial(http) as kept,
        dial(http) as blocking,
    ):
        (worker,) = server.wait_until_ready().workers()
        exchange(kept)
        blocking.sendall(REQUEST.replace(b"/", b"/block", 1))
        server.wait_for((app / "blocked").exists, "the view to run")
        with dial(http) as late:
            late.sendall(REQUEST)
            kept.sendall(REQUEST)
            os.kill(worker, signal.SIGTERM)
            (app / "go").touch()
            assert b"200 OK" in late.recv(65536)
        assert b"200 OK" in kept.recv(65536)


def test_only_the_gevent_worker_imports_gevent() -> None:
    program = "import sys, flask_socketact.conf, flask_socketact.workers.thread; assert 'gevent' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
