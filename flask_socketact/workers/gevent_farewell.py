"""The end of WebSockets and the like in a drain of the gevent worker."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection

import gevent
from gevent import monkey

from flask_socketact.http.transport import DISCARD_SIZE
from flask_socketact.http.websocket import FAREWELL
from flask_socketact.workers.drain import DRAIN_POLL
from flask_socketact.workers.gunicorn_body import Exchange

#: How long sending one close frame may take, in seconds: a client may not read.
_SEND_TIMEOUT = 0.05


def end_unanswered(exchanges: Collection[Exchange]) -> None:
    """End the connections whose clients have not answered the application's close frame."""
    now = time.monotonic()
    for exchange in exchanges:
        exchange.lent_socket.end_unanswered(now)


def close_all(exchanges: Collection[Exchange], status: int) -> None:
    """Tell the clients that are left that the worker exits: a close frame where one may begin, and FIN."""
    left = {exchange for exchange in exchanges if exchange.lent_socket.is_used}
    for exchange in left:
        with gevent.Timeout(_SEND_TIMEOUT, exception=False):
            exchange.lent_socket.send_close(status)
    deadline = time.monotonic() + FAREWELL
    while left and time.monotonic() < deadline:
        gevent.sleep(DRAIN_POLL)
        left = {each for each in left if each in exchanges and not _is_closed_by_client(each.lent_socket.worker_fd)}


def _is_closed_by_client(fd: int) -> bool:
    """Discard what has arrived, and return whether the client has closed. gevent's own ``recv`` would wait."""
    if fd < 0:
        return True
    plain = monkey.get_original("socket", "socket")(fileno=fd)
    try:
        return not plain.recv(DISCARD_SIZE, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a reset closes it, too
        return True
    finally:
        plain.detach()
