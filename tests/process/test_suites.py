"""Suites of others: h1spec, Http11Probe, gunicorn's requests, responses of all kinds, and wsgiref.validate."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.process.test_misbehaviour import ALL, CLASSES
from tests.support.http import answer
from tests.support.messages import BEGINNINGS, IN_C, IN_C_WAITS, SUITES
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process.conftest import Folder

#: How long a server is waited for that may say nothing more, in seconds.
SILENCE = 0.7
#: gunicorn's, in C and in Python.
PARSERS = pytest.mark.parametrize("parser", ["fast", "python"])
GTHREAD = ("-k", "gthread", "--threads", "8", "--keep-alive", "30")

ECHO = """
    def app(environ, start_response):
        content = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]
"""
_HOST = "a missing, empty or invalid Host gets 400 (RFC 9112, section 3.2)"
_LENGTH = "a length that no 64-bit integer holds gets 400 at once"
#: Cases in which gthread does something else, and why.
DIFFERENCES = {
    "missing host, with a length": _HOST,
    "missing host": _HOST,
    "space in host": _HOST,
    "userinfo in host": _HOST,
    "path in host": _HOST,
    "empty host": _HOST,
    "absolute-form without host": _HOST,
    "overflowing length": _LENGTH,
    "length of 2^63": _LENGTH,
    "chunk size of 2^63": _LENGTH,
    "chunk size of 18 digits": _LENGTH,
    "http/1.2": "gthread responds with HTTP/1.2, which is not its version (RFC 9110, section 6.2)",
}


def behaviour(http: socket.socket, data: bytes) -> str:
    """Return the statuses of all responses to `data`, and ``close`` if the server closes then."""
    received, end = b"", ""
    with dial(http) as client:
        client.settimeout(SILENCE)
        try:
            client.sendall(data)
            while piece := client.recv(65536):
                received += piece
            end = "close"
        except TimeoutError:
            pass
        except ConnectionError:
            end = "close"
    statuses = re.findall(r"HTTP/1\.[01] ([0-9]{3}) ", received.decode("latin-1"))
    return " ".join([*statuses, end]).strip()


def behaviours(folder: Path, http: socket.socket, *arguments: str, at_once: int) -> dict[str, str]:
    """Return what one worker does in all cases."""
    cases = {name: data for suite in SUITES.values() for name, (data, _) in suite.items()}
    cases |= {f"beginning {beginning!r}": beginning for beginning in BEGINNINGS}
    with Server(folder, *arguments, "-w", "1", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(at_once) as pool:
            found = dict(zip(cases, pool.map(lambda data: behaviour(http, data), cases.values()), strict=True))
        assert "Traceback" not in server.log or "gthread" in arguments, server.log
    return found


def expected(worker: str, parser: str) -> dict[str, str]:
    found = {name: result for suite in SUITES.values() for name, (_, result) in suite.items()}
    if parser == "fast":
        found |= IN_C
        if worker != "thread":
            found |= IN_C_WAITS
    if worker == "sync":  # without keep-alive
        found = {name: re.sub(r"^((?:100 )?\d+).*", r"\1 close", result) for name, result in found.items()}
    return found | {f"beginning {beginning!r}": "" for beginning in BEGINNINGS}


def test_each_case_has_a_name_of_its_own() -> None:
    assert len({name for suite in SUITES.values() for name in suite}) == sum(map(len, SUITES.values()))
    assert len(SUITES["unetworking"]) + len(BEGINNINGS) == 33
    assert len(SUITES["dropseed"]) == 33


@PARSERS
@ALL
def test_requests(folder: Folder, http: socket.socket, worker: str, parser: str, figure: Callable[[str], None]) -> None:
    arguments = (*CONF, *CLASSES[worker], "--keep-alive", "30", "--http-parser", parser)
    found = behaviours(folder(ECHO), http, *arguments, at_once=1 if worker == "sync" else 8)
    wrong = {name: (found[name], result) for name, result in expected(worker, parser).items() if found[name] != result}
    assert not wrong, "\n".join(f"{name}: {seen!r}, not {wanted!r}" for name, (seen, wanted) in wrong.items())
    figure(f"{len(found)} cases, all as expected")


@PARSERS
def test_differences_to_gthread(folder: Folder, http: socket.socket, parser: str) -> None:
    found = behaviours(folder(ECHO), http, *GTHREAD, "--http-parser", parser, at_once=4)
    different = {name for name, result in expected("thread", parser).items() if found[name] != result}
    known = set(DIFFERENCES)
    if parser == "fast":
        known = (known | set(IN_C_WAITS)) - {*IN_C, "overflowing length", "length of 2^63"}  # it refuses them, too
    assert different == known, {name: found[name] for name in different ^ known}


RESPONSES = """
    import io

    BODIES = {
        "empty": [], "one": [b"abc"], "two": [b"abc", b"def"], "tuple": (b"abc",), "hollow": [b"", b"abc", b""],
        "large": [b"x" * 300_000], "many": [b"y" * 100] * 50,
    }

    class Closing:
        def __init__(self, chunks): self.chunks = iter(chunks)
        def __iter__(self): return self
        def __next__(self): return next(self.chunks)
        def close(self): pass

    def lazily(start_response, status, headers, chunks):
        start_response(status, headers)
        yield from chunks

    def app(environ, start_response):
        status, length, how, name = environ["PATH_INFO"][1:].split("/")
        chunks = BODIES[name]
        headers = [("X-Kind", how)]
        if length == "length":
            headers.append(("Content-Length", str(len(b"".join(chunks)))))
        status = {"200": "200 OK", "204": "204 No Content", "304": "304 Not Modified", "500": "500 Oops"}[status]
        if how == "lazy":
            return lazily(start_response, status, headers, chunks)
        write = start_response(status, headers)
        if how == "write":
            for chunk in chunks:
                write(chunk)
            return []
        if how == "generator":
            return (chunk for chunk in chunks)
        if how == "closing":
            return Closing(chunks)
        if how == "file":
            return environ["wsgi.file_wrapper"](io.BytesIO(b"".join(chunks)))
        return chunks
