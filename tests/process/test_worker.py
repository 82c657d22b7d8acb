"""A worker serves all requests that it has accepted, also in a drain."""

from __future__ import annotations

import select
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from flask_socketact.linux import socket_queues
from tests.chaos import clock
from tests.support.http import ONE_WORKER, REQUEST, answer, ask, in_drain
from tests.support.load import Load
from tests.support.releases import WORKERS
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from pathlib import Path


def test_request_in_flight_is_finished(plain: Path, http: socket.socket) -> None:
    with Server(plain, *ONE_WORKER, listeners={"http": http}) as server, dial(http) as client:
        server.wait_until_ready()
        client.sendall(REQUEST.replace(b"/", b"/sleep/1.0", 1))
        assert ask(lambda: dial(http))[0] == 200  # so the other connection has been accepted
        server.process.terminate()
        received = answer(client)
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in received
        assert server.wait_until_gone() == 0


def test_silent_connection_is_served_during_the_drain(plain: Path, http: socket.socket) -> None:
    """It was accepted, but had sent nothing when the drain began."""
    with Server(plain, *ONE_WORKER, listeners={"http": http}) as server, dial(http) as silent:
        server.wait_until_ready()
        assert ask(lambda: dial(http))[0] == 200
        server.process.terminate()
        server.wait_for(lambda: in_drain(http), "the worker to stop accepting")
        silent.sendall(REQUEST)
        assert b"Connection: close" in answer(silent)
        assert server.wait_until_gone() == 0


def test_silent_connections_hold_neither_threads_nor_the_drain(plain: Path, http: socket.socket) -> None:
    with Server(plain, *ONE_WORKER, listeners={"http": http}) as server:
        server.wait_until_ready()
        silent = [dial(http) for _ in range(20)]
        began = time.monotonic()
        assert ask(lambda: dial(http))[0] == 200
        assert time.monotonic() - began < 2
        server.process.terminate()
        assert server.wait_until_gone(8) == 0
        for client in silent:
            assert client.recv(1) == b""
            client.close()


def test_idle_keep_alive_connection_is_told_to_close(plain: Path, http: socket.socket) -> None:
    with Server(plain, *ONE_WORKER, listeners={"http": http}) as server, dial(http) as client:
        server.wait_until_ready()
        client.sendall(REQUEST)
        assert b"Connection: keep-alive" in client.recv(65536)
        server.process.terminate()
        server.wait_for(lambda: in_drain(http), "the worker to stop accepting")
        client.sendall(REQUEST)
        received = answer(client)
        assert b"Connection: close" in received
        assert b'"draining": true' in received
        assert server.wait_until_gone() == 0


def test_client_that_does_not_close_delays_no_other(plain: Path, http: socket.socket) -> None:
    """gthread's loop waits two seconds for each of them."""
    with Server(plain, *ONE_WORKER, listeners={"http": http}) as server:
        server.wait_until_ready()
        stubborn = [dial(http) for _ in range(10)]
        for client in stubborn:
            client.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert b"Connection: close" in answer(client)
        began = time.monotonic()
        assert ask(lambda: dial(http))[0] == 200
        assert time.monotonic() - began < 2
        server.process.terminate()
        assert server.wait_until_gone(6) == 0
        for client in stubborn:
            client.close()


