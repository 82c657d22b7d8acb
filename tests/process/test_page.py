"""A page in a real browser, whose WebSocket and EventSource connect again by themselves over reloads and restarts."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome

from tests.process.conftest import Folder
from tests.process.test_websockets import WORKERS
from tests.support.browser import open_browser
from tests.support.server import CONF, Server

APP = '''
import itertools, json, queue, time
from flask import Flask, Response, request
from flask_sock import Sock
from flask_socketact import SocketAct

app = Flask(__name__)
socketact = SocketAct(app)
sock = Sock(app)

PAGE = """<!doctype html><title>page</title><script>
const state = {sent: 0, acknowledged: [], closes: [], opens: 0, events: 0, gaps: 0, streams: 0};
const waiting = new Map();
let socket = null;

function connect() {
    socket = new WebSocket(`ws://${location.host}/messages`);
    socket.onopen = () => {
        state.opens += 1;
        for (const text of waiting.values()) socket.send(text);
    };
    socket.onmessage = (event) => {
        const number = Number(event.data);
        if (waiting.delete(number)) state.acknowledged.push(number);
    };
    socket.onclose = (event) => {
        state.closes.push([event.code, event.wasClean]);
        setTimeout(connect, 50);
    };
}

setInterval(() => {
    const number = ++state.sent;
    waiting.set(number, String(number));
    if (socket.readyState === WebSocket.OPEN) socket.send(String(number));
}, 5);

let last = 0;
const source = new EventSource("/events");
source.onopen = () => { state.streams += 1; };
source.onmessage = (event) => {
    state.events += 1;
    if (Number(event.lastEventId) !== last + 1) state.gaps += 1;
    last = Number(event.lastEventId);
};
connect();
</script>"""


@app.get("/")
def page(): return PAGE


@app.get("/favicon.ico")
def icon(): return "", 204


@sock.route("/messages")
def messages(ws):
    with open("messages", "a", buffering=1) as file:
        while True:
            text = ws.receive()
            file.write(text + "\\n")
            ws.send(text)


@app.get("/events")
def events():
    def generate(number):
        yield "retry: 100\\n\\n"
        for number in itertools.count(number + 1):
            yield f"id: {number}\\ndata: x\\n\\n"
            time.sleep(0.02)
    begun = int(request.headers.get("Last-Event-ID", 0))
    return Response(socketact.until_drain(generate(begun)), mimetype="text/event-stream")
'''


def state(browser: Chrome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(browser.execute_script("return JSON.stringify(state)"))
    return found


def wait_until(browser: Chrome, server: Server, **least: int) -> None:
    """Wait until the page has opened so many sockets and streams, and both work."""

    def has_opened() -> bool:
        now = state(browser)
        return all(now[name] >= number for name, number in least.items())

    server.wait_for(has_opened, f"{least}: {state(browser)}")
    before = state(browser)
    server.wait_for(
        lambda: (
            len(state(browser)["acknowledged"]) > len(before["acknowledged"]) + 5
            and state(browser)["events"] > before["events"]
        ),
        "messages and events",
    )


def test_a_page_loses_no_message_that_was_acknowledged(folder: Folder, http: socket.socket) -> None:
    """Three reloads, and two restarts: a stop, and then a start."""
    app, port = folder(APP), http.getsockname()[1]
    command = (*CONF, "-w", "1", *WORKERS["thread"], "app:app")
    opened = 0
    with open_browser() as browser:
        for start in range(3):
            with Server(app, *command, listeners={"http": http}) as server:
                server.wait_until_ready()
                if start == 0:
                    browser.get(f"http://127.0.0.1:{port}/")
                for _ in range(2 if start == 0 else 1 if start == 1 else 0):
                    opened += 1
                    wait_until(browser, server, opens=opened, streams=opened)
                    before = server.workers()
                    server.signal(signal.SIGHUP)
                    server.wait_for_message("READY=1")
                    server.wait_for(lambda: not set(before) & set(server.workers()), "the old worker to exit", 3)  # noqa: B023
                opened += 1
                wait_until(browser, server, opens=opened, streams=opened)
                last = state(browser)
                assert "Traceback" not in server.log, server.log
                began = time.monotonic()
            assert time.monotonic() - began < 5
            stored = {int(line) for line in Path(app, "messages").read_text().split()}
            assert set(last["acknowledged"]) <= stored
            assert last["gaps"] == 0
            assert {code for code, _ in last["closes"]} <= {1012, 1001}
            assert all(was_clean for _, was_clean in last["closes"])
        assert len(last["closes"]) == 5
        assert len(last["acknowledged"]) == len(set(last["acknowledged"]))
