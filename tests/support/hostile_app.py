"""The example application, with views that do what an application must not do to its process; run by test_hostile."""

from __future__ import annotations

import asyncio
import builtins
import gc
import logging
import logging.config
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response, request
from flask_sock import Sock

from examples.app import app

flask_app = app.wsgi_app
sock = Sock(app)

socket.setdefaulttimeout(5)
for number in (signal.SIGTERM, signal.SIGURG, signal.SIGWINCH, signal.SIGALRM):
    signal.signal(number, lambda *_: None)
logging.config.dictConfig({"version": 1})
threading.Thread(target=threading.Event().wait, name="endless").start()


class Odd(BaseException):
    """One that nothing knows."""


def exception(name: str) -> BaseException:
    kinds: dict[str, type[BaseException]] = {"Odd": Odd, "CancelledError": asyncio.CancelledError}
    kind: type[BaseException] = kinds.get(name) or getattr(builtins, name)
    return kind("on purpose")


@app.get("/view/<name>")
def fails(name: str) -> str:
    raise exception(name)


@app.get("/first/<name>")
def fails_at_once(name: str) -> Iterator[str]:
    yield from ()
    raise exception(name)


@app.get("/later/<name>")
def fails_later(name: str) -> Iterator[str]:
    yield "a"
    raise exception(name)


@app.get("/close/<name>")
def fails_in_close(name: str) -> Response:
    def close() -> None:
        raise exception(name)

    response = Response("a")
    response.call_on_close(close)
    return response


@app.get("/async/<name>")
async def fails_asynchronously(name: str) -> str:
    raise exception(name)


@app.get("/large")
def large() -> bytes:
    return bytes(8_000_000)


@app.get("/collect")
def collect() -> str:
    """An async view that raises leaves a thread of asgiref's until then, whatever the server is."""
    return str(gc.collect())


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/fork/<deed>")
def fork(deed: str) -> str:
    if deed == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join()
        process.close()
        return "done"
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return "done"
    if deed == "exit":
        sys.exit(3)
    if deed == "leave":
        os._exit(4)
    if deed == "raise":
        raise ValueError("in the child")
    return "from the child"


def to_own_process(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def replace_output() -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (on purpose)
    print("gone")
    sys.stdout = sys.__stdout__


def take_socket(deed: str) -> None:
    client = request.environ["gunicorn.socket"]
    if deed == "detach":
        os.close(client.detach())
    elif deed == "settimeout":
        client.settimeout(0.01)
    elif deed == "shutdown":
        client.shutdown(socket.SHUT_RDWR)
    else:
        client.close()


def log_with_extras() -> None:
    logging.getLogger("hostile").warning("a record", extra={"request_id": "mine"})


DEEDS: dict[str, Callable[[], Any]] = {
    "socket-close": lambda: take_socket("close"),
    "socket-detach": lambda: take_socket("detach"),
    "socket-settimeout": lambda: take_socket("settimeout"),
    "socket-shutdown": lambda: take_socket("shutdown"),
    "signal-urg": lambda: to_own_process(signal.SIGURG),
    "signal-winch": lambda: to_own_process(signal.SIGWINCH),
    "signal-usr1": lambda: to_own_process(signal.SIGUSR1),
    "timer": lambda: signal.setitimer(signal.ITIMER_REAL, 0.05),
    "thread": lambda: threading.Thread(target=time.sleep, args=(0.2,)).start(),
    "stuck": lambda: time.sleep(3),
    "chdir": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o777),
    "stdout": replace_output,
    "logging": lambda: logging.config.dictConfig({"version": 1}),
    "handlers": logging.getLogger("gunicorn.error").handlers.clear,
    "record": log_with_extras,
    "leave": sys.exit,
}


@app.get("/deed/<name>")
def deed(name: str) -> str:
    DEEDS[name]()
    return "done"


@sock.route("/hi")  # type: ignore[untyped-decorator]  # it has no types
def hi(ws: Any) -> None:
    ws.send("hi")


@sock.route("/echo")  # type: ignore[untyped-decorator]  # it has no types
def echo(ws: Any) -> None:
    while True:
        ws.send(ws.receive())


def raw(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    """Answers that Flask would not give."""
    what = environ["PATH_INFO"]
    if not what.startswith("/raw/"):
        return flask_app(environ, start_response)
    if what == "/raw/never":
        return []
    start_response("200 OK", [("Content-Length", "10")])
    if what == "/raw/twice":
        start_response("200 OK", [])
    return {"/raw/text": ["abc"], "/raw/number": [5], "/raw/long": [b"x" * 20], "/raw/short": [b"x" * 3]}.get(what, 5)


app.wsgi_app = raw  # type: ignore[method-assign]
