"""Close the WebSockets of flask-sock and Flask-SocketIO when a drain begins, so that clients reconnect to new workers.

Both use simple-websocket, whose ``Server`` has a parameter for the class of the thread that reads from the client. The
thread lives as long as the WebSocket, so ours asks for the call at the drain.
"""

from __future__ import annotations

import errno
import importlib
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial, wraps
from typing import Any

from flask import Flask

from flask_socketact.bridge import drain_calls, server_info

#: What a client is told (RFC 6455, section 7.4.1, and IANA's registry): with 1012 it should connect again.
_RESTART, _STOP = (1012, "restart"), (1001, "stop")
#: How long a view that has asked for a call at the drain may take to close by itself, in seconds.
_OWN_CLOSE_TIME = 0.05

#: Errors of simple-websocket, and of wsproto, when a WebSocket is closed or is being closed.
_CLOSED = ("ConnectionClosed", "LocalProtocolError")

Threads = Callable[..., Any]  #: a class of threads, or a function that is called like one


def close_at_drain(app: Flask) -> None:
    """Close the WebSockets of `app` when the drain begins. Called when it is complete, and in our workers only."""
    options = app.config.setdefault("SOCK_SERVER_OPTIONS", {})  # of flask-sock
    options["thread_class"] = _closing(options.get("thread_class"))
    socketio = app.extensions.get("socketio")
    if socketio is not None:
        _close_socketio(app, socketio.server.eio)


def is_closed(error: BaseException) -> bool:
    """Return whether `error` says that the client of a WebSocket has gone."""
    is_ours = isinstance(error, OSError) and error.errno == errno.EBADF  # the request has just ended
    return is_ours or isinstance(error, ConnectionError) or type(error).__name__ in _CLOSED


def _close_socketio(app: Flask, engine: Any) -> None:
    """Do the same for an ``engineio.Server``. It has no option for the class of threads, so replace what makes them."""
    modules = getattr(engine, "_async", {})
    make: Threads | None = modules.get("websocket")
    if make is None or not hasattr(engine, "sockets"):
        app.logger.warning("Flask-SocketIO: its WebSockets stay open until the drain time is over")
        return

    def make_closing(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        if hasattr(made, "server_args"):  # otherwise it does not use simple-websocket
            made.server_args["thread_class"] = _closing(made.server_args.get("thread_class"))
        return made

    engine._async = {**modules, "websocket": make_closing}
    drain_calls.add(partial(_end_polling, engine))


def _end_polling(engine: Any) -> None:
    """Tell clients of Socket.IO that poll to connect again. Their session is known to this worker only."""
    for session in list(engine.sockets):
        with suppress(KeyError):  # it has just ended
            if engine.transport(session) == "polling":
                # Without waiting: a client that has gone would hold up the others.
                engine.start_background_task(engine.sockets[session].close, wait=False)


def _closing(threads: Threads | None) -> Threads:
    """Return a function that makes threads of such a class, which close their WebSocket when the drain begins."""

    def make(target: Any, **kwargs: Any) -> Any:
        @wraps(target)
        def read() -> None:
            websocket = target.__self__
            websocket.send = partial(_send, websocket, websocket.send)
            has_one_reader = getattr(websocket.sock, "has_one_reader", None)  # None: a middleware has replaced it
            call = drain_calls.add(partial(_close, websocket, has_one_reader() if has_one_reader else None))
            try:
                target()
            finally:
                drain_calls.discard(call)

        if threads is None:
            return threading.Thread(target=read, daemon=True, **kwargs)
        return threads(target=read, **kwargs)

    return make


def _send(websocket: Any, send: Callable[[Any], None], data: Any) -> None:
    """Send a message on a WebSocket of simple-websocket. If it is closed meanwhile, say so, as for the next message."""
    try:
        send(data)
    except Exception as error:
        if not is_closed(error) or type(error).__name__ == "ConnectionClosed":
            raise
        closed = importlib.import_module("simple_websocket").ConnectionClosed
        raise closed(websocket.close_reason, websocket.close_message) from error


def _close(websocket: Any, reader: Any) -> None:
    """Close a WebSocket of simple-websocket. `reader` is of ``gunicorn.socket``."""
    time.sleep(_OWN_CLOSE_TIME)
    stops = server_info.server is not None and server_info.server.board.stopping
    with reader.closing() if reader is not None else nullcontext():
        try:
            if websocket.connected:
                websocket.close(*(_STOP if stops else _RESTART))
        except Exception as error:
            if not is_closed(error):
                raise
