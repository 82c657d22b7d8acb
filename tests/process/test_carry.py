"""Idle connections are handed over through the mailbox."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flask_socketact.shared import scoreboard
from tests.support.http import HALF, ONE_WORKER, REQUEST, answer, answer_over_tls, ask, certificate, exchange, in_drain
from tests.support.load import Load
from tests.support.server import CONF, Server, dial, unix

if TYPE_CHECKING:
    from tests.process.conftest import Folder

WORKERS = pytest.mark.parametrize(
    "worker",
    [
        pytest.param((), id="thread"),
        pytest.param(("-k", "flask_socketact.workers.gevent.GeventWorker"), id="gevent"),
    ],
)


@contextlib.contextmanager
def serving(folder: Path, http: socket.socket, box: socket.socket, *arguments: str) -> Iterator[Server]:
    with Server(folder, *ONE_WORKER, *arguments, listeners={"web": http, "mailbox": box}) as server:
        server.wait_until_ready()
        yield server


def replace(server: Server, number: signal.Signals = signal.SIGHUP) -> None:
    """Replace the only worker."""
    (before,) = server.workers()
    server.signal(number)
    server.wait_for(lambda: before not in server.workers(), "the worker to exit")


@pytest.mark.parametrize("family", ["tcp", "unix"])
@WORKERS
def test_idle_and_silent_connections_are_handed_over(
    plain: Path, http: socket.socket, box: socket.socket, family: str, worker: tuple[str, ...]
) -> None:
    with unix(plain / "http") as path, serving(plain, path if family == "unix" else http, box, *worker) as server:
        listener = path if family == "unix" else http
        with dial(listener) as idle, dial(listener) as silent:
            before = exchange(idle)
            for _ in range(3):
                replace(server)
                after = exchange(idle)
                assert after["pid"] == server.workers()[0] != before["pid"]
                assert after["listener"] == "web"
                replace(server)
            assert exchange(silent)["pid"] == server.workers()[0]
        assert "Mailbox" not in server.log


def test_requests_in_the_kernel_are_handed_over(folder: Folder, http: socket.socket, box: socket.socket) -> None:
    """Requests that wait in the kernel's buffers are handed over with their connections."""
    app = folder(
        """
        import os, time

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/block":
                open("blocked", "w").close()
                while os.path.exists("blocked"):
                    time.sleep(0.01)
            start_response("200 OK", [("Content-Length", "2")])
            return [b"{}"]
        """
    )
    with serving(app, http, box, "--threads", "1") as server, dial(http) as blocking, dial(http) as waiting:
        exchange(waiting)
        blocking.sendall(REQUEST.replace(b"/", b"/block", 1))
        server.wait_for((app / "blocked").exists, "the only thread to be busy")
        waiting.sendall(REQUEST)
        os.kill(server.workers()[0], signal.SIGTERM)
        assert b"Connection: keep-alive" in waiting.recv(65536)  # by another worker
        assert (app / "blocked").exists()
        (app / "blocked").unlink()
        assert b"Connection: keep-alive" in blocking.recv(65536)
        exchange(blocking)


@WORKERS
def test_incomplete_headers_are_finished_by_the_old_worker(
    plain: Path, http: socket.socket, box: socket.socket, worker: tuple[str, ...]
) -> None:
    with serving(plain, http, box, *worker) as server, dial(http) as client:
        (before,) = server.workers()
        client.sendall(HALF)
        assert ask(lambda: dial(http))[0] == 200
        os.kill(before, signal.SIGTERM)
        server.wait_for(lambda: len(server.workers()) == 2, "the replacement")
        content = exchange(client, b"pp\r\n\r\n")
        assert (content["pid"], content["draining"]) == (before, True)
        server.wait_for(lambda: before not in server.workers(), "the worker to exit")
        assert exchange(client)["pid"] == server.workers()[0]


@WORKERS
def test_pipelined_requests_are_handed_over(
    plain: Path, http: socket.socket, box: socket.socket, worker: tuple[str, ...]
) -> None:
    """Bytes that have been read are handed over, too. The drain does not wait until the client pauses."""
    with serving(plain, http, box, "--threads", "1", *worker) as server, dial(http) as client:
        (before,) = server.workers()
        count = 100
        client.sendall(REQUEST.replace(b"/", b"/sleep/0.05", 1) * count)
        received = client.recv(65536)
        os.kill(before, signal.SIGTERM)
        server.wait_for(lambda: before not in server.workers(), "the worker to exit", 2)
        while received.count(b"HTTP/1.1 200 OK") < count or not received.endswith(b"}"):
            data = client.recv(65536)
            assert data, received[-300:]
            received += data
        assert received.count(b"Connection: keep-alive") == count
        assert exchange(client)["pid"] == server.workers()[0]


