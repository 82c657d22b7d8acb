"""The Flask extension under the real gunicorn."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flask_socketact.shared import scoreboard
from flask_socketact.shared.slot import Field, Slot
from tests.support import server
from tests.support.http import ask, post
from tests.support.metrics import counted, samples
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.process.conftest import Folder

THREAD = "flask_socketact.workers.thread.ThreadWorker"
SYNC = "flask_socketact.workers.sync.SyncWorker"
GEVENT = "flask_socketact.workers.gevent.GeventWorker"
ALL = pytest.mark.parametrize("worker", [THREAD, SYNC, GEVENT])

SOURCE = """
import os, threading, time
from pathlib import Path
from flask import Blueprint, Flask
from flask_socketact import SocketAct
from flask_socketact.signals import drain_begun, generation_ready

app = Flask(__name__)
app.config.update(
    SOCKETACT_METRICS="/metrics", SOCKETACT_METRICS_LISTENER="admin", SOCKETACT_HEALTH_LISTENER="admin",
    SOCKETACT_DETAILS_LISTENER="admin", SOCKETACT_REQUEST_ID="X-Request-Id",
)
socketact = SocketAct(app)

@app.get("/")
def hello():
    return f"{os.getpid()}"

@app.get("/secret")
@socketact.only("admin")
def secret():
    return "secret"

@app.get("/busy/<float:seconds>")
def busy(seconds):
    Path("busy").touch()
    time.sleep(seconds)
    return "busy"

@app.get("/limited")
@socketact.deadline(0.5)
def limited():
    return f"{socketact.remaining()}"

@app.get("/exits")
def exits():
    raise SystemExit(3)

@app.post("/work/<float:seconds>")
def work(seconds):
    def send():
        with socketact.hold("send-invoice"):
            Path("begun").touch()
            time.sleep(seconds)
            Path("sent").touch()
    threading.Thread(target=send, daemon=True).start()
    return "accepted"

def note(name):
    def receive(sender):
        assert sender is app
        with open("signals", "a") as file:
            file.write(f"{name} {os.getpid()} {socketact.draining}\\n")
    return receive

