"""Plain requests are read in one step: environ, responses and refusals are as in gunicorn's way."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from gunicorn.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_socketact.http.plain import PlainRequest
from flask_socketact.http.states import State
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.lasting import RequestThread
from flask_socketact.workers.leader import ThreadPool
from flask_socketact.workers.thread import ThreadWorker
from tests.support.plain_requests import BROWSER, NGINX, exchanges

#: More of them: ``PLAIN_EXAMPLES=1000000``.
EXAMPLES = int(os.environ.get("PLAIN_EXAMPLES", "300"))
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "trusts all": {"forwarded_allow_ips": "*", "forwarder_headers": "SCRIPT_NAME,X_Y"},
    "other schemes": {"secure_scheme_headers": {"X-FORWARDED-SSL": "on", "x-lower": "on", "X_Y": "a"}},
    "small limits": {"limit_request_line": 60, "limit_request_fields": 6, "limit_request_field_size": 100},
    "limits below any request": {"limit_request_line": 5},
    "no limits": {"limit_request_line": 0, "limit_request_fields": 0, "limit_request_field_size": 0},
    "maps dangerously": {"header_map": "dangerous", "forwarder_headers": ""},
    "unconventional": {"permit_unconventional_http_method": True, "permit_unconventional_http_version": True},
    "folds methods": {"casefold_http_method": True},
    "PROXY protocol": {"proxy_protocol": "v1"},
    "no keep-alive": {"keepalive": 0},
}
PEERS = [("127.0.0.1", 1), ("203.0.113.1", 2), ""]
SERVERS = [("127.0.0.1", 8000), ("::1", 8000, 0, 0), "/run/app.sock", "/run/a:b", "localhost:80"]
HOST = b"Host: example.org"


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Respond with the environ and the body."""
    path = environ["PATH_INFO"]
    if path == "/fails":
        raise RuntimeError("on purpose")
    body = environ["wsgi.input"].read() if path != "/unread" else b""
    environ["wsgi.early_hints"]([("Link", "</a>")])
    shown = {k: v if isinstance(v, str | bool | tuple) else type(v).__name__ for k, v in environ.items()}
    content = repr([sorted(shown.items()), body]).encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]


def describe(request: Any) -> list[Any]:
    """Return what hooks and logs find in a request."""
    names = "method uri path query fragment version headers trailers scheme req_number proxy_protocol_info peer_addr "
    names += "remote_addr limit_request_line limit_request_fields limit_request_field_size max_buffer_headers"
    return [*(getattr(request, name) for name in names.split()), request.should_close()]


class Way:
    """One way to read requests: a loop that the test's own thread runs."""

    def __init__(self, worker: ThreadWorker, *, plain: bool) -> None:
        worker.loop = self._loop = Loop(worker)
        if not plain:
            self._loop._plain = None
        self._pool = ThreadPool(worker)
        self._pool.leader = self._thread = RequestThread()

    def exchange(self, pieces: list[bytes], peer: Any, server: Any) -> tuple[bytes, bool]:
        """Send `pieces`, and then the end; return the responses, and whether the server closed before the end."""
        client, ours = socket.socketpair()
        with client:
            connection = self._loop.adopt(ours, peer, server, "http")
            self._loop.set_deadline(connection, begun=True)
            self._loop.rejoin(connection)
            for piece in pieces:
                with suppress(BrokenPipeError):
                    client.sendall(piece)
                self._serve()
            has_closed = connection not in self._loop.connections or connection.state is State.CLOSING
            client.shutdown(socket.SHUT_WR)
            self._serve()
            if connection in self._loop.connections:
                self._loop.close(connection)
            received = b""
            with suppress(ConnectionResetError):
                while data := client.recv(65536):
                    received += data
        return re.sub(rb"Date: [^\r]*\r\n", b"", received), has_closed

    def _serve(self) -> None:
        """Serve until nothing more has arrived."""
        while True:
            self._loop.poll(0)
            connection = self._loop.next_ready()
            if connection is None:
                return
            assert self._pool._serve(self._thread, connection)

    def close(self) -> None:
        self._loop.epoll.close()
        os.close(self._loop._wakeup)
        os.close(self._pool.alarm.fileno())


