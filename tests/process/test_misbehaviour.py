"""Whatever a view does, the worker keeps running, and other requests are served."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flask_socketact.errors import RequestError
from flask_socketact.shared import scoreboard
from flask_socketact.shared.slot import Field, Slot
from tests.support.http import REQUEST, answer, ask, exchange
from tests.support.server import CONF, Server, dial, tcp

if TYPE_CHECKING:
    from tests.process.conftest import Folder

CLASSES = {
    "thread": (),
    "sync": ("-k", "flask_socketact.workers.sync.SyncWorker"),
    "gevent": ("-k", "flask_socketact.workers.gevent.GeventWorker"),
}
ALL = pytest.mark.parametrize("worker", CLASSES)
KEEP_ALIVE = pytest.mark.parametrize("worker", ["thread", "gevent"])

#: Another client's request meanwhile.
BASE = """
    import asyncio, builtins, json, os, signal, socket, sys, threading, time

    def plain(start_response, content=b"{}", status="200 OK"):
        start_response(status, [("Content-Length", str(len(content)))])
        return [content]

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/":
            return plain(start_response)
        if path.startswith("/sleep/"):
            open("asleep", "w").close()
            time.sleep(float(path[7:]))
            return plain(start_response)
        return misbehave(path[1:], environ, start_response)
"""


@contextlib.contextmanager
def serving(
    folder: Path, http: socket.socket, worker: str, *arguments: str, environ: dict[str, str] | None = None
) -> Iterator[Server]:
    """Run one worker, which must still be running at the end."""
    environ = {"RUNTIME_DIRECTORY": str(folder / "state")} | (environ or {})
    command = (*CONF, "-w", "1", *CLASSES[worker], *arguments, "app:app")
    with Server(folder, *command, listeners={"http": http}, environ=environ) as server:
        before = server.wait_until_ready().workers()
        yield server
        assert server.workers() == before, server.log
        assert ask(lambda: dial(http))[0] == 200


def slot(server: Server, folder: Path) -> Slot:
    """Return the counters of the only worker."""
    board = scoreboard.find([folder / "state"], server.process.pid)
    assert board is not None
    (found,) = board.taken()
    return found


def wait_for_errors(server: Server, folder: Path, count: int) -> None:
    server.wait_for(lambda: slot(server, folder)[Field.ERRORS] == count, f"{count} errors, not more")
    server.wait_for(lambda: slot(server, folder)[Field.IN_FLIGHT] == 0, "nothing in flight")
    assert slot(server, folder)[Field.ERRORS] == count


def fetch(http: socket.socket, request: bytes) -> bytes:
    """Send a request, and return all that comes until the server closes."""
    with dial(http) as client:
        client.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            return answer(client)
    return b""


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: app", "Connection: close", *lines, "", ""]).encode()


RAISES = (
    BASE
    + """
    class Odd(BaseException):
        pass

    def pieces(kind, first):
        if first:
            yield b"first"
        raise kind("on purpose")

    class File:
        def __init__(self, pieces): self.pieces = pieces
        def read(self, size): return next(self.pieces)

    def misbehave(what, environ, start_response):
        where, _, name = what.partition("/")
        kind = {"Odd": Odd, "CancelledError": asyncio.CancelledError}.get(name) or getattr(builtins, name)
        if where == "view":
            raise kind("on purpose")
        start_response("200 OK", [("Content-Length", "10")])
        body = pieces(kind, where.startswith("later"))
        return environ["wsgi.file_wrapper"](File(body)) if where.endswith("file") else body
