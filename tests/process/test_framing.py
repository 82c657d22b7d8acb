"""Exact framing: where requests and responses end, in all worker classes."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.process.test_misbehaviour import ALL, BASE, CLASSES, KEEP_ALIVE, fetch, get, serving, wait_for_errors
from tests.support.http import HALF, REQUEST, answer, ask, connect_and_reset, exchange
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from tests.process.conftest import Folder

#: An application that stores an upload, reads one in lines or pieces, or ignores it.
UPLOAD_RAW = (
    BASE
    + """
    def misbehave(what, environ, start_response):
        body = environ["wsgi.input"]
        if what == "pieces":
            content = b"".join(iter(lambda: body.read(2), b""))
        elif what == "lines":
            content = b"".join(body)
        elif what == "again":
            try:
                body.read()
            except Exception:
                pass
            content = body.read()
        elif what == "ignored":
            return plain(start_response, b"ignored")
        else:
            content = body.read()
        with open("stored", "ab") as file:
            file.write(content)
        return plain(start_response, content)
    """
)
UPLOAD_FLASK = """
    from flask import Flask, request

    app = Flask(__name__)

    @app.get("/")
    def index(): return "{}"

    @app.post("/<what>")
    def upload(what):
        if what == "form":
            content = request.form["field"].encode()
        elif what == "files":
            content = request.files["file"].read()
        elif what == "pieces":
            content = b"".join(iter(lambda: request.stream.read(2), b""))
        else:
            content = request.get_data()
        with open("stored", "ab") as file:
            file.write(content)
        return content
