"""WebSockets in the thread worker, with flask-sock as it is."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import simple_websocket
from websocket import create_connection
from wsproto.events import CloseConnection, Ping, TextMessage

from flask_socketact.shared import scoreboard
from flask_socketact.shared.slot import Field, Slot
from tests.process.conftest import Folder
from tests.support import lasting
from tests.support.http import REQUEST, answer, ask, certificate, read_until
from tests.support.server import CONF, Server, dial

APP = """
import time
import simple_websocket
from flask import Flask, request
from flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)


@app.get("/")
def page(): return "ok"


@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())


@sock.route("/hello")
def hello(ws): ws.send("hello")


@sock.route("/half")
def half(ws):
    # Sends the beginning of a frame.
    environ = request.environ
    environ["gunicorn.socket"].sendall(b"\\x82\\x05ab")
    time.sleep(60)


@app.get("/other")
def other():
    client = request.environ["gunicorn.socket"]
    client.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: upper\\r\\n\\r\\n")
    while data := client.recv(100):
        client.sendall(data.upper())
    return "ended"


@app.get("/hangs")
def hangs(): time.sleep(60)


@app.route("/bare", websocket=True)
def bare():
    # Without flask-sock: ConnectionClosed leaves the view.
    ws = simple_websocket.Server.accept(request.environ)
    while True:
        ws.send(ws.receive())


@sock.route("/deaf")
def deaf(ws):
    ws.send("hello")
    time.sleep(60)


@sock.route("/fails")
def fails(ws):
    ws.receive()
    raise RuntimeError("on purpose")
"""


COUNTING = """

running = set()


@app.route("/counted", websocket=True)
def counted():
    this = object()
    running.add(this)
    time.sleep(0.2)
    number = len(running)
    running.discard(this)
    return f"{number} views"
"""


HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WEBSOCKET\r\n"
    b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


WORKERS = {"thread": ("--threads", "2"), "gevent": ("-k", "flask_socketact.workers.gevent.GeventWorker")}
BOTH = pytest.mark.parametrize("worker", WORKERS)


@contextmanager
def serving(
    folder: Folder, http: socket.socket, *arguments: str, source: str = APP, worker: str = "thread", **environ: str
) -> Iterator[tuple[Server, Path]]:
    app = folder(source)
    command = (*CONF, "-w", "1", *WORKERS[worker], *arguments, "app:app")
    environment = {"RUNTIME_DIRECTORY": str(app / "state"), **environ}
    with Server(app, *command, listeners={"http": http}, environ=environment) as server:
        server.wait_until_ready()
        yield server, app


@contextmanager
def websocket(http: socket.socket, path: str = "/echo") -> Iterator[simple_websocket.Client]:
    host, port = http.getsockname()[:2]
    client = simple_websocket.Client(f"ws://{host}:{port}{path}")
    try:
        yield client
    finally:
        with suppress(OSError):  # the test has closed it
            if client.connected:
                client.close()
        client.thread.join(5)


def slot(server: Server, app: Path) -> Slot:
    board = scoreboard.read(app / "state", server.process.pid)
    assert board is not None
    (found,) = (slot for slot in board.living() if not slot[Field.DRAINING])
    return found


@BOTH
def test_open_websockets_hold_up_no_other_client(folder: Folder, http: socket.socket, worker: str) -> None:
    """Six on two threads, which talk and are silent."""
    with serving(folder, http, worker=worker) as (server, app), ExitStack() as stack:
        clients = [stack.enter_context(websocket(http)) for _ in range(6)]
        assert slot(server, app)[Field.WEBSOCKETS] == 6
        for number, client in enumerate(clients):
            began = time.monotonic()
            assert ask(lambda: dial(http)) == (200, b"ok")
            assert time.monotonic() - began < 2
            client.send(str(number))
            assert client.receive(5) == str(number)
        for client in clients:
            client.close()
        server.wait_for(lambda: slot(server, app)[Field.WEBSOCKETS] == 0, "the WebSockets to end")
        server.wait_for(lambda: slot(server, app)[Field.IN_FLIGHT] == 0, "no request in flight")
        assert slot(server, app)[Field.OPEN] <= 1
        assert "Traceback" not in server.log, server.log


@BOTH
def test_a_silent_websocket_is_no_hung_request(folder: Folder, http: socket.socket, worker: str) -> None:
    """For several times ``timeout`` and the watchdog's time."""
    with (
        serving(folder, http, "--timeout", "2", worker=worker, WATCHDOG_USEC="4000000") as (server, _),
        websocket(http) as client,
    ):
        before = server.workers()
        time.sleep(5)
        client.send("still here")
        assert client.receive(5) == "still here"
        assert server.workers() == before
        assert "CRITICAL" not in server.log, server.log