@pytest.mark.parametrize("threads", ["1", "4"])
@WORKERS
def test_busy_client_does_not_delay_the_drain(
    plain: Path, http: socket.socket, box: socket.socket, threads: str, worker: tuple[str, ...]
) -> None:
    with serving(plain, http, box, "--threads", threads, *worker) as server, dial(http) as client:
        request = REQUEST.replace(b"/", b"/sleep/0.01", 1)
        for _ in range(3):
            (before,) = server.workers()
            os.kill(before, signal.SIGTERM)
            deadline = time.monotonic() + 2
            while before in server.workers():
                assert time.monotonic() < deadline, server.log
                for _ in range(10):
                    exchange(client, request)
            assert exchange(client)["pid"] != before


@WORKERS
def test_application_that_replaces_the_socket_class(
    folder: Folder, http: socket.socket, box: socket.socket, worker: tuple[str, ...]
) -> None:
    """It has replaced socket.socket, as with PySocks, with a class that allows no other kind of sockets."""
    app = folder(
        """
        import socket

        class Proxied(socket.socket):
            def __init__(self, family=socket.AF_INET, type=socket.SOCK_STREAM, *args, **kwargs):
                if type != socket.SOCK_STREAM:
                    raise ValueError("of another kind")
                super().__init__(family, type, *args, **kwargs)

        socket.socket = Proxied

        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "2")])
            return [b"{}"]
        """
    )
    with serving(app, http, box, *worker) as server, dial(http) as client:
        exchange(client)
        replace(server)
        exchange(client)
        assert "Traceback" not in server.log


@WORKERS
def test_connections_wait_when_descriptors_run_short(
    plain: Path, http: socket.socket, box: socket.socket, worker: tuple[str, ...]
) -> None:
    (plain / "settings.py").write_text(
        "from flask_socketact.conf import *\n"
        "import resource\n"
        "def post_worker_init(worker): resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
    )
    listeners = {"web": http, "mailbox": box}
    with (
        Server(plain, "-c", "settings.py", "-w", "2", *worker, "app:app", listeners=listeners) as server,
        contextlib.ExitStack() as stack,
    ):
        (before, _) = server.wait_until_ready().workers()
        clients = [stack.enter_context(dial(http)) for _ in range(70)]
        for client in clients:
            exchange(client)
        os.kill(before, signal.SIGTERM)
        server.wait_for(lambda: before not in server.workers(), "the worker to exit")
        for client in clients:
            exchange(client)
        assert "connections were lost" not in server.log


@WORKERS
def test_empty_line_is_handed_over(
    plain: Path, http: socket.socket, box: socket.socket, worker: tuple[str, ...]
) -> None:
    with serving(plain, http, box, *worker) as server, dial(http) as client:
        exchange(client, REQUEST + b"\r\n")
        replace(server)
        assert exchange(client)["pid"] == server.workers()[0]


@WORKERS
def test_request_in_flight_keeps_its_connection(
    plain: Path, http: socket.socket, box: socket.socket, worker: tuple[str, ...]
) -> None:
    """The old worker finishes the request; the new worker serves the next one."""
    with serving(plain, http, box, *worker) as server, dial(http) as client:
        (before,) = server.workers()
        client.sendall(REQUEST.replace(b"/", b"/sleep/1", 1))
        server.wait_for((plain / "asleep").exists, "the view to run")
        os.kill(before, signal.SIGTERM)
        assert b"Connection: keep-alive" in client.recv(65536)
        server.wait_for(lambda: before not in server.workers(), "the worker to exit")
        assert exchange(client)["pid"] == server.workers()[0]
        assert "Traceback" not in server.log


def test_worker_replaced_after_a_timeout_hands_over(plain: Path, http: socket.socket, box: socket.socket) -> None:
    with serving(plain, http, box, "--timeout", "1") as server, dial(http) as idle, dial(http) as long:
        before = exchange(idle)["pid"]
        long.sendall(REQUEST.replace(b"/", b"/sleep/3", 1))
        server.wait_for_log("has run longer than timeout")
        server.wait_for(lambda: exchange(idle)["pid"] != before, "another worker to respond")
        assert b"Connection: keep-alive" in long.recv(65536)
        server.wait_for(lambda: before not in server.workers(), "the worker to exit")
        assert exchange(long)["pid"] != before