"""
PATHS = [
    f"/{status}/{length}/{how}/{name}"
    for status in ("200", "204", "304", "500")
    for length in ("length", "no-length")
    for how in ("list", "generator", "lazy", "closing", "write", "file")
    for name in (("empty", "one", "hollow", "large") if status == "200" else ("empty", "one"))
]


def parse(response: bytes) -> tuple[list[bytes], bytes]:
    """Return the headers, without those that depend on time and worker, and the content of a response."""
    head, _, rest = response.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith((b"Date:", b"Connection:"))]
    if b"Transfer-Encoding: chunked" in lines:
        content = b""
        while (size := int(rest[: rest.index(b"\r\n")], 16)) > 0:
            start = rest.index(b"\r\n") + 2
            content += rest[start : start + size]
            assert rest[start + size : start + size + 2] == b"\r\n"
            rest = rest[start + size + 2 :]
        assert rest == b"0\r\n\r\n", rest
        rest = content
    return lines, rest


def matrix(folder: Path, http: socket.socket, *arguments: str) -> dict[str, tuple[list[bytes], bytes]]:
    found = {}
    with Server(folder, *arguments, "-w", "1", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        for path in PATHS:
            for method, version in (("GET", "1.1"), ("HEAD", "1.1"), ("GET", "1.0")):
                with dial(http) as client:
                    line = f"{method} {path} HTTP/{version}"
                    client.sendall(f"{line}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                    received = answer(client)
                head, _, rest = received.partition(b"\r\n\r\n")
                found[line] = parse(received) if method == "GET" and rest else (parse(head)[0], rest)
    return found


def test_responses_of_all_kinds(folder: Folder, http: socket.socket, figure: Callable[[str], None]) -> None:
    """Path by GET, HEAD and HTTP/1.0: the responses are gthread's."""
    app = folder(RESPONSES)
    reference = matrix(app, http, *GTHREAD)
    for worker in CLASSES:
        found = matrix(app, http, *CONF, *CLASSES[worker])
        different = {line: (reference[line], found[line]) for line in reference if reference[line] != found[line]}
        assert not different, f"{worker}: {len(different)} differ, {list(different.items())[:3]}"
    figure(f"{len(reference)} responses, 0 differences in three workers")


VALIDATED = """
    from wsgiref.validate import validator

    @validator
    def app(environ, start_response):
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"]
        content = body.read(10) if path == "/read" else b"".join(iter(lambda: body.read(3), b""))
        if path == "/lines":
            content = body.readline() + b"".join(body.readlines())
        status = "404 Not Found" if path == "/missing" else "200 OK"
        content = b"" if environ["REQUEST_METHOD"] == "HEAD" else content + b"!"
        headers = [("Content-Type", "text/plain")]
        if path != "/chunked":
            headers.append(("Content-Length", str(len(content))))
        write = start_response(status, headers)
        if path == "/write":
            write(content)
            return []
        return [content] if path != "/lazy" else (content[at:at + 1] for at in range(len(content)))
"""


@ALL
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_wsgiref_validate(folder: Folder, http: socket.socket, worker: str, version: str) -> None:
    arguments = (*CONF, *CLASSES[worker], "-w", "1", "app:app")
    with Server(folder(VALIDATED), *arguments, listeners={"http": http}) as server:
        server.wait_until_ready()
        for path in ("/", "/read", "/missing", "/chunked", "/write", "/lazy", "/lines", "/a%20b?c=d&e"):
            for method in ("GET", "HEAD", "POST", "PUT"):
                with dial(http) as client:
                    content = b"hello\nworld" if method in ("POST", "PUT") else b""
                    head = f"{method} {path} HTTP/{version}\r\nHost: a\r\nConnection: close\r\n"
                    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
                    received = answer(client)
                assert received[9:12] == (b"404" if path == "/missing" else b"200"), (path, method, received)
        assert "AssertionError" not in server.log, server.log
        assert "Traceback" not in server.log, server.log