@BOTH
def test_a_websocket_that_ends_is_no_error(folder: Folder, http: socket.socket, worker: str) -> None:
    """Whoever ends it, and however."""
    with serving(folder, http, worker=worker) as (server, app):
        for _ in range(5):
            with websocket(http, "/hello") as client, suppress(simple_websocket.ConnectionClosed):
                assert client.receive(5) == "hello"  # unless the end of the view has arrived, too
            with websocket(http) as client:
                client.send("x")
                assert client.receive(5) == "x"
            with websocket(http) as client:
                client.sock.shutdown(socket.SHUT_RDWR)
            with websocket(http, "/bare") as client:
                client.send("x")
                assert client.receive(5) == "x"
        with websocket(http, "/fails") as client:
            client.send("x")
            with pytest.raises(simple_websocket.ConnectionClosed):
                client.receive(5)
        server.wait_for(lambda: slot(server, app)[Field.WEBSOCKETS] == 0, "the WebSockets to end")
        assert slot(server, app)[Field.ERRORS] == 0
        assert server.log.count("RuntimeError: on purpose") == 1
        assert ask(lambda: dial(http)) == (200, b"ok")


def test_a_request_to_upgrade_that_hangs_is_reported(folder: Folder, http: socket.socket) -> None:
    """It has not become a WebSocket."""
    with (
        serving(folder, http, "--timeout", "1", "--graceful-timeout", "1") as (server, _),
        dial(http) as client,
    ):
        before = server.workers()
        client.sendall(UPGRADE.replace(b"GET /", b"GET /hangs").replace(b"websocket", b"other"))
        server.wait_for_log("A request has run longer than timeout = 1 s: this worker is replaced")
        assert "time.sleep(60)" in server.log
        server.wait_for(lambda: not set(before) & set(server.workers()), "another worker")


def test_a_client_that_asks_for_upgrades_runs_no_more_views_at_once(folder: Folder, http: socket.socket) -> None:
    """Only a view that uses the socket leaves the request threads. Otherwise any client could run 1,000 views."""
    source = APP + COUNTING
    with serving(folder, http, source=source) as (server, app), ExitStack() as stack:
        clients = [stack.enter_context(dial(http)) for _ in range(6)]
        for client in clients:
            client.sendall(UPGRADE.replace(b"GET /", b"GET /counted"))
        counts = [int(read_until(client, b"views").split(b"\r\n\r\n")[1].split()[0]) for client in clients]
        assert max(counts) == 2  # as many as there are threads
        assert slot(server, app)[Field.WEBSOCKETS] == 0


def test_more_websockets_than_the_limit_get_503(folder: Folder, http: socket.socket) -> None:
    with serving(folder, http, SOCKETACT_MAX_WEBSOCKETS="2") as (server, app), ExitStack() as stack:
        first, _ = (stack.enter_context(websocket(http)) for _ in range(2))
        with dial(http) as refused:
            refused.sendall(UPGRADE)
            assert refused.recv(4096).startswith(b"HTTP/1.1 503")
        server.wait_for_log("A WebSocket was refused with 503: SOCKETACT_MAX_WEBSOCKETS = 2 are open")
        first.close()
        first.thread.join(5)
        server.wait_for(lambda: slot(server, app)[Field.WEBSOCKETS] == 1, "the first to end")
        with websocket(http) as client:
            client.send("x")
            assert client.receive(5) == "x"


