"""The loop of the thread worker: which connections get a thread, and for how long."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.http import (
    HALF,
    ONE_WORKER,
    REQUEST,
    answer,
    answer_over_tls,
    ask,
    certificate,
    connect_and_reset,
    exchange,
    in_drain,
)
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Folder


def test_never_more_requests_at_once_than_threads(folder: Folder, http: socket.socket) -> None:
    app = folder(
        """
        import threading, time

        running = most = 0
        lock = threading.Lock()

        def app(environ, start_response):
            global running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            with lock:
                running -= 1
            start_response("200 OK", [("Content-Length", "1")])
            return [b"%d" % most]
        """
    )
    with Server(app, *ONE_WORKER, "--threads", "3", listeners={"http": http}) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: ask(lambda: dial(http)), range(60)))
    assert max(answers) == (200, b"3")


def test_followers_are_promoted(plain: Path, http: socket.socket) -> None:
    """The leader is inside a long request, and so is the next leader; the third thread serves."""
    with (
        Server(plain, *ONE_WORKER, "--threads", "3", listeners={"http": http}) as server,
        dial(http) as first,
        dial(http) as second,
    ):
        server.wait_until_ready()
        for client in (first, second):
            client.sendall(REQUEST.replace(b"/", b"/sleep/30", 1))
        for _ in range(20):
            assert ask(lambda: dial(http))[0] == 200
        os.kill(server.workers()[0], 9)


def test_pipelined_requests(plain: Path, http: socket.socket) -> None:
    """One client's many requests are all served, and do not keep the only thread from another client."""
    with Server(plain, *ONE_WORKER, "--threads", "1", listeners={"http": http}) as server, dial(http) as greedy:
        server.wait_until_ready()
        count = 200
        greedy.sendall(REQUEST.replace(b"/", b"/sleep/0.02", 1) * count)
        assert ask(lambda: dial(http))[0] == 200
        received = b""
        assert received.count(b"HTTP/1.1 200 OK") < count
        while received.count(b"}") < 2 * count:  # the environment is an object, too
            received += greedy.recv(65536)


def test_slow_headers_hold_no_thread(plain: Path, http: socket.socket) -> None:
    environ = {"SOCKETACT_HEADER_TIMEOUT": "2"}
    with Server(plain, *ONE_WORKER, "--threads", "1", listeners={"http": http}, environ=environ) as server:
        server.wait_until_ready()
        slow = [dial(http) for _ in range(20)]
        used = dial(http)
        exchange(used)  # the headers of its second request are slow
        for position in range(len(HALF)):
            for client in (*slow, used):
                client.sendall(HALF[position : position + 1])
            assert ask(lambda: dial(http))[0] == 200
        slow[0].sendall(b"pp\r\n\r\n")
        assert b"200 OK" in slow[0].recv(65536)
        for client in (*slow[1:], used):
            assert answer(client).startswith(b"HTTP/1.1 408")
            client.close()
        slow[0].close()


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
def test_invalid_header_timeout(plain: Path, http: socket.socket, value: str) -> None:
    environ = {"SOCKETACT_HEADER_TIMEOUT": value}
    with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=environ) as server:
        assert server.wait_until_gone() == 1
        assert f"SOCKETACT_HEADER_TIMEOUT={value!r} is not a positive number of seconds" in server.log


def test_request_that_exceeds_the_timeout_is_reported_and_its_worker_replaced(plain: Path, http: socket.socket) -> None:
    with Server(plain, *ONE_WORKER, "--timeout", "1", listeners={"http": http}) as server, dial(http) as long:
        (before,) = server.wait_until_ready().workers()
        long.sendall(REQUEST.replace(b"/", b"/sleep/4", 1))
        server.wait_for_log("A request has run longer than timeout = 1 s")
        server.wait_for_log('app.py", line')
        assert "time.sleep(float(" in server.log
        server.wait_for(lambda: json.loads(ask(lambda: dial(http))[1])["pid"] != before, "another worker to respond")
        assert before in server.workers()  # the long request still runs
        assert b"200 OK" in long.recv(65536)
        server.wait_for(lambda: before not in server.workers(), "the worker to exit")
        assert server.log.count("has run longer than") == 1
        assert "WORKER TIMEOUT" not in server.log


