"""Clients that send or read slowly occupy no thread of the thread worker, and are served to the end."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from flask_socketact.shared.slot import Field
from tests.process.conftest import Folder
from tests.support.http import answer, ask, certificate
from tests.support.server import CONF, Server, dial

THREADS = 2
SIZE = 100_000
BIG = 8_000_000

APP = f"""
import hashlib

BIG = bytes(range(256)) * {BIG // 256}
open("big", "wb").write(BIG)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/upload":
        body = environ["wsgi.input"].read()
        content = b"%d %s" % (len(body), hashlib.sha256(body).hexdigest().encode())
    elif path == "/big":
        content = BIG
    elif path == "/unread":
        content = b"unread"
    elif path == "/file":
        start_response("200 OK", [("Content-Length", str(len(BIG)))])
        return environ["wsgi.file_wrapper"](open("big", "rb"))
    elif path == "/pieces":
        start_response("200 OK", [])
        return [BIG] * 12
    elif path == "/list":
        start_response("200 OK", [])
        return [BIG, b"end"]
    else:
        content = b"ok"
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
"""
CONTENT = bytes(range(256)) * (BIG // 256)
BODY = os.urandom(SIZE)
DIGEST = hashlib.sha256(BODY).hexdigest()


@contextmanager
def serving(folder: Folder, http: socket.socket, *arguments: str, **environ: str) -> Iterator[tuple[Server, Path]]:
    app = folder(APP)
    command = (*CONF, "-w", "1", "--threads", str(THREADS), *arguments, "app:app")
    environment = {"RUNTIME_DIRECTORY": str(app / "state"), **environ}
    with Server(app, *command, listeners={"http": http}, environ=environment) as server:
        server.wait_until_ready()
        yield server, app


def post(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def read_response(client: socket.socket) -> tuple[bytes, bytes]:
    """Return the header section and the body of a response, with Content-Length or chunked."""
    with client.makefile("rb") as file:
        headers = b""
        while not headers.endswith(b"\r\n\r\n"):
            line = file.readline()
            assert line, headers
            headers += line
        if b"chunked" in headers:
            body = b""
            while size := int(file.readline(), 16):
                body += file.read(size)
                file.readline()
            file.readline()
            return headers, body
        length = next(int(line.split(b":")[1]) for line in headers.splitlines() if line.startswith(b"Content-Length"))
        return headers, file.read(length)


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_unfinished_uploads_and_unread_responses_occupy_no_thread(
    folder: Folder, http: socket.socket, kind: str, tmp_path: Path
) -> None:
    """Eight of each, on two threads. All of them are finished afterwards, on the same connections."""
    options = certificate(tmp_path) if kind == "tls" else ()
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem")) if kind == "tls" else None

    def connect() -> socket.socket:
        return context.wrap_socket(dial(http), server_hostname="localhost") if context else dial(http)

    with serving(folder, http, *options), ExitStack() as stack:
        uploads = [stack.enter_context(connect()) for _ in range(8)]
        readers = [stack.enter_context(connect()) for _ in range(9)]
        for client in uploads:
            client.sendall(post("/upload", f"Content-Length: {SIZE}") + BODY[:10])
        for number, client in enumerate(readers):
            client.sendall(get(("/big", "/file", "/list")[number % 3]))
        for _ in range(20):
            began = time.monotonic()
            assert ask(connect) == (200, b"ok")
            assert time.monotonic() - began < 2, "a slow client holds a thread"
        for client in uploads:
            client.sendall(BODY[10:])
            assert read_response(client)[1] == b"%d %s" % (SIZE, DIGEST.encode())
        for number, client in enumerate(readers):
            assert read_response(client)[1] == CONTENT + (b"end" if number % 3 == 2 else b"")
        for client in (*uploads, *readers):
            client.sendall(get("/"))
            assert read_response(client)[1] == b"ok"


@pytest.mark.parametrize("coding", ["length", "chunked"])
@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_body_in_pieces_arrives_whole(folder: Folder, http: socket.socket, coding: str, step: int) -> None:
    """A chunk may look like the end of the body; the next request may follow at once."""
    content = b"\r\n0\r\n\r\n" + BODY[: 300 if step < 100 else SIZE]
    if coding == "length":
        request = post("/upload", f"Content-Length: {len(content)}") + content
    else:
        parts = [content[start : start + 97] for start in range(0, len(content), 97)]
        chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts)
        request = post("/upload", "Transfer-Encoding: chunked") + chunks + b"00\r\nX-Trailer: y\r\n\r\n"
    request += get("/")
    with serving(folder, http), dial(http) as client:
        for start in range(0, len(request), step):
            client.sendall(request[start : start + step])
        assert read_response(client)[1].startswith(
            b"%d %s" % (len(content), hashlib.sha256(content).hexdigest().encode())
        )


def test_the_application_reads_what_is_beyond_the_limit(folder: Folder, http: socket.socket) -> None:
    content = BODY * 20
    with serving(folder, http, SOCKETACT_BODY_BUFFER="65536"), dial(http) as client:
        client.sendall(post("/upload", f"Content-Length: {len(content)}") + content)
        assert read_response(client)[1].startswith(b"%d " % len(content))


@pytest.mark.parametrize("limit", ["0", "1048576"])
def test_a_client_that_waits_for_100_continue(folder: Folder, http: socket.socket, limit: str) -> None:
    with serving(folder, http, SOCKETACT_BODY_BUFFER=limit), dial(http) as client:
        client.sendall(post("/upload", "Content-Length: 5", "Expect: 100-continue"))
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello")
        assert read_response(client)[1].startswith(b"5 ")


def test_pipelined_requests_are_served_in_order(folder: Folder, http: socket.socket) -> None:
    with serving(folder, http), dial(http) as client:
        client.sendall((get("/big") + post("/upload", "Content-Length: 5") + b"hello" + get("/unread")) * 3)
        time.sleep(0.5)  # let the responses pile up
        with client.makefile("rb") as file:
            for _ in range(3):
                for length in (BIG // 256 * 256, 2 + 64, 6):
                    while file.readline() != b"\r\n":
                        pass
                    assert len(file.read(length)) == length


def test_clients_that_make_progress_are_not_disconnected(folder: Folder, http: socket.socket) -> None:
    """For three times ``timeout``; one that makes none is, with status 408."""
    with (
        serving(folder, http, "--timeout", "1") as (server, _),
        dial(http) as slow,
        dial(http) as reader,
        dial(http) as silent,
    ):
        slow.sendall(post("/upload", "Content-Length: 10"))
        reader.sendall(get("/big"))
        silent.sendall(post("/upload", "Content-Length: 10") + b"a")
        received = 0
        for _ in range(9):
            slow.sendall(b"a")
            received += len(reader.recv(1_000_000))
            time.sleep(0.35)
        slow.sendall(b"a")
        assert read_response(slow)[1].startswith(b"10 ")
        assert received > SIZE
        assert answer(silent).startswith(b"HTTP/1.1 408")
        server.wait_for_log("A client has neither sent nor read anything for 1 s: disconnected")


def test_small_chunks_cost_no_more_than_large_ones(folder: Folder, http: socket.socket) -> None:
    """100,000 of them, for which copying the whole body each time would take minutes."""
    request = post("/upload", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n" * 100_000 + b"0\r\n\r\n"
    with serving(folder, http), dial(http) as client:
        client.settimeout(20)
        client.sendall(request)
        assert read_response(client)[1].startswith(b"500000 ")


def test_long_trailers_in_pieces(folder: Folder, http: socket.socket) -> None:
    """They are not parsed again for each piece; a malformed one is told at once."""
    trailers = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 1000) for number in range(90))
    with serving(folder, http), dial(http) as client:
        request = post("/upload", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n"
        for start in range(0, len(request), 50):
            client.sendall(request[start : start + 50])
        assert read_response(client)[1].startswith(b"5 ")
        client.sendall(request[:-2])
        time.sleep(0.2)
        client.sendall(b"X: y\n")
        assert read_response(client)[0].startswith(b"HTTP/1.1 400")


def test_clients_that_disconnect_leave_room_for_other_responses(folder: Folder, http: socket.socket) -> None:
    """For a response in pieces that is more than a worker keeps; a thread waits for its client."""
    with serving(folder, http, "--timeout", "20") as (server, _), ExitStack() as stack:
        for _ in range(2):
            with dial(http) as client:
                client.sendall(get("/pieces"))
                client.recv(1000)
                time.sleep(0.5)  # the thread waits
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for _ in range(4):
            stack.enter_context(dial(http)).sendall(get("/big"))
        began = time.monotonic()
        assert ask(lambda: dial(http)) == (200, b"ok")
        assert time.monotonic() - began < 2, "a slow client holds a thread"
        assert "Traceback" not in server.log, server.log


def test_the_rest_of_an_upload_after_the_response_occupies_no_thread(folder: Folder, http: socket.socket) -> None:
    """However little of it is left."""
    with serving(folder, http, SOCKETACT_BODY_BUFFER="1000"), ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(dial(http))
            client.sendall(post("/unread", "Content-Length: 20000") + BODY[:10_000])
            assert read_response(client)[1] == b"unread"
        began = time.monotonic()
        assert ask(lambda: dial(http)) == (200, b"ok")
        assert time.monotonic() - began < 2, "a slow client holds a thread"


@pytest.mark.parametrize("path", ["/upload", "/big", "/file"])
def test_a_drain_waits_for_slow_clients(folder: Folder, http: socket.socket, path: str) -> None:
    """Their requests count as in flight."""
    with serving(folder, http) as (server, app), dial(http) as client:
        before = server.workers()
        client.sendall(post(path, f"Content-Length: {SIZE}") + BODY[:1000] if path == "/upload" else get(path))
        server.wait_for(lambda: in_flight(app, server) == 1, "a request in flight")
        server.process.send_signal(1)
        server.wait_for_log("Reloaded: ")
        assert set(before) < set(server.workers()), "the old worker is still there"
        if path == "/upload":
            client.sendall(BODY[1000:])
            assert DIGEST.encode() in read_response(client)[1]
        else:
            assert read_response(client)[1] == CONTENT
        server.wait_for(lambda: not set(before) & set(server.workers()), "the old worker to exit")


def test_a_client_that_disconnects_leaves_nothing(folder: Folder, http: socket.socket) -> None:
    with serving(folder, http) as (server, app):
        (pid,) = server.workers()
        before = len(os.listdir(f"/proc/{pid}/fd"))
        for path in ("/big", "/file", "/upload") * 5:
            with dial(http) as client:
                client.sendall(post(path, "Content-Length: 9") + b"a" if path == "/upload" else get(path))
                time.sleep(0.05)
        server.wait_for(lambda: in_flight(app, server) == 0, "no request in flight")
        server.wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before + 1, "closed descriptors")
        assert "Traceback" not in server.log


def test_many_slow_uploads_at_once(folder: Folder, http: socket.socket) -> None:
    """A busy client next to them is not held up."""
    with serving(folder, http), ExitStack() as stack:
        clients = [stack.enter_context(dial(http)) for _ in range(200)]
        for client in clients:
            client.sendall(post("/upload", f"Content-Length: {SIZE}"))
        done = threading.Event()
        thread = threading.Thread(target=_trickle, args=(clients, done))
        thread.start()
        try:
            for _ in range(200):
                assert ask(lambda: dial(http)) == (200, b"ok")
        finally:
            done.set()
            thread.join()
        for client in clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _trickle(clients: list[socket.socket], done: threading.Event) -> None:
    while not done.is_set():
        for client in clients:
            client.sendall(b"a")  # whoever is slow, no upload ends while this goes on


def in_flight(app: Path, server: Server) -> int:
    from flask_socketact.shared import scoreboard

    board = scoreboard.read(app / "state", server.process.pid)
    assert board is not None
    return sum(slot[Field.IN_FLIGHT] for slot in board.taken())