@BOTH
def test_a_request_to_upgrade_that_the_application_ignores(folder: Folder, http: socket.socket, worker: str) -> None:
    """It gets its response (Flask has no page for WebSockets there), and the connection continues."""
    with serving(folder, http, worker=worker) as (server, app), dial(http) as client:
        for _ in range(3):
            client.sendall(UPGRADE)
            assert read_until(client, b"understand.</p>\n").startswith(b"HTTP/1.1 400")
        client.sendall(UPGRADE.replace(b"websocket", b"h2c"))
        read_until(client, b"\r\n\r\nok")
        assert slot(server, app)[Field.WEBSOCKETS] == 0


@BOTH
@pytest.mark.parametrize(("signal", "code"), [(1, 1012), (15, 1001)], ids=["reload", "stop"])
def test_at_the_end_of_the_drain_time_the_client_gets_a_close_frame(
    folder: Folder, http: socket.socket, signal: int, code: int, worker: str
) -> None:
    with serving(folder, http, "--graceful-timeout", "2", worker=worker) as (server, _), websocket(http) as client:
        client.send("x")
        assert client.receive(5) == "x"
        began = time.monotonic()
        server.process.send_signal(signal)
        with pytest.raises(simple_websocket.ConnectionClosed) as closed:
            client.receive(10)
        assert closed.value.reason == code
        assert 1.5 < time.monotonic() - began < 6


@BOTH
@pytest.mark.parametrize("path", ["/deaf", "/half"])
def test_the_client_gets_an_end_and_no_reset(folder: Folder, http: socket.socket, path: str, worker: str) -> None:
    """Although it still sends; and no close frame in the middle of another frame."""
    with serving(folder, http, "--graceful-timeout", "1", worker=worker) as (server, _), dial(http) as client:
        client.sendall(HANDSHAKE.replace(b"/echo", path.encode()))
        read_until(client, b"ab" if path == "/half" else b"hello")
        server.process.send_signal(15)
        for _ in range(1000):
            client.sendall(b"\x82\x80\0\0\0\0")
        assert answer(client) == (b"" if path == "/half" else b"\x88\x02\x03\xe9")


@BOTH
def test_with_gunicorns_parser_in_python(folder: Folder, http: socket.socket, worker: str) -> None:
    with serving(folder, http, "--http-parser", "python", worker=worker) as (server, app), ExitStack() as stack:
        clients = [stack.enter_context(websocket(http)) for _ in range(3)]
        for client in clients:
            client.send("x")
            assert client.receive(5) == "x"
        assert slot(server, app)[Field.WEBSOCKETS] == 3
        assert ask(lambda: dial(http)) == (200, b"ok")


@BOTH
def test_over_tls(folder: Folder, http: socket.socket, worker: str, tmp_path: Path) -> None:
    """Talking, closed by the client, closed by the extension in a drain, and by the worker at its end."""
    options = (*certificate(tmp_path), "--graceful-timeout", "3")
    with serving(folder, http, *options, source=AT_DRAIN, worker=worker) as (server, app), ExitStack() as stack:
        host, port = http.getsockname()
        insecure = {"cert_reqs": ssl.CERT_NONE}
        clients = []
        for path in ("/echo", "/echo", "/deaf", "/echo"):
            clients.append(create_connection(f"wss://{host}:{port}{path}", timeout=10, sslopt=insecure))
            stack.callback(clients[-1].shutdown)
        clients[2].recv()
        for client in clients[:2]:
            client.send("x")
            assert client.recv() == "x"
        clients.pop().close()
        assert slot(server, app)[Field.WEBSOCKETS] >= 3
        server.process.send_signal(1)
        for client in clients:
            assert client.recv_data()[1][:2] == b"\x03\xf4"
        assert "Traceback" not in server.log, server.log


