"""WebSockets and streams over restarts, reloads and a stop: each connects again, and no other client notices.

With SOCKETACT_LASTING=1 in the environment there are 200 WebSockets that talk, 50 idle ones, and 20 streams. With
SOCKETACT_LASTING_SECONDS=3600 they last for an hour, with the default settings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.support.http import Connect
from tests.support.lasting import PAUSE, Lasting
from tests.support.machine import Machine, drop_in, release

APP = """
import queue
from flask import Flask, Response
from flask_sock import Sock
from flask_socketact import SocketAct

app = Flask(__name__)
socketact = SocketAct(app)
sock = Sock(app)


@app.get("/")
def page(): return "ok"


@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())


@app.get("/events")
def events():
    def generate():
        messages = queue.Queue()
        yield "data: first\\n\\n"
        yield from socketact.until_drain(iter(messages.get, None), messages.put, None)
    return Response(generate(), mimetype="text/event-stream")
"""

IS_FULL = bool(os.environ.get("SOCKETACT_LASTING"))
CLIENTS = (
    {"echo": 200, "idle": 50, "streams": 20, "keep_alive": 20}
    if IS_FULL
    else {"echo": 30, "idle": 10, "streams": 12, "keep_alive": 6}
)
OPERATIONS = ("restart", "reload") * 2 + ("restart",) + ("reload", "restart", "restart") * IS_FULL
#: How long they last without a restart, in seconds. Less than a minute is tested with shorter timeouts.
SECONDS = float(os.environ.get("SOCKETACT_LASTING_SECONDS", "8"))
SHORT = SECONDS < 60
#: Most seconds after the command until the last close frame has come, and until the last old worker has exited.
LAST_CLOSE, LAST_WORKER = 1.0, 3.0


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "gevent.GeventWorker"])
def test_websockets_and_streams_over_restarts(
    machine: Machine, tcp: Connect, figure: Callable[[str], None], worker: str
) -> None:
    release(machine, APP)
    drop_in(machine, "app.service", f"[Service]\nEnvironment=GUNICORN_CMD_ARGS='-k flask_socketact.workers.{worker}'\n")
    machine.systemctl("start", "app")
    websockets = CLIENTS["echo"] + CLIENTS["idle"]
    latest_close = latest_worker = 0.0
    with Lasting(tcp, **CLIENTS) as clients:
        for number, operation in enumerate(OPERATIONS):
            machine.wait_for(clients.are_open, "all clients to connect", 20)
            old = set(machine.workers("app"))
            machine.systemctl(operation, "app")
            done = time.monotonic()
            machine.wait_for(lambda: not old & set(machine.workers("app")), "the old workers to exit", 20)  # noqa: B023
            latest_worker = max(latest_worker, time.monotonic() - done)
            assert len(clients.closes) == (number + 1) * websockets
            assert {status for _, status in clients.closes} == {1012}
            latest_close = max(latest_close, max(when for when, _ in clients.closes) - done)
        machine.wait_for(clients.are_open, "all clients to connect", 20)
        assert not clients.failures
        clients.end()
        began = time.monotonic()
        machine.systemctl("stop", "app")
        stopped = time.monotonic() - began
    assert clients.streams_ended == len(OPERATIONS) * CLIENTS["streams"]
    assert latest_close < LAST_CLOSE
    assert latest_worker < LAST_WORKER
    log = machine.journal("app")
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
    figure(
        f"{len(OPERATIONS)} restarts and reloads, {clients.echoes} echoes, {len(clients.closes)} close frames, "
        f"the last {latest_close:.2f} s after the command, the last old worker {latest_worker:.2f} s after it; "
        f"{clients.responses} responses on keep-alive connections; stopped in {stopped:.2f} s"
    )


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "gevent.GeventWorker"])
@pytest.mark.timeout(SECONDS + 180)
def test_they_last(machine: Machine, tcp: Connect, figure: Callable[[str], None], worker: str) -> None:
    """Silent or not, no timeout ends them."""
    release(machine, APP)
    arguments = f"-k flask_socketact.workers.{worker}" + " --timeout 2 --keep-alive 2" * SHORT
    watchdog = "WatchdogSec=4\n" * SHORT
    drop_in(machine, "app.service", f"[Service]\n{watchdog}Environment=GUNICORN_CMD_ARGS='{arguments}'\n")
    machine.systemctl("start", "app")
    before = machine.workers("app")
    with Lasting(tcp, **CLIENTS, pause=PAUSE if SHORT else 5.0) as clients:
        machine.wait_for(clients.are_open, "all clients to connect", 20)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and clients.are_open():
            time.sleep(PAUSE)
        assert clients.are_open(), f"{SECONDS - deadline + time.monotonic():.0f} s: {clients.failures}"
        assert not clients.failures
        assert not clients.closes
        assert machine.workers("app") == before
        clients.end()
    figure(f"{SECONDS:.0f} s, {clients.echoes} echoes, {clients.responses} responses on keep-alive connections")