receivers = [note("ready"), note("drain")]
generation_ready.connect(receivers[0], app)
drain_begun.connect(receivers[1], app)
"""


@pytest.fixture
def admin() -> Iterator[socket.socket]:
    with server.tcp() as listener:
        yield listener


def by(listener: socket.socket) -> partial[socket.socket]:
    return partial(dial, listener)


def exchange(listener: socket.socket, request: bytes, *headers: bytes) -> bytes:
    """Send a request on a connection of its own, and return the response."""
    with dial(listener) as client:
        client.sendall(b"\r\n".join([request + b" HTTP/1.1", b"Host: app", b"Connection: close", *headers, b"", b""]))
        return b"".join(iter(partial(client.recv, 65536), b""))


def has_counted(listener: socket.socket, responses: int) -> bool:
    return counted(by(listener)) == responses


@ALL
def test_listeners_ids_and_health(folder: Folder, http: socket.socket, admin: socket.socket, worker: str) -> None:
    listeners = {"http": http, "admin": admin}
    with Server(folder(SOURCE), *CONF, "-w", "1", "-k", worker, "app:app", listeners=listeners) as served:
        served.wait_until_ready()
        for target in ("/secret", "/metrics", "/healthz", "/readyz"):
            assert ask(by(http), target)[0] == 404
            assert ask(by(admin), target)[0] == 200
        status, content = ask(by(admin), "/healthz")
        assert b'"workers:serving":[{"observedUnit":"workers","observedValue":1' in content
        assert status == 200
        assert ask(by(http), "/busy/0.3")[0] == 200  # the view's time is not a wait
        found = samples(by(admin))
        assert (
            found['socketact_request_wait_seconds_bucket{le="0.25"}']
            == found["socketact_request_wait_seconds_count"]
            > 0
        )
        # The loopback is in forwarded_allow_ips.
        assert b"\r\nX-Request-Id: theirs\r\n" in exchange(http, b"GET /", b"X-Request-Id: theirs")


@pytest.mark.parametrize("names", [{"http"}, {"http", "internal"}])
def test_unknown_listener(folder: Folder, names: set[str]) -> None:
    """The worker does not boot, and the log names the listeners that exist."""
    listeners = {name: server.tcp() for name in sorted(names)}
    with Server(folder(SOURCE), *CONF, "-w", "1", "app:app", listeners=listeners) as served:
        assert served.wait_until_gone() == 3
        known = " or ".join(map(repr, sorted(names)))
        assert f"ValueError: systemd passes no listener 'admin', only {known}: correct the name" in served.log
    for listener in listeners.values():
        listener.close()


def test_unknown_listener_outside_systemd_is_a_warning(folder: Folder) -> None:
    with Server(folder(SOURCE), *CONF, "-w", "1", "-b", "127.0.0.1:0", "app:app") as served:
        served.wait_until_ready()
        assert "systemd passes no listeners, so views that are restricted to 'admin' respond with 404" in served.log


@pytest.mark.parametrize(("worker", "how"), [(THREAD, "stop"), (SYNC, "stop"), (GEVENT, "stop"), (THREAD, "reload")])
def test_drain_waits_for_holds(
    folder: Folder, http: socket.socket, admin: socket.socket, worker: str, how: str
) -> None:
    path = folder(SOURCE)
    listeners = {"http": http, "admin": admin}
    with Server(path, *CONF, "-w", "1", "-k", worker, "app:app", listeners=listeners) as served:
        served.wait_until_ready()
        post(by(http), "/work/1.5")
        served.wait_for((path / "begun").exists, "the work to begin")
        served.signal(signal.SIGTERM if how == "stop" else signal.SIGHUP)
        served.wait_for((path / "sent").exists, "the work to end")
        if how == "stop":
            assert served.wait_until_gone() == 0
            assert any("0 requests in flight and 1 hold" in message for message in served.messages)
        else:
            served.wait_for(lambda: len(served.workers()) == 1, "the old worker to exit")
        served.wait_for(lambda: "drain" in (path / "signals").read_text(), "the signal")


@ALL
def test_hold_longer_than_the_drain_time_is_logged(
    folder: Folder, http: socket.socket, admin: socket.socket, worker: str
) -> None:
    path = folder(SOURCE)
    arguments = (*CONF, "-w", "1", "-k", worker, "--graceful-timeout", "1", "app:app")
    with Server(path, *arguments, listeners={"http": http, "admin": admin}) as served:
        served.wait_until_ready()
        post(by(http), "/work/20.0")
        served.wait_for((path / "begun").exists, "the work to begin")
        began = time.monotonic()
        served.process.terminate()
        assert served.wait_until_gone() == 0
        assert 1.0 <= time.monotonic() - began < 5
        assert re.search(
            r"The drain time of 1 s has expired: exiting, and cutting off send-invoice \(\d+\.\d s\)", served.log
        )
        assert not (path / "sent").exists()


@pytest.mark.parametrize("worker", [THREAD, SYNC])
def test_signals(folder: Folder, http: socket.socket, admin: socket.socket, worker: str) -> None:
    path = folder(SOURCE)
    noted = path / "signals"
    noted.touch()
    with Server(path, *CONF, "-w", "2", "-k", worker, "app:app", listeners={"http": http, "admin": admin}) as served:
        served.wait_until_ready()
        first = set(served.workers())
        served.wait_for(lambda: noted.read_text().count("ready") == 2, "the signals of two workers")
        served.signal(signal.SIGHUP)
        served.wait_for(lambda: noted.read_text().count("drain") == 2, "the signals of the old workers")
        served.wait_for(lambda: noted.read_text().count("ready") == 4, "the signals of the new workers")
        lines = [line.split() for line in noted.read_text().splitlines()]
        assert {int(pid) for name, pid, draining in lines if name == "drain" and draining == "True"} == first
        assert {draining for name, _, draining in lines if name == "ready"} == {"False"}


@ALL
def test_request_that_was_queued_for_too_long(
    folder: Folder, http: socket.socket, admin: socket.socket, worker: str
) -> None:
    """The kernel knows how long: no worker had accepted its connection."""
    path = folder(SOURCE)
    arguments = (*CONF, "-w", "1", "--threads", "1", "-k", worker, "app:app")
    late = dial(http)
    late.sendall(b"GET /limited HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
    time.sleep(0.6)  # the deadline is 0.5
    with Server(path, *arguments, listeners={"http": http, "admin": admin}) as served:
        served.wait_until_ready()
        response = late.recv(65536)
        assert response.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in response
        assert b"\r\nX-Request-Id: " in response
        late.close()  # the sync worker waits for it
        assert ask(by(http), "/limited")[0] == 200
        for allowed, status in ((b"t=%d", b"503"), (b"t=%d000", b"503"), (b"yesterday", b"200")):
            sent = allowed % (time.time() - 5) if b"%" in allowed else allowed
            assert exchange(http, b"GET /limited", b"X-Request-Start: " + sent)[9:12] == status
        found = samples(by(admin))
        assert found["socketact_deadline_exceeded_total"] == 3
        assert found['socketact_request_wait_seconds_bucket{le="0.5"}'] < found["socketact_request_wait_seconds_count"]


@ALL
def test_metrics_of_all_workers(
    folder: Folder, http: socket.socket, admin: socket.socket, tmp_path: Path, worker: str
) -> None:
    """Also of those that exited after max_requests, a reload or kill -9, and after the next start."""
    path = folder(SOURCE)
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "counters"), "RUNTIME_DIRECTORY": str(tmp_path / "state")}
    arguments = (*CONF, "-w", "2", "-k", worker, "--max-requests", "40", "app:app")
    sent = 0
    for start in (1, 2):
        listeners = {"http": http, "admin": admin}
        with Server(path, *arguments, listeners=listeners, environ=environ) as served:
            served.wait_until_ready()
            with ThreadPoolExecutor(8) as clients:
                for response in clients.map(lambda _: ask(by(http)), range(100)):
                    sent += response[0] == 200
                served.signal(signal.SIGHUP)
                for response in clients.map(lambda _: ask(by(http)), range(100)):
                    sent += response[0] == 200
            served.wait_for(partial(has_counted, admin, sent), f"{sent} requests in /metrics")
            served.wait_for_log("Reloaded")
            found = samples(by(admin))
            assert found.get("socketact_starts_total") == start, served.log
            assert found['socketact_reloads_total{result="succeeded"}'] == start
            assert found["socketact_boot_seconds"] > 0
            # A draining worker has no listener.
            queue = 'socketact_listener_queue{listener="http"}'
            served.wait_for(lambda: samples(by(admin)).get(queue) == 0, "the length of the queue")  # noqa: B023
            served.wait_for(lambda: samples(by(admin))['socketact_workers{state="serving"}'] == 2, "two workers")
            served.wait_for(lambda: len(served.workers()) == 2, "the others to exit")
            killed = int(ask(by(http))[1])
            sent += 1
            served.wait_for(partial(has_counted, admin, sent), f"{sent} requests in /metrics")
            before = samples(by(admin))
            os.kill(killed, signal.SIGKILL)
            served.wait_for(lambda: killed not in served.workers(), "the worker to exit")  # noqa: B023
            after = samples(by(admin))
            for name, number in before.items():
                if name.partition("{")[0].endswith(("_total", "_count", "_bucket", "_sum")):
                    assert after[name] >= number, name
    assert sent == 402
    files = len(list((tmp_path / "counters").glob("histogram_fast_*.db")))
    assert files <= 8  # as many as there were workers at the same time


def test_request_whose_view_exits_is_counted(folder: Folder, http: socket.socket, admin: socket.socket) -> None:
    with Server(folder(SOURCE), *CONF, "-w", "1", "app:app", listeners={"http": http, "admin": admin}):
        assert ask(by(http), "/exits")[0] == 500
        assert samples(by(admin))['socketact_request_duration_seconds_count{endpoint="exits",status="500"}'] == 1


def test_headers_of_untrusted_peers_are_ignored(folder: Folder, http: socket.socket, admin: socket.socket) -> None:
    arguments = (*CONF, "-w", "1", "--forwarded-allow-ips", "10.0.0.0/8", "app:app")
    with Server(folder(SOURCE), *arguments, listeners={"http": http, "admin": admin}) as served:
        served.wait_until_ready()
        response = exchange(
            http, b"GET /limited", b"X-Request-Start: t=%d" % (time.time() - 5), b"X-Request-Id: theirs"
        )
        assert response.startswith(b"HTTP/1.1 200 ")
        assert b"theirs" not in response


def test_idle_exit_waits_for_holds(folder: Folder, http: socket.socket, admin: socket.socket) -> None:
    path = folder(SOURCE)
    environ = {"SOCKETACT_IDLE_EXIT": "0.5"}
    arguments = (*CONF, "-w", "1", "app:app")
    with Server(path, *arguments, listeners={"http": http, "admin": admin}, environ=environ) as served:
        served.wait_until_ready()
        post(by(http), "/work/2.0")
        assert served.wait_until_gone() == 0
        assert (path / "sent").exists()
        assert "No connection for 0.5 s" in served.log


def only_slot(folder: Path, gunicorn: Server) -> Slot:
    """Return the only worker's row of the scoreboard."""
    board = scoreboard.read(folder / "counters", gunicorn.process.pid)
    assert board is not None
    (slot,) = board.taken()
    return slot