@BOTH
def test_another_protocol(folder: Folder, http: socket.socket, worker: str) -> None:
    """It has a thread of its own, and gets no close frame of WebSocket, but FIN."""
    with serving(folder, http, "--graceful-timeout", "1", worker=worker) as (server, app), ExitStack() as stack:
        clients = [stack.enter_context(dial(http)) for _ in range(4)]
        for client in clients:
            client.sendall(UPGRADE.replace(b"GET /", b"GET /other").replace(b"websocket", b"upper"))
            assert client.recv(4096).startswith(b"HTTP/1.1 101")
        assert ask(lambda: dial(http)) == (200, b"ok")
        for client in clients:
            client.sendall(b"abc")
            assert client.recv(3) == b"ABC"
        clients.pop().close()
        server.wait_for(lambda: slot(server, app)[Field.WEBSOCKETS] == 3, "the first to end")
        assert slot(server, app)[Field.ERRORS] == 0
        server.process.send_signal(15)
        for client in clients:
            assert answer(client) == b""


HIDING = """
    def app(environ, start_response):
        environ["gunicorn.socket"].sendall(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
        environ.clear()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ab"]
"""


def test_no_response_follows_an_upgrade(folder: Folder, http: socket.socket) -> None:
    """Although the application has forgotten that there was one."""
    with serving(folder, http, source=HIDING), dial(http) as client:
        client.sendall(UPGRADE)
        received = answer(client)
    assert received.startswith(b"HTTP/1.1 101")
    assert b"200 OK" not in received


#: More than the buffers of the kernel take.
BIG = 16_000_000
AT_DRAIN = (
    APP.replace(
        "app = Flask(__name__)",
        f"import os\nfrom flask_socketact import SocketAct\nBIG = {BIG}\napp = Flask(__name__)\n"
        "app.config['SOCKETACT_METRICS'] = '/metrics'\nsocketact = SocketAct(app)",
    )
    + """

@sock.route("/chat")
def chat(ws):
    with socketact.at_drain(ws.close, 1012, "restart"):
        while True:
            ws.send(ws.receive())


@sock.route("/unanswered")
def unanswered(ws):
    with socketact.at_drain(ws.close, 1012, "restart"):
        ws.send("hello")
        ws.receive()


@sock.route("/big")
def big(ws):
    ws.receive()
    ws.send(bytes(BIG))
    ws.receive()


@sock.route("/fork")
def fork(ws):
    ws.receive()
    if child := os.fork():
        os.waitpid(child, 0)
        ws.send("parent")
        ws.receive()


@sock.route("/wrong")
def wrong(ws):
    with socketact.at_drain(lambda: 1 / 0), socketact.at_drain(ws.close, 1012):
        while True:
            ws.send(ws.receive())
"""
)


SOCKETIO = """
from flask import Flask
from flask_socketio import SocketIO
from flask_socketact import SocketAct

app = Flask(__name__)
SocketAct(app)
socketio = SocketIO(app, async_mode="threading")


@app.get("/")
def page(): return "ok"


@socketio.on("echo")
def echo(data): return data
"""


def wait_for_close(client: simple_websocket.Client) -> int:
    """Return the status of the close frame."""
    with pytest.raises(simple_websocket.ConnectionClosed) as closed:
        client.receive(10)
    return int(closed.value.reason)


@BOTH
def test_metrics_count_open_websockets(folder: Folder, http: socket.socket, worker: str) -> None:
    with serving(folder, http, source=AT_DRAIN, worker=worker), websocket(http) as first, websocket(http):
        first.send("x")
        assert first.receive(5) == "x"
        assert b'socketact_connections{state="websocket"} 2.0' in ask(lambda: dial(http), "/metrics")[1]


@BOTH
@pytest.mark.parametrize("signal", [1, 15], ids=["reload", "stop"])
@pytest.mark.parametrize("path", ["/chat", "/wrong", "/echo"])
def test_clients_are_told_of_a_drain(folder: Folder, http: socket.socket, signal: int, path: str, worker: str) -> None:
    """By the view, or by the extension. The old worker exits when they have gone, before the drain time ends."""
    with serving(folder, http, source=AT_DRAIN, worker=worker) as (server, _):
        before = server.workers()
        with ExitStack() as stack:
            clients = [stack.enter_context(websocket(http, path)) for _ in range(5)]
            for client in clients:
                client.send("x")
                assert client.receive(5) == "x"
            server.process.send_signal(signal)
            status = 1001 if path == "/echo" and signal == 15 else 1012
            assert {wait_for_close(client) for client in clients} == {status}
            server.wait_for(lambda: not set(before) & set(server.workers()), "the old worker to exit", 5)
        assert server.log.count("A function of at_drain() failed") == (5 if path == "/wrong" else 0)
        assert server.log.count("Traceback") == (5 if path == "/wrong" else 0), server.log


