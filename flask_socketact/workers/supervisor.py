"""The ``timeout`` of requests in the thread worker: find requests without progress."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress

from flask_socketact.http.connection import Connection
from flask_socketact.linux import socket_queues
from flask_socketact.shared.slot import Field
from flask_socketact.workers.base import BaseWorker
from flask_socketact.workers.connection_loop import NO_PROGRESS
from flask_socketact.workers.lasting import RequestThread


def watch_requests(worker: BaseWorker, threads: Iterable[RequestThread], now: float) -> None:
    """Publish the start of the oldest request and the time of the last progress, and handle timeouts.

    `now` is CLOCK_MONOTONIC, in seconds.
    """
    oldest = last_progress = 0.0
    for thread in threads:
        connection = thread.connection
        if connection is None:
            last_progress = now
            continue
        clock = connection.clock
        _watch(worker, thread, connection, now)
        oldest = min(oldest or clock.began, clock.began)
        # Waiting for a slow client counts as progress of the worker.
        last_progress = now if clock.waits_for_client else max(last_progress, clock.last_progress)
    worker.slot[Field.OLDEST] = int(oldest * 1e9)
    worker.slot[Field.PROGRESS] = int(last_progress * 1e9)


def watch_streams(worker: BaseWorker, streams: Iterable[RequestThread], now: float) -> None:
    """Handle timeouts of streams.

    The application of a stream may send nothing for hours, but the client must take what it sends.
    """
    for thread in streams:
        connection = thread.connection
        if connection is not None and connection.clock.waits_for_client:
            _watch(worker, thread, connection, now)


def _watch(worker: BaseWorker, thread: RequestThread, connection: Connection, now: float) -> None:
    """Handle the timeout of one request."""
    if connection.clock.waits_for_client:
        _note_client_progress(connection, now)
    if worker.cfg.timeout and now - connection.clock.last_progress > worker.cfg.timeout:
        _handle_timeout(worker, thread, connection)


def _handle_timeout(worker: BaseWorker, thread: RequestThread, connection: Connection) -> None:
    """Disconnect a client, or report a request, without progress for ``timeout`` seconds."""
    if connection.clock.waits_for_client:
        worker.log.info(NO_PROGRESS, worker.cfg.timeout)
        with suppress(OSError):  # the client has closed it
            connection.sock.shutdown(socket.SHUT_RDWR)
    elif not thread.reported:
        thread.reported = True
        frame = sys._current_frames().get(thread.handle.ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        replaced = not worker.relayed.is_moved()
        worker.log.critical(
            "A request has run longer than timeout = %s s%s (pid: %s). Its stack:\n%s",
            worker.cfg.timeout,
            ": this worker is replaced" if replaced else "",
            os.getpid(),
            stack.rstrip(),
        )
        if replaced:
            worker.alive = False


def _note_client_progress(connection: Connection, now: float) -> None:
    """Note progress of the client while a thread waits for it in one system call."""
    try:
        progress = socket_queues.progress(connection.sock)
    except (OSError, ValueError):  # the request has just ended
        return
    if progress != connection.clock.client_counters:
        connection.clock.client_counters = progress
        connection.clock.last_progress = now