@ALL
def test_scoreboard_shows_errors_and_the_oldest_request(folder: Folder, http: socket.socket, worker: str) -> None:
    """Responses of 5xx, also of an application that raises, and the start of the oldest request."""
    app = folder(
        """
        import time

        def app(environ, start_response):
            path = environ["PATH_INFO"]
            if path == "/raise":
                raise RuntimeError("a slip")
            if path == "/sleep":
                time.sleep(3)
            start_response({"/503": "503 No", "/404": "404 No"}.get(path, "200 OK"), [("Content-Length", "0")])
            return []
        """
    )
    environ = {"RUNTIME_DIRECTORY": str(app / "counters")}
    with Server(app, *CONF, "-w1", "-k", worker, "app:app", listeners={"http": http}, environ=environ) as gunicorn:
        gunicorn.wait_until_ready()
        for path, status in (("/", 200), ("/404", 404), ("/503", 503), ("/raise", 500)):
            assert ask(by(http), path)[0] == status
        gunicorn.wait_for(lambda: only_slot(app, gunicorn)[Field.REQUESTS] == 4, "the count")
        slot = only_slot(app, gunicorn)
        assert (slot[Field.ERRORS], slot[Field.ACCEPTING]) == (2, 1)
        assert slot[Field.WAITED] < 1e9
        with dial(http) as client:
            client.sendall(b"GET /sleep HTTP/1.1\r\nHost: app\r\n\r\n")
            gunicorn.wait_for(lambda: only_slot(app, gunicorn).oldest_age > 1, "the age of the request")
            assert only_slot(app, gunicorn)[Field.IN_FLIGHT] == 1
            gunicorn.signal(signal.SIGTERM)
            gunicorn.wait_for(lambda: only_slot(app, gunicorn)[Field.DRAINING], "the drain")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")