def test_new_connection_has_time_for_its_first_byte(plain: Path, http: socket.socket) -> None:
    with Server(plain, *CONF, "--keep-alive", "0", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        for _ in range(10):
            with dial(http) as client:
                time.sleep(0.02)  # no condition to wait for: the worker must not act
                client.sendall(REQUEST)
                assert b"200 OK" in answer(client)


def test_drain_leaves_queued_connections_to_others(plain: Path, http: socket.socket) -> None:
    """The next generation accepts what this one has not."""
    with Server(plain, *ONE_WORKER, listeners={"http": http}) as server, dial(http) as first:
        server.wait_until_ready()
        first.sendall(REQUEST.replace(b"/", b"/sleep/1.0", 1))
        assert ask(lambda: dial(http))[0] == 200  # so the other connection has been accepted
        server.process.terminate()
        server.wait_for(lambda: in_drain(http), "the worker to stop accepting")
        waiting = dial(http)
        waiting.sendall(REQUEST)
        assert b"200 OK" in answer(first)
        assert server.wait_until_gone() == 0
    with waiting, Server(plain, *ONE_WORKER, listeners={"http": http}) as server:
        assert b"200 OK" in waiting.recv(65536)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_clock_that_is_set_in_a_stop_cuts_no_request_off(
    plain: Path, http: socket.socket, tmp_path: Path, worker: str
) -> None:
    """gunicorn's master measures the drain time by the wall clock."""
    library, file = tmp_path / "clock.so", tmp_path / "clock"
    clock.build(library)
    clock.set_wrong(file, 0)
    arguments = (*CONF, "-w", "1", "-k", f"flask_socketact.workers.{worker}", "app:app")
    environ = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(file)}
    with Server(plain, *arguments, listeners={"http": http}, environ=environ) as server:
        server.wait_until_ready()
        with dial(http) as client:
            client.sendall(REQUEST.replace(b"/", b"/sleep/4.0", 1))
            server.wait_for(lambda: socket_queues.length(http) == 0, "the worker to accept")
            server.process.terminate()
            server.wait_for(lambda: "Handling signal: term" in server.log, "the stop")
            clock.set_wrong(file, 3600)
            assert answer(client).startswith(b"HTTP/1.1 200 OK")
        assert server.wait_until_gone() == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTTOU])
def test_nothing_is_lost_when_workers_are_replaced(plain: Path, http: socket.socket, number: signal.Signals) -> None:
    with Server(plain, *CONF, "--workers", "3", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with Load(lambda: dial(http), {"new connection": 4, "keep-alive": 4}) as load:
            server.wait_for(lambda: load.requests > 50, "load")
            server.signal(number)
            seen = load.requests
            server.wait_for_log("Worker exiting")
            server.wait_for(lambda: load.requests > seen + 200, "load")
        assert not load.failures()


def test_nothing_is_lost_by_max_requests(plain: Path, http: socket.socket) -> None:
    with Server(plain, *CONF, "--max-requests", "50", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with Load(lambda: dial(http), {"new connection": 4, "keep-alive": 4}) as load:
            server.wait_for(lambda: server.log.count("Worker exiting") >= 4, "recycled workers")
        assert not load.failures()


def test_workers_without_a_master_finish_and_exit(plain: Path, http: socket.socket) -> None:
    with Server(plain, *ONE_WORKER, listeners={"http": http}) as server, dial(http) as client:
        server.wait_until_ready()
        client.sendall(REQUEST.replace(b"/", b"/sleep/2.0", 1))
        assert ask(lambda: dial(http))[0] == 200
        server.process.kill()
        assert b"200 OK" in client.recv(65536)
        client.close()
        server.wait_for(lambda: not server.workers(), "the worker to exit")


def test_busy_worker_leaves_connections_to_a_free_one(plain: Path, http: socket.socket) -> None:
    with Server(plain, *CONF, "--workers", "2", "--threads", "1", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with dial(http) as busy:
            busy.sendall(REQUEST.replace(b"/", b"/sleep/5.0", 1))
            server.wait_for((plain / "asleep").exists, "one worker to be busy")
            assert {ask(lambda: dial(http))[0] for _ in range(20)} == {200}
            assert select.select([busy], [], [], 0)[0] == []
            assert b"200 OK" in busy.recv(65536)


def test_too_many_connections_stop_no_worker(plain: Path, http: socket.socket) -> None:
    """At the limit of descriptors, connected clients are served; the others wait in the queue."""
    (plain / "settings.py").write_text(
        "from flask_socketact.conf import *\n"
        "import resource\n"
        "def post_worker_init(worker): resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
    )
    with (
        Server(plain, "-c", "settings.py", "-w", "1", "app:app", listeners={"http": http}) as server,
        dial(http) as kept,
    ):
        worker = server.wait_until_ready().workers()
        kept.sendall(REQUEST)
        assert b"200 OK" in kept.recv(65536)
        silent = [dial(http) for _ in range(60)]
        server.wait_for_log("Cannot accept a connection (Too many open files)")
        kept.sendall(REQUEST)
        assert b"200 OK" in kept.recv(65536)
        for client in silent:
            client.close()
        assert ask(lambda: dial(http))[0] == 200
        assert server.workers() == worker