"""
)
#: Exceptions of all kinds, also those that a server could take for its own.
KINDS = (
    *("Odd", "BaseException", "KeyboardInterrupt", "CancelledError", "GeneratorExit", "SystemExit", "RecursionError"),
    *("ConnectionRefusedError", "BrokenPipeError", "ConnectionResetError", "TimeoutError", "OSError", "MemoryError"),
)


@ALL
def test_exception_ends_only_its_request(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder(RAISES)
    with serving(app, http, worker) as server:
        for kind in KINDS:
            for where in ("view", "first", "first-file"):
                received = fetch(http, get(f"/{where}/{kind}"))
                assert received.startswith(b"HTTP/1.1 500"), (kind, where, received)
            for where in ("later", "later-file"):
                received = fetch(http, get(f"/{where}/{kind}"))
                assert received.startswith(b"HTTP/1.1 200")
                assert received.endswith(b"first"), (kind, where, received)
            assert f"{kind}: on purpose" in server.log or kind in ("Odd", "CancelledError", "SystemExit")
        wait_for_errors(server, app, 5 * len(KINDS))
        assert server.log.count("on purpose") >= 5 * len(KINDS)


@ALL
def test_view_that_fails_before_anything_is_sent(folder: Folder, http: socket.socket, worker: str) -> None:
    """The headers are set but not sent: a 500 is still possible."""
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        if what == "twice":
            plain(start_response)
        if what != "never":
            start_response("200 OK", [("Content-Type", "text/plain")])
        return ["abc"] if what == "text" else [5] if what == "number" else [b""]
    """
    )
    with serving(app, http, worker) as server:
        for what in ("text", "number", "twice", "never"):
            assert fetch(http, get(f"/{what}")).startswith(b"HTTP/1.1 500"), what
        wait_for_errors(server, app, 4)


@ALL
@pytest.mark.parametrize("deed", ["close", "detach", "settimeout", "setblocking", "shutdown"])
def test_gunicorn_socket_is_a_duplicate(folder: Folder, http: socket.socket, worker: str, deed: str) -> None:
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        client = environ["gunicorn.socket"]
        if what == "close":
            client.close()
        elif what == "detach":
            os.close(client.detach())
        elif what == "settimeout":
            client.settimeout(0.01)
        elif what == "setblocking":
            client.setblocking(False)
        else:
            client.shutdown(socket.SHUT_RDWR)
        return plain(start_response, b" " * 5_000_000 + b"}")
    """
    )
    keeps_alive = worker != "sync"
    with serving(app, http, worker) as server, contextlib.ExitStack() as stack:
        if keeps_alive:
            slow = stack.enter_context(dial(http))
            slow.sendall(REQUEST.replace(b"/", b"/sleep/1", 1))
        for _ in range(3):
            with dial(http) as client:
                client.sendall(f"GET /{deed} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                received = b""
                with contextlib.suppress(ConnectionError):
                    while not received.endswith(b"}") and (data := client.recv(65536)):
                        received += data
                if deed != "shutdown":
                    assert len(received) > 5_000_000
                    if keeps_alive:
                        exchange(client)  # the connection still works
        if keeps_alive:
            assert b"200 OK" in slow.recv(65536)
        assert "Traceback" not in server.log, server.log


SOCK = """
    from flask import Flask
    from flask_sock import Sock

    app = Flask(__name__)
    sock = Sock(app)

    @app.get("/")
    def index(): return "{}"

    @app.get("/sleep/<float:seconds>")
    def sleep(seconds):
        import time
        time.sleep(seconds)
        return "{}"

    @sock.route("/hi")
    def hi(ws): ws.send("hi")

    @sock.route("/echo")
    def echo(ws):
        while True: ws.send(ws.receive())

    @sock.route("/fails")
    def fails(ws): raise ValueError("on purpose")