@pytest.mark.parametrize("library", ["simple-websocket", "gevent-websocket"])
@BOTH
def test_socketio(folder: Folder, http: socket.socket, worker: str, library: str) -> None:
    """Flask-SocketIO as it is: its clients, with WebSockets or polling, are told to connect again."""
    if library == "gevent-websocket":
        pytest.importorskip("geventwebsocket") if worker == "gevent" else pytest.skip("not with threads")
    hidden = "import sys\nsys.modules['geventwebsocket'] = None\n" if library == "simple-websocket" else ""
    source = hidden + SOCKETIO.replace("threading", "threading" if worker == "thread" else "gevent")
    with serving(folder, http, source=source, worker=worker) as (server, app):
        before = server.workers()
        with ExitStack() as stack:
            host, port = http.getsockname()
            url = f"ws://{host}:{port}/socket.io/?EIO=4&transport=websocket"
            clients = [create_connection(url, timeout=5) for _ in range(6)]
            for client in clients:
                stack.callback(client.shutdown)
                for sent, received in (("40", "0{"), ('420["echo","x"]', "40{")):
                    assert str(client.recv()).startswith(received)
                    client.send(sent)
                assert client.recv() == '430["x"]'
            assert slot(server, app)[Field.WEBSOCKETS] == 6
            _, content = ask(lambda: dial(http), "/socket.io/?EIO=4&transport=polling")
            session = json.loads(content[1:])["sid"]
            ask(lambda: dial(http), "/socket.io/?EIO=4&transport=polling")  # a client that has gone
            polling = stack.enter_context(dial(http))
            polling.sendall(REQUEST.replace(b"/", f"/socket.io/?EIO=4&transport=polling&sid={session}".encode(), 1))
            server.process.send_signal(1)
            server.wait_for_message("READY=1")
            began = time.monotonic()
            read_until(polling, b"1\r\n1\r\n0\r\n\r\n")  # the packet "close"
            assert {client.recv_data()[1][:2] for client in clients} == {b"\x03\xf4"}
            stack.close()  # the clients close, as browsers do; otherwise the worker waits for them, for some 2 s
            server.wait_for(lambda: not set(before) & set(server.workers()), "the old worker to exit", 5)
            assert time.monotonic() - began < 3
        assert "Traceback" not in server.log, server.log


@BOTH
def test_a_client_that_does_not_answer_the_close_frame(folder: Folder, http: socket.socket, worker: str) -> None:
    """The old worker exits all the same, long before the drain time ends."""
    with serving(folder, http, source=AT_DRAIN, worker=worker) as (server, _):
        before = server.workers()
        with dial(http) as client:
            client.sendall(HANDSHAKE.replace(b"/echo", b"/unanswered"))
            read_until(client, b"hello")
            server.process.send_signal(1)
            server.wait_for_message("READY=1")
            began = time.monotonic()
            assert answer(client) == b"\x88\x09\x03\xf4restart"
            server.wait_for(lambda: not set(before) & set(server.workers()), "the old worker to exit", 5)
            assert time.monotonic() - began < 3


GEVENT_WEBSOCKET = """
import geventwebsocket
from flask import Flask, request

app = Flask(__name__)


@app.get("/")
def page(): return "ok"


@app.route("/echo", websocket=True)
def echo():
    ws = request.environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message)
    return ""
"""