class BothWays:
    """Sends the same in both ways, and compares."""

    def __init__(self, worker: ThreadWorker, cfg: Config) -> None:
        worker.wsgi = app
        self.requests: list[Any] = []
        cfg.set("post_request", lambda _worker, request, _environ, _response: self.requests.append(request))
        self.plain, self.gunicorns = Way(worker, plain=True), Way(worker, plain=False)

    def exchange(self, pieces: list[bytes], peer: Any = PEERS[0], server: Any = SERVERS[0]) -> bytes:
        """Return the responses, which are the same in both ways. The plain way's requests are in `requests`."""
        self.requests.clear()
        expected = self.gunicorns.exchange(pieces, peer, server)
        described = [describe(request) for request in self.requests]
        self.requests.clear()
        assert self.plain.exchange(pieces, peer, server) == expected
        assert [describe(request) for request in self.requests] == described
        return expected[0]


@pytest.fixture
def both(request: pytest.FixtureRequest, worker: ThreadWorker, cfg: Config) -> Iterator[BothWays]:
    for name, value in SETTINGS[getattr(request, "param", "defaults")].items():
        cfg.set(name, value)
    both = BothWays(worker, cfg)
    yield both
    both.plain.close()
    both.gunicorns.close()


@pytest.mark.parametrize("both", SETTINGS, indirect=True)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
@given(exchanges(), st.sampled_from(PEERS), st.sampled_from(SERVERS))
def test_both_ways_are_the_same(both: BothWays, pieces: list[bytes], peer: Any, server: Any) -> None:
    both.exchange(pieces, peer, server)


PLAIN = {
    "wrk's": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n",
    "a browser's": b"\r\n".join([b"GET /a%20b?c=%E4 HTTP/1.1", HOST, *BROWSER]) + b"\r\n\r\n",
    "a browser's behind nginx": b"\r\n".join([b"GET / HTTP/1.1", HOST, *NGINX, *BROWSER]) + b"\r\n\r\n",
    "with a body": b"\r\n".join([b"POST / HTTP/1.1", HOST, b"Content-Length: 5"]) + b"\r\n\r\nhello",
}


@pytest.mark.parametrize("sent", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("peer", PEERS, ids=str)
def test_usual_requests_are_plain(both: BothWays, sent: bytes, peer: Any) -> None:
    assert both.exchange([sent], peer, SERVERS[2]).startswith(b"HTTP/1.1 103 Early Hints")
    assert [type(request) for request in both.requests] == [PlainRequest]
    both.exchange([sent * 3], peer)
    assert {type(request) for request in both.requests} == {PlainRequest}


def test_an_empty_line_before_a_request_changes_no_limit(worker: ThreadWorker, cfg: Config) -> None:
    cfg.set("limit_request_line", 100)
    both = BothWays(worker, cfg)
    with closing(both.plain), closing(both.gunicorns):
        assert b" 414 " in both.exchange([b"\r\nGET /" + b"x" * 200 + b" HTTP/1.1\r\nHost: a\r\n\r\n"])
        assert b" 200 " in both.exchange([b"\r\n" + PLAIN["wrk's"]])


def test_a_plain_request_after_one_that_is_not(both: BothWays) -> None:
    expecting = b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"
    both.exchange([expecting, PLAIN["wrk's"]])
    assert [type(request) is PlainRequest for request in both.requests] == [False, True]


def test_a_hook_that_may_change_a_request_gets_gunicorns(worker: ThreadWorker, cfg: Config) -> None:
    def pre_request(_worker: Any, request: Any) -> None:
        request.headers.append(("CONNECTION", "close"))
        request.remote_addr = ("192.0.2.1", request.limit_request_fields)

    cfg.set("pre_request", pre_request)
    both = BothWays(worker, cfg)
    with closing(both.plain), closing(both.gunicorns):
        assert b"('HTTP_CONNECTION', 'close')" in both.exchange([PLAIN["wrk's"]])
    assert [type(request) is PlainRequest for request in both.requests] == [False]


def test_http_parser_python_switches_it_off(worker: ThreadWorker, cfg: Config) -> None:
    cfg.set("http_parser", "python")
    both = BothWays(worker, cfg)
    with closing(both.plain), closing(both.gunicorns):
        both.exchange([PLAIN["wrk's"]])
    assert [type(request) is PlainRequest for request in both.requests] == [False]