@ALL
def test_a_release_is_not_judged_by_requests_of_monitors(folder: Folder, http: socket.socket, worker: str) -> None:
    """Those of deploy itself are counted: it subtracts them."""
    app = folder(
        """
        from flask import Flask, abort
        from flask_socketact import SocketAct

        app = Flask(__name__)
        app.config["SOCKETACT_METRICS"] = "/metrics"
        socketact = SocketAct(app)
        socketact.check("database")(lambda: False)

        @app.get("/")
        def hello():
            abort(500)
        """
    )
    (app / "counters").mkdir()
    environ = {"RUNTIME_DIRECTORY": str(app / "counters")}
    with Server(app, *CONF, "-w1", "-k", worker, "app:app", listeners={"http": http}, environ=environ) as gunicorn:
        gunicorn.wait_until_ready()
        asked = {"/readyz": 503, "/healthz": 200, "/metrics": 200, "/": 500, "/nothing": 404}
        assert {path: ask(by(http), path)[0] for path in asked} == asked
        with dial(http) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: app\r\nUser-Agent: flask-socketact-deploy\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 503")
        gunicorn.wait_for(lambda: only_slot(app, gunicorn)[Field.REQUESTS] == 6, "the count")
        board = scoreboard.read(app / "counters", gunicorn.process.pid)
        assert board is not None
        assert board.counts() == (3, 2)
        assert only_slot(app, gunicorn)[Field.ERRORS] == 3  # status shows all


@ALL
def test_requests_of_a_worker_that_has_crashed_are_counted(folder: Folder, http: socket.socket, worker: str) -> None:
    """Otherwise a release whose workers crash would look healthy."""
    app = folder(
        """
        import os

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/crash":
                os._exit(7)
            start_response("500 No", [("Content-Length", "0")])
            return []
        """
    )
    (app / "counters").mkdir()

    def counts() -> tuple[int, int]:
        board = scoreboard.read(app / "counters", gunicorn.process.pid)
        assert board is not None
        return board.counts()

    environ = {"RUNTIME_DIRECTORY": str(app / "counters")}
    with Server(app, *CONF, "-w2", "-k", worker, "app:app", listeners={"http": http}, environ=environ) as gunicorn:
        gunicorn.wait_until_ready()
        assert ask(by(http))[0] == 500
        for _ in range(2):
            with dial(http) as client:
                client.sendall(b"GET /crash HTTP/1.1\r\nHost: app\r\n\r\n")
                assert client.recv(4096) == b""
        gunicorn.wait_for(lambda: counts() == (3, 3), f"the counts, not {counts()}")