"""


def websocket(http: socket.socket, path: str) -> socket.socket:
    client = dial(http)
    key = ("Upgrade: websocket", "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==", "Sec-WebSocket-Version: 13")
    client.sendall(get(path, *key).replace(b"Connection: close", b"Connection: Upgrade"))
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(1)
    assert received.startswith(b"HTTP/1.1 101")
    return client


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


#: A masked frame of WebSocket: Close, with status 1000 and a mask of zeros.
CLOSE_FRAME = b"\x88\x82\0\0\0\0\x03\xe8"


@KEEP_ALIVE
def test_websockets_end_in_every_way(folder: Folder, http: socket.socket, worker: str) -> None:
    """simple-websocket closes the socket itself. Other connections are not affected, and no error is counted."""
    app = folder(SOCK)
    with serving(app, http, worker, "--threads", "8") as server, dial(http) as slow:
        idle = [dial(http) for _ in range(10)]
        for client in idle:
            exchange(client)
        slow.sendall(REQUEST.replace(b"/", b"/sleep/4.0", 1))
        for _ in range(4):
            for path in ("/hi", "/echo"):
                for end in ("close frame", "close", "reset", "garbage"):
                    client = websocket(http, path)
                    if end == "close frame":
                        client.sendall(CLOSE_FRAME)
                    elif end == "garbage":
                        client.sendall(b"\xff" * 20)
                    reset(client) if end == "reset" else client.close()
        assert b"200 OK" in slow.recv(65536)
        for client in idle:
            exchange(client)
            client.close()
        server.wait_for(lambda: slot(server, app)[Field.IN_FLIGHT] == 0, "nothing in flight")
        assert slot(server, app)[Field.ERRORS] == 0
        # If Flask has logged one, its view has found that the client had disconnected.
        assert server.log.count("Traceback") == server.log.count("Exception on /"), server.log


@KEEP_ALIVE
def test_websocket_whose_view_fails_is_closed(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder(SOCK)
    with serving(app, http, worker), websocket(http, "/fails") as client:
        client.settimeout(5)
        answer(client)


@ALL
def test_default_timeout_of_the_application_is_ignored(folder: Folder, http: socket.socket, worker: str) -> None:
    """It affects only sockets of the application: silent clients hold no thread, and the worker waits for slow ones."""
    app = folder(
        BASE
        + """
    socket.setdefaulttimeout(0.3)

    def misbehave(what, environ, start_response):
        return plain(start_response, environ["wsgi.input"].read())
    """
    )
    with serving(app, http, worker) as server:
        silent = [dial(http) for _ in range(8)] if worker != "sync" else []
        with dial(http) as slow:
            slow.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            time.sleep(1)  # longer than the timeout
            began = time.monotonic()
            assert worker == "sync" or ask(lambda: dial(http))[0] == 200
            assert time.monotonic() - began < 0.3
            slow.sendall(b"cd")
            received = b""
            while not received.endswith(b"abcd"):
                data = slow.recv(65536)
                assert data, server.log
                received += data
        for client in silent:
            client.close()


FORKS = (
    BASE
    + """
    import multiprocessing

    def pieces():
        yield b"a"
        if os.fork() == 0:
            yield b"child"
            sys.exit(3)
        os.wait()
        yield b"b"

    def misbehave(what, environ, start_response):
        if what == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            process.start()
            process.terminate()
            process.join()
            return plain(start_response, str(process.exitcode).encode())
        if what == "pieces":
            start_response("200 OK", [("Content-Length", "2")])
            return pieces()
        child = os.fork()
        if child == 0:
            if what == "exit":
                sys.exit(7)
            if what == "raise":
                raise ValueError("in the child")
            if what == "leave":
                os._exit(9)
            if what == "stop":
                raise StopIteration
            if what == "close":
                environ["gunicorn.socket"].close()
            return plain(start_response, b"from the child")
        return plain(start_response, str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
"""
)


@ALL
@pytest.mark.parametrize(
    ("deed", "status"),
    [
        *(("exit", "7"), ("raise", "1"), ("leave", "9"), ("stop", "1"), ("return", "0"), ("close", "0")),
        *(("multiprocessing", "-15"), ("pieces", "ab")),
    ],
)
def test_child_of_a_view_does_not_serve(
    folder: Folder, http: socket.socket, worker: str, deed: str, status: str
) -> None:
    app = folder(FORKS)
    with serving(app, http, worker) as server:
        for _ in range(3):
            received = fetch(http, get(f"/{deed}"))
            assert received.startswith(b"HTTP/1.1 200"), received
            assert received.endswith(f"\r\n\r\n{status}".encode())
        assert slot(server, app)[Field.DRAINING] == 0
        assert slot(server, app)[Field.IN_FLIGHT] == 0


@ALL
def test_first_child_that_exits_at_once_is_waited_for(folder: Folder, http: socket.socket, worker: str) -> None:
    """It has exited before the fork returns in its parent."""
    app = folder(
        FORKS
        + """
    def wait():
        end = time.monotonic() + 0.3
        while time.monotonic() < end:  # gevent's sleep() would run its loop
            pass

    os.register_at_fork(after_in_parent=wait)
"""
    )
    with serving(app, http, worker):
        assert fetch(http, get("/leave")).endswith(b"\r\n\r\n9")


@ALL
def test_long_lived_child_holds_no_sockets(folder: Folder, worker: str) -> None:
    """It holds no client's connection, which the client sees closed, and no listener."""
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        child = os.fork()
        if child == 0:
            time.sleep(60)
        return plain(start_response, str(child).encode())
    """
    )
    with tcp() as http:
        with serving(app, http, worker) as server:
            child = int(fetch(http, get("/fork")).rpartition(b"\r\n\r\n")[2])
            server.wait_for(lambda: not served_on(child, http), "the child to close what the worker serves on")
            os.kill(child, signal.SIGTERM)
            server.wait_for(lambda: child not in server.workers(), "the child to end")


def served_on(pid: int, http: socket.socket) -> bool:
    """Return whether a process has the listener (besides the copy that the server was started with) or an epoll
    (besides that of its own gevent loop)."""
    held = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # just closed
            held.append(os.readlink(path))
    return held.count(f"socket:[{os.fstat(http.fileno()).st_ino}]") > 1 or held.count("anon_inode:[eventpoll]") > 1


@ALL
def test_child_forked_while_the_application_loads(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder(
        BASE
        + """
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    assert process.exitcode == -15
    """
    )
    with serving(app, http, worker) as server:
        assert ask(lambda: dial(http))[0] == 200
        assert "Exception ignored" not in server.log, server.log


@pytest.mark.parametrize("call", ["patch_all()", "patch_socket()", "patch_thread()"])
def test_monkey_patching_with_the_thread_worker(folder: Folder, http: socket.socket, call: str) -> None:
    app = folder(f"    from gevent import monkey; monkey.{call}\n" + BASE)
    with Server(app, *CONF, "-w", "2", "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() != 0
        assert "use worker_class = 'flask_socketact.workers.gevent.GeventWorker'" in server.log
        assert server.log.count("Booting worker") <= 4


@ALL
@pytest.mark.parametrize(
    "handler", ["lambda *_: None", "lambda *_: sys.exit()", "lambda *_: open('told', 'w').close()"]
)
def test_signal_handlers_of_the_application(folder: Folder, http: socket.socket, worker: str, handler: str) -> None:
    """A reload ends the old worker after its request. Then the handler is called."""
    app = folder(
        BASE
        + f"""
    for number in (signal.SIGTERM, signal.SIGURG, signal.SIGWINCH, signal.SIGALRM):
        signal.signal(number, {handler})
    """
    )
    command = (*CONF, "-w", "1", *CLASSES[worker], "--graceful-timeout", "5", "app:app")
    with Server(app, *command, listeners={"http": http}) as server:
        (before,) = server.wait_until_ready().workers()
        with dial(http) as client:
            client.sendall(REQUEST.replace(b"/", b"/sleep/1.5", 1))
            server.wait_for((app / "asleep").exists, "the view to run")
            server.signal(signal.SIGHUP)
            received = client.recv(65536)
            assert b"200 OK" in received, (received, server.log)
        server.wait_for(lambda: before not in server.workers(), "the old worker to exit", 4)
        assert "The application has set a handler for SIGTERM" in server.log
        assert (app / "told").exists() is ("told" in handler)
        assert ask(lambda: dial(http))[0] == 200


@ALL
def test_application_threads_that_do_not_end(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder(BASE + "\n    threading.Thread(target=lambda: threading.Event().wait(), name='endless').start()\n")
    command = (*CONF, "-w", "1", *CLASSES[worker], "--graceful-timeout", "2", "app:app")
    with Server(app, *command, listeners={"http": http}) as server:
        server.wait_until_ready()
        server.process.terminate()
        assert server.wait_until_gone(6) == 0
        assert "killed" not in server.log
        if worker != "gevent":  # its threads are greenlets
            assert server.log.count("exiting although the application's thread endless is running") == 1


MALFORMED = (
    b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhellox\r\n",
    b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
)


@ALL
@pytest.mark.parametrize("kind", ["flask", "raw"])
def test_malformed_bodies_are_client_errors(folder: Folder, http: socket.socket, worker: str, kind: str) -> None:
    raw = """
    def misbehave(what, environ, start_response):
        return plain(start_response, environ["wsgi.input"].read())
    """
    flask = """
    from flask import Flask, request
    flask = Flask(__name__)

    @flask.post("/read")
    def read(): return request.get_data()

    def misbehave(what, environ, start_response):
        return flask(environ, start_response)
    """
    app = folder(BASE + (flask if kind == "flask" else raw))
    with serving(app, http, worker) as server:
        for request in MALFORMED:
            received = fetch(http, request)
            assert received.startswith(b"HTTP/1.1 400"), received
        for body in (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe", b"Content-Length: 9\r\n\r\nhe"):
            client = dial(http)
            client.sendall(b"POST /read HTTP/1.1\r\nHost: a\r\n" + body)
            server.wait_for(lambda: slot(server, app)[Field.IN_FLIGHT] == 1, "the view to read")
            reset(client)
            server.wait_for(lambda: slot(server, app)[Field.IN_FLIGHT] == 0, "the view to end")
        assert slot(server, app)[Field.ERRORS] == 0
        assert "Traceback" not in server.log, server.log


def test_hang_after_a_reset_upload(folder: Folder, http: socket.socket) -> None:
    """No progress: the client has disconnected, and the view waits for something else."""
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError:
            hang()

    def hang():
        open("hangs", "w").close()
        time.sleep(5)
    """
    )
    command = (*CONF, "-w", "1", "--timeout", "1", "app:app")
    with Server(app, *command, listeners={"http": http}, environ={"SOCKETACT_BODY_BUFFER": "0"}) as server:
        server.wait_until_ready()
        client = dial(http)
        client.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhe")
        reset(client)
        server.wait_for((app / "hangs").exists, "the view to hang")
        server.wait_for_log("A request has run longer than timeout = 1 s: this worker is replaced")
        server.wait_for_log("in hang")
        assert "A client has neither sent nor read" not in server.log


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_slow_reader_is_not_disconnected(folder: Folder, tmp_path: Path, family: str) -> None:
    """It makes progress, although the kernel wakes the sender only after megabytes."""
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        return plain(start_response, bytes(30_000_000))
    """
    )
    with contextlib.ExitStack() as stack:
        if family == "unix":
            http = stack.enter_context(socket.socket(socket.AF_UNIX))
            http.bind(str(tmp_path / "http"))
            http.listen()
        else:
            http = stack.enter_context(tcp())
        server = stack.enter_context(serving(app, http, "thread", "--timeout", "2"))
        client = stack.enter_context(dial(http))
        client.sendall(get("/large"))
        step = 5 if family == "tcp" else 70_000  # for a Unix socket the kernel reports whole buffers
        for _ in range(14):  # seven times the timeout
            assert client.recv(step)
            time.sleep(0.5)
        assert "disconnected" not in server.log
        assert len(answer(client)) > 29_000_000
        assert "runs longer" not in server.log


def test_header_timeout_counts_from_the_connection_once(plain: Path, http: socket.socket) -> None:
    environ = {"SOCKETACT_HEADER_TIMEOUT": "2"}
    with Server(plain, *CONF, "-w", "1", "app:app", listeners={"http": http}, environ=environ) as server:
        server.wait_until_ready()
        with dial(http) as client:
            began = time.monotonic()
            time.sleep(1.5)
            client.sendall(b"GET / HT")
            assert answer(client).startswith(b"HTTP/1.1 408")
            assert time.monotonic() - began < 2 + 1.5  # a sweep a second
            assert time.monotonic() - began > 2


def test_empty_line_after_a_body_begins_no_request(plain: Path, http: socket.socket) -> None:
    environ = {"SOCKETACT_HEADER_TIMEOUT": "1"}
    with Server(plain, *CONF, "-w", "1", "app:app", listeners={"http": http}, environ=environ) as server:
        server.wait_until_ready()
        with dial(http) as client:
            exchange(client, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\n")
            time.sleep(3)  # longer than the header timeout, and than a sweep
            exchange(client)
            client.sendall(b"\r\n")
            time.sleep(3)
            exchange(client)


@ALL
def test_ipv4_clients_of_a_dual_stack_listener(folder: Folder, worker: str) -> None:
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        return plain(start_response, f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']}".encode())
    """
    )
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as http:
        with serving(app, http, worker):
            for host, seen in (("127.0.0.1", b"127.0.0.1 https"), ("::1", b"::1 https")):
                with socket.create_connection((host, http.getsockname()[1])) as client:
                    client.sendall(get("/who", "X-Forwarded-Proto: https"))
                    assert answer(client).endswith(seen)