@pytest.mark.parametrize("with_box", [True, False])
@WORKERS
def test_nothing_is_closed_by_max_requests(
    plain: Path, http: socket.socket, box: socket.socket, with_box: bool, worker: tuple[str, ...]
) -> None:
    """Without a mailbox of systemd, the workers have one of their own."""
    listeners = {"web": http, "mailbox": box} if with_box else {"web": http}
    with Server(plain, *CONF, "--max-requests", "100", *worker, "app:app", listeners=listeners) as server:
        server.wait_until_ready()
        with Load(lambda: dial(http), {"keep-alive": 20, "new connection": 2}) as load:
            server.wait_for(lambda: server.log.count("Worker exiting") >= 6, "recycled workers")
        assert not load.failures()
        assert load.closed_by_server == 0


@WORKERS
def test_stop_tells_clients_to_close(
    plain: Path, http: socket.socket, box: socket.socket, worker: tuple[str, ...]
) -> None:
    """Nothing is handed over: systemd would have to start the service to read the mailbox."""
    with serving(plain, http, box, *worker) as server, dial(http) as client, dial(http) as silent:
        exchange(client)
        server.process.terminate()
        server.wait_for(lambda: in_drain(http), "the worker to stop accepting")
        client.sendall(REQUEST)
        assert b"Connection: close" in answer(client)
        assert answer(silent) == b""
        assert server.wait_until_gone() == 0
    box.setblocking(False)
    with pytest.raises(BlockingIOError):
        box.accept()


#: Loads when the test lets it; then fails, if the test wants that.
HELD = """
import os, time

while os.path.exists("hold"):
    time.sleep(0.01)
if os.path.exists("fail"):
    raise RuntimeError("no database")

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"{}"]
"""


@pytest.mark.parametrize("boots", [True, False])
@WORKERS
def test_unread_mail_in_a_stop(
    folder: Folder, http: socket.socket, box: socket.socket, boots: bool, worker: tuple[str, ...]
) -> None:
    """The new worker still loads the application. The stop waits for it, because of the mail. If it fails, the
    mail is closed, or systemd would start the service again."""
    app = folder(HELD)
    with serving(app, http, box, *worker) as server, dial(http) as client:
        exchange(client)
        (before,) = server.workers()
        (app / "hold").touch()
        os.kill(before, signal.SIGTERM)
        server.wait_for(lambda: before not in (workers := server.workers()) and len(workers) == 1, "another worker")
        client.sendall(REQUEST)
        if not boots:
            (app / "fail").touch()
        server.process.terminate()
        server.wait_for_message("STOPPING=1")
        (app / "hold").unlink()
        received = b""
        with contextlib.suppress(ConnectionResetError):
            received = answer(client)
        assert (b"Connection: close" in received) is boots
        assert server.wait_until_gone() == 0
        assert ("Mailbox: closed the connections that 1 senders had sent" in server.log) is not boots
    box.setblocking(False)
    with pytest.raises(BlockingIOError):
        box.accept()


@WORKERS
def test_master_that_has_died(plain: Path, http: socket.socket, box: socket.socket, worker: tuple[str, ...]) -> None:
    """systemd starts the next generation, which finds the connections in the mailbox."""
    with dial(http) as client:
        with serving(plain, http, box, *worker) as server:
            before = exchange(client)["pid"]
            server.process.kill()
            server.wait_for(lambda: not server.workers(), "the worker to exit")
        client.sendall(REQUEST)
        with serving(plain, http, box, *worker):
            assert b"Connection: keep-alive" in client.recv(65536)
            assert exchange(client)["pid"] != before


@WORKERS
def test_full_mailbox(plain: Path, http: socket.socket, box: socket.socket, worker: tuple[str, ...]) -> None:
    (plain / "mailbox").unlink()
    with serving(plain, http, box, *worker) as server, dial(http) as client:
        exchange(client)
        (before,) = server.workers()
        os.kill(before, signal.SIGTERM)
        server.wait_for_log("Idle connections are closed from now on")
        client.sendall(REQUEST)
        assert b"Connection: close" in answer(client)


