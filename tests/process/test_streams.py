"""Streams in the thread worker: server-sent events, long polling."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from flask_socketact.shared.slot import Field
from tests.process.conftest import Folder
from tests.process.test_websockets import BOTH, serving, slot
from tests.support.http import REQUEST, ask, read_until
from tests.support.server import dial

APP = """
import os, queue, time
from flask import Flask, Response
from flask_socketact import SocketAct

app = Flask(__name__)
socketact = SocketAct(app)


@app.get("/")
def page(): return "ok"


@app.get("/events")
def events():
    def generate():
        messages = queue.Queue()
        yield "data: first\\n\\n"
        yield from socketact.until_drain(iter(messages.get, None), messages.put, None)
        yield "data: last\\n\\n"
    return Response(generate(), mimetype="text/event-stream")


@app.get("/endless")
def endless():
    def generate():
        while True:
            yield "data: " + 100_000 * "x" + "\\n\\n"
    return Response(generate(), mimetype="text/event-stream")


@app.get("/ticks")
def ticks():
    def generate():
        while True:
            time.sleep(0.05)
            yield "tick"
    return Response(socketact.until_drain(generate()), mimetype="text/plain")


@app.get("/poll")
@socketact.stream
def poll():
    while not os.path.exists("news") and not socketact.draining:
        time.sleep(0.05)
    return "news"
"""


def request_to(path: str) -> bytes:
    return REQUEST.replace(b"/", path.encode(), 1)


@BOTH
def test_streams_hold_up_no_other_client(folder: Folder, http: socket.socket, worker: str) -> None:
    """Six of each kind on two threads, which send nothing for longer than ``timeout`` and the watchdog's time."""
    with (
        serving(folder, http, "--timeout", "1", source=APP, worker=worker, WATCHDOG_USEC="4000000") as (server, app),
        ExitStack() as stack,
    ):
        before = server.workers()
        streams = [stack.enter_context(dial(http)) for _ in range(6)]
        polls = [stack.enter_context(dial(http)) for _ in range(6)]
        for client in streams:
            client.sendall(request_to("/events"))
            read_until(client, b"first")
        for client in polls:
            client.sendall(request_to("/poll"))
        server.wait_for(lambda: slot(server, app)[Field.STREAMS] == 12, "the streams")
        ends = time.monotonic() + 5
        while time.monotonic() < ends:
            began = time.monotonic()
            assert ask(lambda: dial(http)) == (200, b"ok")
            assert time.monotonic() - began < 1
        (app / "news").touch()
        for client in polls:
            read_until(client, b"news")
            client.sendall(REQUEST * 3)  # the connection continues
            read_until(client, b"ok")
        server.wait_for(lambda: slot(server, app)[Field.STREAMS] == 6, "the polls to end")
        server.wait_for(lambda: slot(server, app)[Field.IN_FLIGHT] == 6, "other requests to end")
        assert server.workers() == before
        assert "CRITICAL" not in server.log, server.log


@BOTH
def test_pipelined_requests_after_a_stream(folder: Folder, http: socket.socket, worker: str) -> None:
    with serving(folder, http, source=APP, worker=worker) as (_, app), dial(http) as client:
        (app / "news").touch()
        client.sendall(request_to("/poll") * 5 + REQUEST * 5)
        received = b""
        while received.count(b"HTTP/1.1 200") < 10 or not received.endswith(b"ok"):
            received += client.recv(65536)
        assert received.count(b"news") == 5


@BOTH
@pytest.mark.parametrize("signal", [1, 15], ids=["reload", "stop"])
def test_streams_end_when_the_drain_begins(folder: Folder, http: socket.socket, signal: int, worker: str) -> None:
    """With their last chunk, so that the client knows it has all."""
    with serving(folder, http, source=APP, worker=worker) as (server, _), ExitStack() as stack:
        before = server.workers()
        clients = [stack.enter_context(dial(http)) for _ in range(3)]
        for client, path in zip(clients, ("/events", "/ticks", "/poll"), strict=True):
            client.sendall(request_to(path))
        read_until(clients[0], b"first")
        read_until(clients[1], b"tick")
        server.process.send_signal(signal)
        assert b"last" in read_until(clients[0], b"\r\n0\r\n\r\n")
        read_until(clients[1], b"\r\n0\r\n\r\n")
        read_until(clients[2], b"news")
        server.wait_for(lambda: not set(before) & set(server.workers()), "the old worker to exit", 5)
        assert "cutting off" not in server.log, server.log


def test_more_streams_than_the_limit_get_503(folder: Folder, http: socket.socket) -> None:
    with serving(folder, http, source=APP, SOCKETACT_MAX_STREAMS="1") as (server, app), dial(http) as client:
        client.sendall(request_to("/events"))
        read_until(client, b"first")
        for path in ("/events", "/poll"):
            assert ask(lambda: dial(http), path)[0] == 503
        assert server.log.count("A stream was refused with 503: SOCKETACT_MAX_STREAMS = 1 are open") == 2
        client.close()
        server.wait_for(lambda: slot(server, app)[Field.ERRORS] == 2, "two errors")


def test_a_client_that_takes_nothing_of_a_stream_is_disconnected(folder: Folder, http: socket.socket) -> None:
    with serving(folder, http, "--timeout", "1", source=APP) as (server, app), dial(http) as client:
        client.sendall(request_to("/endless"))
        server.wait_for(lambda: slot(server, app)[Field.STREAMS] == 1, "the stream")
        server.wait_for_log("A client has neither sent nor read anything for 1 s: disconnected")
        server.wait_for(lambda: slot(server, app)[Field.STREAMS] == 0, "its end")
        assert ask(lambda: dial(http)) == (200, b"ok")