@KEEP_ALIVE
def test_descriptors_are_reserved_for_the_application(folder: Folder, http: socket.socket, worker: str) -> None:
    """With more clients than descriptors, each accepted client is served, by a view that opens files."""
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        files = [open("/dev/null") for _ in range(4)]
        for file in files:
            file.close()
        return plain(start_response)
    """
    )
    (app / "settings.py").write_text(
        "from flask_socketact.conf import *\n"
        "import resource\n"
        "def post_worker_init(worker): resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
    )
    # Two at once open as many files as are reserved: descriptors.RESERVE.
    arguments = ("-c", "settings.py", "-w", "1", "--threads", "2", *CLASSES[worker], "app:app")
    with Server(app, *arguments, listeners={"http": http}) as server:
        (pid,) = server.wait_until_ready().workers()
        http.listen(256)
        clients = [dial(http) for _ in range(200)]
        for client in clients:
            client.settimeout(0.05)
            client.sendall(REQUEST.replace(b"/", b"/files", 1))
        served: set[socket.socket] = set()
        deadline = time.monotonic() + 40
        while len(served) < len(clients):
            assert time.monotonic() < deadline, f"{len(served)} served\n{server.log}"
            for client in set(clients) - served:
                with contextlib.suppress(TimeoutError):
                    assert b"200 OK" in client.recv(65536)
                    served.add(client)
        before = cpu(pid)
        time.sleep(1)
        assert cpu(pid) - before < 0.3  # nothing spins
        assert server.workers() == [pid]
        assert "Traceback" not in server.log
        assert server.log.count("Cannot accept a connection") < 8
        for client in clients:
            client.close()


def cpu(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_broken_loop(folder: Folder, http: socket.socket) -> None:
    """A view closes the worker's epoll: requests in flight are finished, and the worker is replaced."""
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        for name in os.listdir("/proc/self/fd"):
            try:
                if "eventpoll" in os.readlink(f"/proc/self/fd/{name}"):
                    os.close(int(name))
            except OSError:
                pass
        return plain(start_response)
    """
    )
    with (
        Server(app, *CONF, "-w", "1", "app:app", listeners={"http": http}) as server,
        dial(http) as slow,
        dial(http) as client,
    ):
        (before,) = server.wait_until_ready().workers()
        slow.sendall(REQUEST.replace(b"/", b"/sleep/3", 1))
        server.wait_for((app / "asleep").exists, "the view to run")
        client.sendall(get("/epoll"))
        server.wait_for_log("The worker's loop has failed too often")
        server.wait_for(lambda: before not in server.workers(), "the worker to be replaced")
        assert b"200 OK" in slow.recv(65536)
        assert ask(lambda: dial(http))[0] == 200


def test_exception_is_logged_with_its_traceback(folder: Folder, http: socket.socket) -> None:
    app = folder(RAISES)
    with serving(app, http, "thread") as server:
        fetch(http, get("/view/ConnectionRefusedError"))
        assert re.search(r"Traceback(.|\n)*ConnectionRefusedError: on purpose", server.log)


@pytest.mark.untraced  # an exception in the tracer, which has taken a lock
def test_late_asynchronous_exceptions(folder: Folder, http: socket.socket) -> None:
    """A library that limits the time of a view raises in its thread after the request, while that is a follower."""
    app = folder(
        BASE
        + """
    import ctypes

    def raise_late(thread):
        time.sleep(0.3)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeoutError))

    def misbehave(what, environ, start_response):
        threading.Thread(target=raise_late, args=(threading.get_ident(),)).start()
        time.sleep(0.1)
        return plain(start_response)
    """
    )
    with serving(app, http, "thread", "--threads", "4") as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(http)) for _ in range(4)]
        for client in clients:
            client.sendall(get("/late"))
        for client in clients:
            assert b"200 OK" in answer(client)
        time.sleep(0.5)  # no condition to wait for: the exceptions are pending in followers
        clients = [stack.enter_context(dial(http)) for _ in range(8)]
        for client in clients:
            client.sendall(get("/sleep/0.3"))
        for client in clients:
            assert b"200 OK" in answer(client)
        assert "Exception in thread" not in server.log


@ALL
@pytest.mark.parametrize("kind", ["TimeoutError", "KeyboardInterrupt", "SystemExit", "BaseException"])
def test_alarm_handler_that_raises(folder: Folder, http: socket.socket, worker: str, kind: str) -> None:
    """The handler interrupts the main thread at any point."""
    app = folder(
        BASE
        + f"""
    def ring(*_):
        raise {kind}("on purpose")

    signal.signal(signal.SIGALRM, ring)

    def misbehave(what, environ, start_response):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return plain(start_response)
    """
    )
    with serving(app, http, worker) as server, dial(http) as slow:
        slow.sendall(REQUEST.replace(b"/", b"/sleep/1", 1))
        server.wait_for((app / "asleep").exists, "the view to run")
        assert b"200 OK" in fetch(http, get("/alarm"))
        server.wait_for_log("on purpose")
        assert b"200 OK" in slow.recv(65536)


def test_interrupt_of_the_application(folder: Folder, http: socket.socket) -> None:
    """The worker drains, and is replaced."""
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        os.kill(os.getpid(), signal.SIGINT)
        return plain(start_response)
    """
    )
    with Server(app, *CONF, "-w", "1", "app:app", listeners={"http": http}) as server, dial(http) as slow:
        (before,) = server.wait_until_ready().workers()
        slow.sendall(REQUEST.replace(b"/", b"/sleep/1", 1))
        server.wait_for((app / "asleep").exists, "the view to run")
        assert b"200 OK" in fetch(http, get("/interrupt"))
        assert b"200 OK" in slow.recv(65536)
        server.wait_for(lambda: before not in server.workers(), "the worker to be replaced")
        assert ask(lambda: dial(http))[0] == 200