def test_no_timeout(plain: Path, http: socket.socket) -> None:
    with Server(plain, *ONE_WORKER, "--timeout", "0", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        assert ask(lambda: dial(http), "/sleep/2.5")[0] == 200
        assert server.workers() == before
        assert "longer" not in server.log


def test_streamed_response_may_exceed_the_timeout(folder: Folder, http: socket.socket) -> None:
    app = folder(
        """
        import time

        def app(environ, start_response):
            start_response("200 OK", [])
            for _ in range(8):
                time.sleep(0.5)
                yield b"."
        """
    )
    with Server(app, *ONE_WORKER, "--timeout", "1", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        assert ask(lambda: dial(http)) == (200, b"." * 8)
        assert server.workers() == before
        assert "longer" not in server.log


@pytest.mark.parametrize("side", ["sends", "takes"])
def test_stalled_client_is_disconnected(folder: Folder, http: socket.socket, side: str) -> None:
    """It is not the application's fault: the worker is not replaced."""
    app = folder(
        """
        def app(environ, start_response):
            if environ["PATH_INFO"] == "/":
                start_response("200 OK", [("Content-Length", "0")])
                return []
            content = environ["wsgi.input"].read() or b"." * 50_000_000
            start_response("200 OK", [("Content-Length", str(len(content)))])
            return [content]
        """
    )
    request = {
        "sends": b"POST /x HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\n123",
        "takes": REQUEST.replace(b"/", b"/x", 1),
    }[side]
    with Server(app, *ONE_WORKER, "--timeout", "1", listeners={"http": http}) as server, dial(http) as client:
        before = server.wait_until_ready().workers()
        client.sendall(request)
        server.wait_for_log("A client has neither sent nor read anything for 1 s: disconnected")
        assert ask(lambda: dial(http))[0] == 200
        assert server.workers() == before


def test_view_that_exits_ends_only_its_request(folder: Folder, http: socket.socket) -> None:
    app = folder(
        """
        import sys

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/leave":
                sys.exit(1)
            start_response("200 OK", [("Content-Length", "0")])
            return []
        """
    )
    with Server(app, *ONE_WORKER, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        assert ask(lambda: dial(http), "/leave")[0] == 500
        assert ask(lambda: dial(http))[0] == 200
        assert server.workers() == before


def test_files_and_large_responses(folder: Folder, http: socket.socket) -> None:
    app = folder(
        """
        def app(environ, start_response):
            file = open("large", "rb")
            start_response("200 OK", [("Content-Length", str(3_000_001))])
            if environ["PATH_INFO"] == "/sendfile":
                return environ["wsgi.file_wrapper"](file)
            return [file.read()]
        """
    )
    content = os.urandom(3_000_001)
    (app / "large").write_bytes(content)
    expected = hashlib.sha256(content).digest()
    with Server(app, *ONE_WORKER, listeners={"http": http}) as server:
        server.wait_until_ready()
        for path in ("/sendfile", "/whole"):
            status, received = ask(lambda: dial(http), path)
            assert (status, hashlib.sha256(received).digest()) == (200, expected)


def test_status_shows_draining_workers(plain: Path, http: socket.socket) -> None:
    with Server(plain, *ONE_WORKER, listeners={"http": http}) as server, dial(http) as long:
        (before,) = server.wait_until_ready().workers()
        long.sendall(REQUEST.replace(b"/", b"/sleep/3", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        os.kill(before, 15)
        draining = "; draining: generation 1, 1 requests in flight"
        server.wait_for(lambda: server.wait_for_message("STATUS=Serving with 1 of 1").endswith(draining), draining)
        assert b"200 OK" in long.recv(65536)
        long.close()
        server.wait_for(lambda: "draining" not in server.wait_for_message("STATUS="), "no worker to drain")


def test_tls(plain: Path, http: socket.socket) -> None:
    """Keep-alive and pipelining; silent clients and half handshakes hold no thread; HTTP/2 is not chosen."""
    arguments = (*certificate(plain), "--threads", "1")
    context = ssl.create_default_context(cafile=str(plain / "cert.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with Server(plain, *ONE_WORKER, *arguments, listeners={"http": http}) as server, dial(http) as silent:
        server.wait_until_ready()
        silent.sendall(b"\x16\x03\x01")  # the beginning of a ClientHello
        with context.wrap_socket(dial(http), server_hostname="localhost") as client:
            assert client.selected_alpn_protocol() is None
            for _ in range(3):
                exchange(client)
            client.sendall(REQUEST * 2)
            received = b""
            while received.count(b"HTTP/1.1 200 OK") < 2:
                received += client.recv(65536)
            server.process.terminate()
            server.wait_for(lambda: in_drain(http), "the worker to stop accepting")
            client.sendall(REQUEST)
            assert b"Connection: close" in answer_over_tls(client)
        assert server.wait_until_gone() == 0


def test_clients_that_disconnect_before_the_handshake(plain: Path, http: socket.socket) -> None:
    arguments = certificate(plain)
    with Server(plain, *ONE_WORKER, *arguments, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        for _ in range(50):
            connect_and_reset(http)
        context = ssl.create_default_context(cafile=str(plain / "cert.pem"))
        with context.wrap_socket(dial(http), server_hostname="localhost") as good:
            exchange(good)
        assert server.workers() == before
        assert "Traceback" not in server.log


def test_many_clients_from_many_threads(plain: Path, http: socket.socket) -> None:
    """Leaders change all the time: short and long views, new and old connections, incomplete headers."""
    failures = []

    def client(number: int) -> None:
        try:
            with dial(http) as connection:
                for turn in range(30):
                    if (number + turn) % 7 == 0:
                        connection.sendall(HALF)
                        time.sleep(0.002 * (turn % 5))
                        exchange(connection, b"pp\r\n\r\n")
                    else:
                        path = b"/sleep/0.0%d" % ((number * turn) % 3)
                        exchange(connection, REQUEST.replace(b"/", path, 1))
        except Exception as error:  # noqa: BLE001 (of a thread)
            failures.append(repr(error))

    with Server(plain, *CONF, "--threads", "5", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        threads = [threading.Thread(target=client, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert "Traceback" not in server.log, server.log
    assert not failures