"""
BOUNDARY = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhel'
#: Kind of application, path, content type, and the beginning of the content.
UPLOADS = [
    *(("raw", what, "", b"hel\nlo") for what in ("whole", "pieces", "lines", "again")),
    *(("flask", what, "", b"hel\nlo") for what in ("whole", "pieces")),
    ("flask", "form", "application/x-www-form-urlencoded", b"field=hel"),
    ("flask", "files", "multipart/form-data; boundary=x", BOUNDARY),
]


def upload(what: str, kind: str, content: bytes, *, chunked: bool) -> bytes:
    """Return a request whose body is larger than `content`."""
    fields = [f"POST /{what} HTTP/1.1", "Host: a", f"Content-Type: {kind}" if kind else "X: y"]
    if chunked:
        fields.append("Transfer-Encoding: chunked")
        content = b"%x\r\n%b" % (len(content) + 5, content)
    else:
        fields.append(f"Content-Length: {len(content) + 5}")
    return "\r\n".join([*fields, "", ""]).encode() + content


@ALL
@pytest.mark.parametrize("chunked", [False, True])
def test_body_that_ends_early_never_looks_complete(
    folder: Folder, http: socket.socket, worker: str, *, chunked: bool
) -> None:
    for kind, source in (("raw", UPLOAD_RAW), ("flask", UPLOAD_FLASK)):
        app = folder(source)
        with serving(app, http, worker) as server:
            for what, content_type, content in (case[1:] for case in UPLOADS if case[0] == kind):
                request = upload(what, content_type, content, chunked=chunked)
                with dial(http) as client:  # it still listens
                    client.sendall(request)
                    client.shutdown(socket.SHUT_WR)
                    received = answer(client)
                    assert received.startswith(b"HTTP/1.1 400"), (what, received, server.log)
                    assert b"Connection: close" in received
                    assert received.count(b"HTTP/1.1 ") == 1
                with dial(http) as client:
                    client.sendall(request)
                connect_and_reset(http)
            assert not (app / "stored").exists()
            wait_for_errors(server, app, 0)
            assert "Traceback" not in server.log, server.log


@ALL
def test_unread_body_that_ends_early_gets_one_response(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder(UPLOAD_RAW)
    with serving(app, http, worker) as server:
        for chunked in (False, True):
            with dial(http) as client:
                client.sendall(upload("ignored", "", b"hello", chunked=chunked))
                client.shutdown(socket.SHUT_WR)
                received = answer(client)
                assert received.endswith(b"\r\n\r\nignored"), received
                assert received.count(b"HTTP/1.1") == 1, received
        wait_for_errors(server, app, 0)


def test_upload_that_our_timeout_cuts_off(folder: Folder, http: socket.socket) -> None:
    app = folder(UPLOAD_FLASK)
    environ = {"SOCKETACT_BODY_BUFFER": "0"}  # the application reads it
    with serving(app, http, "thread", "--timeout", "1", environ=environ) as server, dial(http) as client:
        client.sendall(upload("whole", "", b"hello", chunked=False))
        answer(client)
        server.wait_for_log("disconnected")
        wait_for_errors(server, app, 0)
        assert not (app / "stored").exists()


LENGTHS = (
    BASE
    + """
    def pieces(n, size=5):
        for at in range(0, n, size):
            yield b"x" * min(size, n - at)

    def misbehave(what, environ, start_response):
        how, length, size = what.split("/")
        status = "204 No Content" if how == "204" else "304 Not Modified" if how == "304" else "200 OK"
        write = start_response(status, [("Content-Length", length)])
        if how == "write":
            write(b"x" * int(size))
            return []
        if how == "list":
            return [b"x" * int(size)]
        return pieces(int(size))
    """
)


@ALL
@pytest.mark.parametrize("how", ["pieces", "list", "write"])
def test_response_that_is_shorter_than_its_length(folder: Folder, http: socket.socket, worker: str, how: str) -> None:
    with serving(folder(LENGTHS), http, worker) as server, dial(http) as client:
        client.sendall(f"GET /{how}/30/26 HTTP/1.1\r\nHost: a\r\n\r\n".encode() + REQUEST)
        assert answer(client).endswith(b"\r\n\r\n" + b"x" * 26)
        expected = f"The response to GET /{how}/30/26 has only 26 of the 30 bytes of its Content-Length"
        assert server.log.count(expected) == 1
        assert server.log.count(" [ERROR] ") == 1
        assert answer_to(http, f"/{how}/30/0").endswith(b"\r\n\r\n")
        assert server.log.count(" [ERROR] ") == 2
        assert "Traceback" not in server.log


@ALL
@pytest.mark.parametrize("how", ["pieces", "list", "write"])
def test_response_that_is_longer_than_its_length(folder: Folder, http: socket.socket, worker: str, how: str) -> None:
    with serving(folder(LENGTHS), http, worker) as server, dial(http) as client:
        client.sendall(
            f"GET /{how}/7/1000 HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            + REQUEST.replace(b"app", b"app\r\nConnection: close")
        )
        first, _, second = answer(client).partition(b"xxxxxxx")
        assert first.endswith(b"\r\n\r\n")
        assert second.startswith(b"HTTP/1.1 200") or (worker == "sync" and not second)
        assert (
            server.log.count(f"The response to GET /{how}/7/1000 has more than the 7 bytes of its Content-Length") == 1
        )
        assert server.log.count(" [WARNING] ") == 1
        assert " [ERROR] " not in server.log


@KEEP_ALIVE
def test_responses_without_a_body_may_have_a_length(folder: Folder, http: socket.socket, worker: str) -> None:
    with serving(folder(LENGTHS), http, worker) as server, dial(http) as client:
        for request in (b"HEAD /pieces/30/0", b"GET /304/30/0", b"GET /204/30/0", b"HEAD /list/30/26"):
            client.sendall(request + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(65536).endswith(b"\r\n\r\n")
        client.sendall(get("/"))
        assert answer(client).startswith(b"HTTP/1.1 200")
        assert " [ERROR] " not in server.log


def answer_to(http: socket.socket, path: str) -> bytes:
    """Return the response to a GET request, and check that its headers do not come twice."""
    received = fetch(http, get(path))
    assert received.lower().count(b"\r\ncontent-length:") <= 1
    return received


FILES = (
    BASE
    + """
    import gzip, io, tempfile

    with open("file", "wb") as file: file.write(b"0123456789" * 10_000)
    with gzip.open("file.gz", "wb") as file: file.write(b"0123456789" * 10_000)
    with open("empty", "wb") as file: pass

    class Upper:
        def __init__(self, file): self.file = file
        def fileno(self): return self.file.fileno()
        def read(self, size=-1): return self.file.read(size).replace(b"0", b"zero")
        def close(self): self.file.close()

    def opened(how):
        file = open("empty" if how == "empty" else "file", "rb")
        if how == "raw":
            file = open("file", "rb", buffering=0)
        elif how == "read":
            file.read(5)
        elif how == "seeked":
            file.seek(99_995)
        elif how == "past":
            file.seek(100_005)
        elif how == "lines":
            io.TextIOWrapper(file).detach().seek(10)
        elif how == "custom":
            file = Upper(file)
        elif how == "gzip":
            file = gzip.open("file.gz", "rb")
        elif how == "buffered-gzip":
            file = io.BufferedReader(gzip.open("file.gz", "rb"))
        elif how == "decoded":
            file = open("file", encoding="ascii")
        elif how == "temporary":
            file = tempfile.TemporaryFile()
            file.write(b"written")
            file.seek(2)
        elif how == "named":
            file = tempfile.NamedTemporaryFile()
            file.write(b"written")
            file.seek(2)
        elif how == "proc":
            file = open("/proc/self/comm", "rb")
        elif how == "memory":
            file = io.BytesIO(b"memory")
        return file

    def misbehave(what, environ, start_response):
        how, _, length = what.partition("/")
        start_response("200 OK", [("Content-Length", length)] if length else [])
        body = environ["wsgi.file_wrapper"](opened(how))
        if how == "subclass":
            class Twice(environ["wsgi.file_wrapper"]):
                def __next__(self): return 2 * super().__next__()
            body = Twice(open("file", "rb"), 50_000)
        return body
    """
)
CONTENT = b"0123456789" * 10_000
#: How the file was opened, and the content expected.
OPENED = {
    "plain": CONTENT, "empty": b"", "raw": CONTENT, "read": CONTENT[5:], "seeked": CONTENT[99_995:], "past": b"",
    "lines": CONTENT[10:], "custom": CONTENT.replace(b"0", b"zero"), "gzip": CONTENT, "buffered-gzip": CONTENT,
    "temporary": b"itten", "named": b"itten", "memory": b"memory", "proc": b"gunicorn\n",
    "subclass": 2 * CONTENT[:50_000] + 2 * CONTENT[50_000:],
}  # fmt: skip


def body_of(response: bytes) -> bytes:
    """Return the content of a response."""
    head, _, rest = response.partition(b"\r\n\r\n")
    if b"Transfer-Encoding: chunked" not in head:
        return rest
    content = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            assert rest == b"\r\n", rest
            return content
        content += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]


@ALL
def test_file_wrapper_sends_what_the_object_reads(folder: Folder, http: socket.socket, worker: str) -> None:
    with serving(folder(FILES), http, worker) as server:
        for how, content in OPENED.items():
            assert body_of(fetch(http, get(f"/{how}"))) == content, how
            assert body_of(fetch(http, get(f"/{how}").replace(b"/1.1", b"/1.0"))) == content, how
            for length in {len(content), len(content) // 2, min(3, len(content))}:
                assert body_of(fetch(http, get(f"/{how}/{length}"))) == content[:length], (how, length)
                assert body_of(fetch(http, get(f"/{how}/{length}").replace(b"GET", b"HEAD"))) == b""
        assert " [ERROR] " not in server.log
        assert "more than" not in server.log
        assert fetch(http, get("/decoded")).startswith(b"HTTP/1.1 500")
        assert fetch(http, get("/decoded/5")).startswith(b"HTTP/1.1 500")


@KEEP_ALIVE
def test_keep_alive_after_files(folder: Folder, http: socket.socket, worker: str) -> None:
    with serving(folder(FILES), http, worker), dial(http) as client:
        for how, content in OPENED.items():
            client.sendall(f"GET /{how}/{len(content)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received or len(body_of(received)) < len(content):
                received += client.recv(65536)
            assert body_of(received) == content
        client.sendall(get("/empty"))
        assert body_of(answer(client)) == b""


@ALL
@pytest.mark.parametrize("how", ["plain", "custom"])
def test_file_that_shrinks_while_it_is_sent(folder: Folder, http: socket.socket, worker: str, how: str) -> None:
    """Its connection is closed before the length is reached."""
    source = FILES.replace("10_000)", "1_000_000)").replace('b"0", b"zero"', 'b"0", b"0"')
    app = folder(source)
    with serving(app, http, worker) as server, dial(http) as client:
        client.sendall(f"GET /{how}/10000000 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        client.recv(1000)
        (app / "file").write_bytes(b"")
        assert len(answer(client)) < 10_000_000
        told = [f"The response to GET /{how}/10000000 has only ", "a file that was sent has become shorter"]
        server.wait_for(lambda: any(text in server.log for text in told), "an error in the log")
        assert server.log.count(" [ERROR] ") == 1
        assert "Traceback" not in server.log
        (app / "file").write_bytes(b"longer" * 2_000_000)
        assert len(body_of(fetch(http, get("/plain/10000000")))) == 10_000_000


START_AGAIN = (
    BASE
    + """
    def fails_later():
        yield b""
        raise RuntimeError("on purpose")

    def misbehave(what, environ, start_response):
        def error_page(after=None):
            try:
                raise RuntimeError("on purpose")
            except RuntimeError:
                start_response("503 Busy", [("X-Second", "2")], sys.exc_info())
            return [b"busy"]

        if what == "written":
            start_response("200 OK", [("Content-Length", "8")])(b"four")
            return error_page()
        if what == "without":
            start_response("200 OK", [])
            start_response("503 Busy", [])
        if what == "invalid":
            try:
                start_response("200 OK", [("X-First", "1"), ("X", "a\\nb")])
            except Exception:
                return error_page()
        if what == "upgrade":
            start_response("101 Switching Protocols", [("Upgrade", "websocket"), ("Connection", "upgrade")])
        elif what == "204":
            start_response("204 No Content", [("X-First", "1")])
        elif what == "length":
            start_response("200 OK", [("X-First", "1"), ("Content-Length", "1000")])
        elif what == "late":
            start_response("200 OK", [("X-First", "1"), ("Content-Length", "1000")])
            def pieces():
                yield b""
                yield from error_page()
            return pieces()
        return error_page()
    """
)


@ALL
def test_start_response_again(folder: Folder, http: socket.socket, worker: str) -> None:
    """PEP 3333: with `exc_info` it replaces status and headers, unless they have been sent."""
    with serving(folder(START_AGAIN), http, worker) as server:
        for what in ("upgrade", "204", "length", "late", "invalid", "first"):
            received = fetch(http, get(f"/{what}"))
            head = received.partition(b"\r\n\r\n")[0]
            assert head.startswith(b"HTTP/1.1 503 Busy"), (what, received)
            assert body_of(received) == b"busy", (what, received)
            assert b"X-Second: 2" in head
            assert b"X-First" not in head
            assert b"Upgrade" not in head
            assert b"Connection: close" in head
            assert b"Content-Length" not in head
        received = fetch(http, get("/written"))
        assert received.startswith(b"HTTP/1.1 200")
        assert received.endswith(b"\r\n\r\nfour")
        assert "RuntimeError: on purpose" in server.log
        assert fetch(http, get("/without")).startswith(b"HTTP/1.1 500")


HOST = "Host: a"
#: Request line and fields, and the status expected.
RULES = [
    ("GET / HTTP/1.1", [HOST], 200),
    ("GET / HTTP/1.0", [], 200),
    ("GET / HTTP/1.2", [HOST], 400),
    ("GET / HTTP/1.1", [], 400),
    ("GET / HTTP/1.2", [], 400),
    ("GET / HTTP/1.1", ["Host:"], 400),
    ("GET / HTTP/1.0", ["Host: a/b"], 400),
    ("GET / HTTP/1.1", ["Host: a, b"], 400),
    ("GET / HTTP/1.1", [HOST, HOST], 400),
    ("GET http://b/ HTTP/1.1", [HOST], 200),
    ("GET http://b/ HTTP/1.1", [], 400),
    ("GET / HTTP/2.0", [HOST], 400),
    ("GET / HTTP/0.9", [HOST], 400),
    ("GET / HTTP/1.10", [HOST], 400),
    ("POST / HTTP/1.1", [HOST, "Content-Length: 9223372036854775808"], 400),
    ("POST / HTTP/1.1", [HOST, "Content-Length: " + 4000 * "9"], 400),
]
#: Sizes of chunks that are refused at once.
CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZES = [b"8000000000000000", b"f" * 17, b"1" + b"0" * 5000]


@ALL
def test_rules_for_requests(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        return plain(start_response, (environ["wsgi.input"].read() + environ["HTTP_HOST"].encode()))
    """
    )
    with serving(app, http, worker) as server:
        for line, fields, status in RULES:
            received = fetch(http, "\r\n".join([line, *fields, "Connection: close", "", ""]).encode())
            assert received[9:12] == str(status).encode(), (line, fields, received)
            assert line.endswith("1.0") or received.startswith(b"HTTP/1.1 ")
        assert fetch(http, get("http://b:1/x")).endswith(b"b:1")
        for size in SIZES:
            received = fetch(http, CHUNKED + size + b"\r\n")
            assert received.startswith(b"HTTP/1.1 400"), received
        wait_for_errors(server, app, 0)