@ALL
def test_tls_errors_of_the_application(folder: Folder, http: socket.socket, worker: str) -> None:
    app = folder(
        BASE
        + """
    import ssl

    def misbehave(what, environ, start_response):
        raise ssl.SSLCertVerificationError("of a secret host")
    """
    )
    with serving(app, http, worker) as server:
        received = fetch(http, get("/tls"))
        assert received.startswith(b"HTTP/1.1 500")
        assert b"secret" not in received
        wait_for_errors(server, app, 1)


@KEEP_ALIVE
def test_output_after_closing_stdout_reaches_no_client(folder: Folder, http: socket.socket, worker: str) -> None:
    """A connection with descriptor 1 or 2 would get what the application prints."""
    app = folder(
        BASE
        + """
    os.closerange(0, 3)

    def misbehave(what, environ, start_response):
        os.write(2, b"a secret")
        return plain(start_response)
    """
    )
    with serving(app, http, worker), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(http)) for _ in range(5)]
        for client in clients:
            exchange(client)
        for _ in range(3):
            fetch(http, get("/print"))
        for client in clients:
            exchange(client)
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(100)


def test_thread_that_does_not_start_holds_up_its_own_request_only(folder: Folder, http: socket.socket) -> None:
    """Without memory a new thread may end before start() has noticed that it runs, and start() never returns."""
    app = folder(
        BASE
        + """
    def misbehave(what, environ, start_response):
        threading.Thread.start = lambda thread: (open("starting", "w").close(), time.sleep(60))
        environ["gunicorn.socket"].sendall(b"x")  # from now on it needs another thread in the pool
    """
    )
    arguments = ("--threads", "2", "--graceful-timeout", "1")
    with serving(app, http, "thread", *arguments) as server, dial(http) as client:
        client.sendall(get("/upgrade", "Upgrade: other").replace(b"Connection: close", b"Connection: Upgrade"))
        server.wait_for((app / "starting").exists, "the thread to start")
        for _ in range(3):
            assert ask(lambda: dial(http))[0] == 200