@pytest.mark.parametrize(
    ("successor", "answers"),
    [
        ("flask_socketact.workers.gevent.GeventWorker", 2),
        ("flask_socketact.workers.sync.SyncWorker", 1),
        ("gunicorn.workers.gthread.ThreadWorker", 0),
    ],
)
def test_new_workers_of_another_class(
    plain: Path, http: socket.socket, box: socket.socket, successor: str, answers: int
) -> None:
    """Without keep-alive each connection gets one more response; without a mailbox the old worker sends it."""

    def configure(worker: str) -> None:
        (plain / "settings.py").write_text(f"from flask_socketact.conf import *\nworker_class = {worker!r}\n")

    configure("flask_socketact.workers.thread.ThreadWorker")
    listeners = {"web": http, "mailbox": box}
    with (
        Server(plain, "-c", "settings.py", "-w", "1", "app:app", listeners=listeners) as server,
        dial(http) as idle,
        dial(http) as busy,
        dial(http) as silent,
    ):
        (before,) = server.wait_until_ready().workers()
        exchange(idle)
        busy.sendall(REQUEST.replace(b"/", b"/sleep/1", 1) + REQUEST)
        server.wait_for((plain / "asleep").exists, "the view to run")
        configure(successor)
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded: ")
        for client in (idle, silent):  # a sync worker does not wait long
            client.sendall(REQUEST)
        server.wait_for(lambda: before not in server.workers(), "the worker to exit")
        received = b""
        while received.count(b"200 OK") < min(answers, 1) + 1:
            received += busy.recv(65536)
        for client in (idle, silent):
            if answers == 2:
                received = b""
                while not received.endswith(b"}"):
                    received += client.recv(65536)
                assert b"Connection: keep-alive" in received
                assert exchange(client)["pid"] != before
            else:
                received = answer(client)
                # Or the old worker has responded before it began to drain.
                assert b"Connection: close" in received or f'"pid": {before},'.encode() in received
        assert "Traceback" not in server.log


def test_two_mailboxes(plain: Path, http: socket.socket, box: socket.socket) -> None:
    with Server(plain, *ONE_WORKER, listeners={"web": http, "one": box, "other": box}) as server:
        assert server.wait_until_gone() == 1
        assert "Error: descriptors 4 and 5 are both mailboxes: keep one ListenSequentialPacket=" in server.log


def test_tls_connections_are_not_handed_over(plain: Path, http: socket.socket, box: socket.socket) -> None:
    """The state of TLS is in the process: the client gets ``Connection: close``."""
    arguments = certificate(plain)
    context = ssl.create_default_context(cafile=str(plain / "cert.pem"))
    with serving(plain, http, box, *arguments) as server:
        with context.wrap_socket(dial(http), server_hostname="localhost") as client:
            exchange(client)
            (before,) = server.workers()
            os.kill(before, signal.SIGTERM)
            server.wait_for(lambda: len(server.workers()) == 2, "the replacement")
            client.sendall(REQUEST)
            assert b"Connection: close" in answer_over_tls(client)


def test_proxy_protocol_data_is_handed_over(folder: Folder, http: socket.socket, box: socket.socket) -> None:
    """The proxy's data holds for the connection, also in another worker."""
    app = folder(
        """
        import json, os

        def app(environ, start_response):
            content = json.dumps({"pid": os.getpid(), "address": environ["REMOTE_ADDR"]}).encode()
            start_response("200 OK", [("Content-Length", str(len(content)))])
            return [content]
        """
    )
    with serving(app, http, box, "--proxy-protocol", "v1", "--proxy-allow-from", "*") as server, dial(http) as client:
        first = exchange(client, b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 80\r\n" + REQUEST)
        second = exchange(client)
        replace(server)
        third = exchange(client)
        assert {content["address"] for content in (first, second, third)} == {"192.0.2.1"}
        assert first["pid"] == second["pid"] != third["pid"]


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
def test_new_connections_go_to_the_new_generation_while_its_master_lives(
    plain: Path, http: socket.socket, box: socket.socket, worker: str
) -> None:
    """Old workers stop accepting when the next master supersedes them, and accept again if it dies just then."""
    environ = {"RUNTIME_DIRECTORY": str(plain / "state")}
    arguments = (*CONF, "-k", f"flask_socketact.workers.{worker}", "app:app")
    listeners = {"web": http, "mailbox": box}
    with (
        Server(plain, *arguments, listeners=listeners, environ=environ) as server,
        subprocess.Popen(["sleep", "600"]) as successor,
    ):
        server.wait_until_ready()
        assert ask(lambda: dial(http))[0] == 200
        scoreboard.supersede(plain / "state", server.process.pid, successor.pid)
        with dial(http) as first, dial(http) as second:
            for client in (first, second):
                client.sendall(REQUEST)
                client.settimeout(0.5)
                with pytest.raises(TimeoutError):  # it waits in the mailbox
                    client.recv(1)
                client.settimeout(10)
            successor.kill()
            successor.wait()
            assert ask(lambda: dial(http))[0] == 200
            for client in (first, second):
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert "Traceback" not in server.log