TOO_LARGE = (
    BASE
    + """
    def misbehave(what, environ, start_response):
        return plain(start_response, b"too large", "413 Content Too Large")
    """
)


def send_slowly(client: socket.socket, size: int, seconds: float) -> None:
    """Send `size` bytes in so many seconds, and read nothing meanwhile."""
    for _ in range(20):
        client.sendall(bytes(size // 20))
        time.sleep(seconds / 20)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("worker", ["thread", "gevent"])
def test_early_response_reaches_a_client_that_still_sends(
    folder: Folder, http: socket.socket, worker: str, *, chunked: bool
) -> None:
    """RFC 9112, section 9.6. It occupies no thread."""
    size = 40_000_000
    with serving(folder(TOO_LARGE), http, worker, "--threads", "1", "--timeout", "5") as server, dial(http) as client:
        framing = f"Transfer-Encoding: chunked\r\n\r\n{size:x}" if chunked else f"Content-Length: {size}\r\n"
        client.sendall(f"POST /up HTTP/1.1\r\nHost: a\r\n{framing}\r\n".encode())
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send_slowly, client, size, 8)  # longer than any timeout here
            while not sending.done():
                began = time.monotonic()
                assert ask(lambda: dial(http))[0] == 200
                assert time.monotonic() - began < 1
                time.sleep(0.2)
            sending.result()
        assert answer(client).startswith(b"HTTP/1.1 413"), server.log
        assert "Traceback" not in server.log


@pytest.mark.parametrize("worker", ["thread", "gevent"])
def test_drain_does_not_wait_for_a_client_that_sends_for_ever(folder: Folder, http: socket.socket, worker: str) -> None:
    command = (*CONF, "-w", "1", *CLASSES[worker], "app:app")
    with Server(folder(TOO_LARGE), *command, listeners={"http": http}) as server, dial(http) as client:
        server.wait_until_ready()
        client.sendall(b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n")

        def send_until_reset() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    client.sendall(bytes(100_000))
                    time.sleep(0.001)

        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send_until_reset)
            time.sleep(4)
            assert not sending.done()
            began = time.monotonic()
            server.process.terminate()
            server.wait_until_gone()
            assert time.monotonic() - began < 5
            sending.result()


@pytest.mark.parametrize("worker", ["thread", "gevent"])
def test_late_request_gets_408(folder: Folder, http: socket.socket, worker: str) -> None:
    """If a request has begun; a silent client is disconnected without a word."""
    environ = {"SOCKETACT_HEADER_TIMEOUT": "1"}
    arguments = ("--keep-alive", "1", "--timeout", "2")
    with serving(folder(BASE), http, worker, *arguments, environ=environ), contextlib.ExitStack() as stack:
        silent, begun, later, empty = (stack.enter_context(dial(http)) for _ in range(4))
        begun.sendall(HALF)
        exchange(later)
        later.sendall(HALF)
        empty.sendall(b"\r\n")
        for client in (begun, later):
            received = answer(client)
            assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n")
        for client in (silent, empty):
            assert answer(client) == b""
        if worker == "thread":
            begun = stack.enter_context(dial(http))
            begun.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
            assert answer(begun).startswith(b"HTTP/1.1 408")