@ALL
@pytest.mark.parametrize(
    "failure", ['raise RuntimeError("can\'t start new thread")', "return 0"], ids=["raises", "never runs"]
)
@pytest.mark.parametrize("tries", [2, 1000])
def test_drain_without_memory_for_a_thread_ends(
    folder: Folder, http: socket.socket, tries: int, failure: str, worker: str
) -> None:
    """Now, or ever. The master has died, as that of a worker in a scope has, so the worker must end by itself."""
    app = folder(
        BASE
        + f"""
    threading.Thread(target=lambda: threading.Event().wait(), name="endless").start()
    from flask_socketact.workers import drain

    start, failures = drain._start_thread, iter(range({tries}))
    def start_thread(*arguments):
        if next(failures, None) is not None: {failure}
        return start(*arguments)
    drain._start_thread = start_thread
    """
    )
    command = (*CONF, "-w", "1", *CLASSES[worker], "--graceful-timeout", "1", "app:app")
    with Server(app, *command, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        server.process.kill()
        server.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), "the worker to exit", 15)


@ALL
def test_worker_that_cannot_boot_ends_whatever_threads_run(folder: Folder, http: socket.socket, worker: str) -> None:
    """Its master has died, or the relay has moved it, so it must end by itself."""
    app = folder(
        BASE
        + """
    threading.Thread(target=lambda: threading.Event().wait(), name="endless").start()
    master = os.getppid()
    open("loading", "w").write(str(os.getpid()))
    while os.getppid() == master:
        time.sleep(0.01)
    raise RuntimeError("on purpose")
    """
    )
    command = (*CONF, "-w", "1", *CLASSES[worker], "--graceful-timeout", "1", "app:app")
    with Server(app, *command, listeners={"http": http}) as server:
        server.wait_for(lambda: (app / "loading").exists() and (app / "loading").read_text(), "the worker to load")
        pid = (app / "loading").read_text()
        server.process.kill()
        server.wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the worker to exit", 15)


