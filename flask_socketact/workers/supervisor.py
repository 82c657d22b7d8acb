"""What the thread worker's supervisor sees of requests that do not move."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress

from flask_socketact.http.connection import Connection
from flask_socketact.linux import socket_queues
from flask_socketact.shared.scoreboard import Field
from flask_socketact.workers.base import BaseWorker
from flask_socketact.workers.leader import RequestThread


def watch_requests(worker: BaseWorker, threads: Iterable[RequestThread], now: float) -> None:
    """Note since when the oldest request runs, and when one has moved last; act upon those that nothing has moved for
    ``timeout`` seconds. `now`: CLOCK_MONOTONIC, seconds."""
    oldest = moved = 0.0
    for thread in threads:
        connection = thread.connection
        if connection is None:
            moved = now
            continue
        clock = connection.clock
        if clock.waits_for_client:
            _note_client_progress(connection, now)
        oldest = min(oldest or clock.began, clock.began)
        # The client's pace is not ours.
        moved = now if clock.waits_for_client else max(moved, clock.last_progress)
        if worker.cfg.timeout and now - clock.last_progress > worker.cfg.timeout:
            _handle_timeout(worker, thread, connection)
    worker.slot[Field.OLDEST] = int(oldest * 1e9)
    worker.slot[Field.PROGRESS] = int(moved * 1e9)


def _handle_timeout(worker: BaseWorker, thread: RequestThread, connection: Connection) -> None:
    """Act upon a request that nothing has moved for ``timeout`` seconds."""
    if connection.clock.waits_for_client:
        worker.log.info("A client neither sends nor takes anything for %s s: cut off", worker.cfg.timeout)
        with suppress(OSError):  # it has gone by itself
            connection.sock.shutdown(socket.SHUT_RDWR)
    elif not thread.reported:
        thread.reported = True
        frame = sys._current_frames().get(thread.handle.ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        replaced = not worker.relayed.is_moved()
        worker.log.critical(
            "A request runs longer than timeout = %s s%s (pid: %s). It is at:\n%s",
            worker.cfg.timeout,
            ", so this worker is replaced" if replaced else "",
            os.getpid(),
            stack.rstrip(),
        )
        if replaced:
            worker.alive = False


def _note_client_progress(connection: Connection, now: float) -> None:
    """Note whether the client has sent or taken something, while a thread waits in one call to the kernel for more."""
    try:
        progress = socket_queues.progress(connection.sock)
    except (OSError, ValueError):  # it has just ended
        return
    if progress != connection.clock.client_counters:
        connection.clock.client_counters = progress
        connection.clock.last_progress = now
