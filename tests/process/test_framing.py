"""Exact framing: where requests and responses end, in all worker classes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.process.test_misbehaviour import ALL, BASE, serving, wait_for_errors
from tests.support.http import answer, connect_and_reset
from tests.support.server import dial

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
    with serving(app, http, "thread", "--timeout", "1") as server, dial(http) as client:
        client.sendall(upload("whole", "", b"hello", chunked=False))
        answer(client)
        server.wait_for_log("disconnected")
        wait_for_errors(server, app, 0)
        assert not (app / "stored").exists()