@ALL
def test_threads_that_end_an_overdue_drain_do_not_cut_each_other_off(
    folder: Folder, http: socket.socket, worker: str
) -> None:
    """The drain starts another one while the first has not run yet. What the application registered still ends."""
    app = folder(
        BASE
        + """
    import atexit
    threading.Thread(target=lambda: threading.Event().wait(), name="endless").start()
    from flask_socketact.workers import drain

    start = drain._start_thread
    drain._start_thread = lambda *arguments: (start(*arguments), start(*arguments))
    atexit.register(lambda: (drain._sleep(0.5), open("saved", "w").close()))
    """
    )
    command = (*CONF, "-w", "1", *CLASSES[worker], "--graceful-timeout", "1", "app:app")
    with Server(app, *command, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        server.process.kill()
        server.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), "the worker to exit", 15)
        assert server.log.count("exiting although") == 1
    assert (app / "saved").exists()


@ALL
def test_worker_without_memory_does_not_go_on_to_lose_connections(
    folder: Folder, http: socket.socket, worker: str
) -> None:
    """It is replaced, or lets another worker serve."""
    app = folder(BASE)
    with Server(app, *CONF, "-w", "2", *CLASSES[worker], "app:app", listeners={"http": http}) as server:
        first, _ = server.wait_until_ready().workers()
        _, hard = resource.prlimit(first, resource.RLIMIT_DATA)
        resource.prlimit(first, resource.RLIMIT_DATA, (4096, hard))
        succeeded = 0
        deadline = time.monotonic() + 30
        while succeeded < 40 and time.monotonic() < deadline:
            try:
                succeeded = succeeded + 1 if ask(lambda: dial(http))[0] == 200 else 0
            except RequestError:
                succeeded = 0
        assert succeeded == 40, server.log[-5000:]