@pytest.mark.parametrize(("signal", "code"), [(1, 1012), (15, 1001)], ids=["reload", "stop"])
def test_gevent_websocket(folder: Folder, http: socket.socket, signal: int, code: int) -> None:
    """As it is, and without the extension. Its clients are told of a drain; what ends is no error."""
    pytest.importorskip("geventwebsocket")
    with serving(folder, http, source=GEVENT_WEBSOCKET, worker="gevent") as (server, app):
        before = server.workers()
        with ExitStack() as stack:
            clients = [stack.enter_context(websocket(http)) for _ in range(3)]
            for client in clients:
                client.send("x")
                assert client.receive(5) == "x"
            assert slot(server, app)[Field.WEBSOCKETS] == 3
            clients.pop().close()
            server.wait_for(lambda: slot(server, app)[Field.WEBSOCKETS] == 2, "the last to end")
            assert slot(server, app)[Field.ERRORS] == 0
            with dial(http) as refused:
                refused.sendall(HANDSHAKE.replace(b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x"))
                assert refused.recv(4096).startswith(b"HTTP/1.1 400")
            server.process.send_signal(signal)
            assert {wait_for_close(client) for client in clients} == {code}
            server.wait_for(lambda: not set(before) & set(server.workers()), "the old worker to exit", 5)
        assert "Traceback" not in server.log, server.log


@BOTH
def test_a_client_that_closes_gets_its_status_back(folder: Folder, http: socket.socket, worker: str) -> None:
    """Although the view ends at the same time."""
    with serving(folder, http, worker=worker) as (server, _):
        for _ in range(50):
            with dial(http) as sock:
                client = lasting.WebSocket(sock, "/echo")
                sock.sendall(client.protocol.send(CloseConnection(code=3000)))
                event = client.receive()
                assert isinstance(event, CloseConnection)
                assert event.code == 3000
        assert "Traceback" not in server.log, server.log


@BOTH
@pytest.mark.parametrize("path", ["/echo", "/chat"])
def test_clients_that_talk_all_the_time_get_a_close_frame(
    folder: Folder, http: socket.socket, path: str, worker: str
) -> None:
    """Whatever is sent at the same moment. Nothing is reported as an error; each client connects to the new worker."""
    closes: list[int] = []
    failures: list[str] = []
    ends = threading.Event()

    def talk() -> None:
        try:
            while not ends.is_set():
                with dial(http) as sock:
                    client = lasting.WebSocket(sock, path)
                    client.send("a")
                    while isinstance(event := client.receive(), TextMessage):
                        client.send(event.data)
                    assert isinstance(event, CloseConnection), event
                    closes.append(int(event.code))
        except Exception as error:  # noqa: BLE001 (in a thread)
            failures.append(repr(error))

    with serving(folder, http, source=AT_DRAIN, worker=worker) as (server, app):
        threads = [threading.Thread(target=talk) for _ in range(12)]
        for thread in threads:
            thread.start()
        for number in range(1, 4):
            server.wait_for(lambda: slot(server, app)[Field.WEBSOCKETS] == len(threads), "all to connect")
            if number == 3:
                ends.set()
            server.process.send_signal(1)
            server.wait_for(lambda: len(closes) + len(failures) >= number * len(threads), "all to be told")  # noqa: B023
        for thread in threads:
            thread.join(20)
        assert not failures
        assert closes == [1012] * len(closes)
        assert "Traceback" not in server.log, server.log


@BOTH
def test_a_slow_reader_gets_its_message_and_a_close_frame(folder: Folder, http: socket.socket, worker: str) -> None:
    """Larger than the buffers; although it sends at the same time, and reads the close frame only seconds later."""
    with serving(folder, http, source=AT_DRAIN, worker=worker) as (server, _), dial(http) as sock:
        client = lasting.WebSocket(sock, "/big")
        client.send("now")
        server.process.send_signal(1)
        server.wait_for_log("Reloaded: ")
        for _ in range(10):
            sock.sendall(client.protocol.send(Ping()))
            time.sleep(0.15)
        received = 0
        while not isinstance(event := client.receive(), CloseConnection):
            received += len(getattr(event, "data", b""))
        assert received == BIG
        assert int(event.code) == 1012


@BOTH
def test_a_forked_child_does_not_close_the_websocket(folder: Folder, http: socket.socket, worker: str) -> None:
    with serving(folder, http, source=AT_DRAIN, worker=worker) as (_, _), dial(http) as sock:
        client = lasting.WebSocket(sock, "/fork")
        client.send("now")
        event = client.receive()
        assert isinstance(event, TextMessage), event
        assert event.data == "parent"
