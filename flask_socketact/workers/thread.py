"""gunicorn's threads, with a drain that answers every request it has been sent."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from selectors import EVENT_READ
from types import FrameType
from typing import Any

from gunicorn.workers import gthread

#: accept(2): somebody else was faster, the client has gone, or its connection has an error of its own.
_NOBODY_THERE = (
    *(errno.EAGAIN, errno.ECONNABORTED, errno.EPERM, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT),
    *(errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH),
)
#: accept(2): the connection stays in the queue. gthread would end the worker, with all of its requests.
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
NO_RESOURCES_PAUSE = 0.1  #: seconds

#: How long a new connection may stay silent at least, in seconds, however short ``keepalive`` is.
FIRST_BYTE_TIMEOUT = 5.0
#: How long we wait for the client to close after us, in seconds.
CLOSE_TIMEOUT = 2.0


class ThreadWorker(gthread.ThreadWorker):
    """A worker that serves with threads: ``-k flask_socketact.workers.thread.ThreadWorker``.

    Other than gunicorn's gthread, it
    - accepts only while one of its threads is free: other connections wait in the kernel's
      queue, for another worker or the next generation;
    - keeps a new connection in the poller until its first byte has arrived, so that
      a silent client neither holds a thread nor is dropped by a drain;
    - looks once more for a request before it closes an idle connection;
    - waits in the poller, not with its loop, for a client to close after an answer with ``Connection: close``;
    - says ``Connection: close`` in every answer that begins after the drain has begun, not only in
      those to requests that came after it, so that the client does not wait here for its next one;
    - drains when its master has died;
    - reports an application that leaves (``SystemExit``) while it is imported as one that cannot boot:
      gunicorn would start it again and again;
    - leaves at once when it is stopped while it still loads the application;
    - tells the application, in the WSGI environ, which listener the request came by
      (``socketact.listener``, only under activation) and whether the worker
      drains (``socketact.draining``, a function that returns a bool).
    """

    wsgi: Callable[..., Iterable[bytes]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._serving = threading.local()
        self._requests = 0  # in the pool's threads, or waiting for one
        self._closing: deque[gthread.TConn] = deque()  # the next to time out first

    def load_wsgi(self) -> None:
        try:
            super().load_wsgi()
        except SystemExit as error:
            if not self.alive:  # handle_exit
                raise
            raise RuntimeError(f"the application left with {error.code!r} while it was imported") from error
        self._application = self.wsgi
        self.wsgi = self._run_application

    def _run_application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self._serving.listener is not None:
            environ["socketact.listener"] = self._serving.listener
        environ["socketact.draining"] = self.is_draining

        def start_or_end(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
            if self.is_draining():
                response.force_close()
            write: Callable[[bytes], None] = start_response(status, headers, exc_info)
            return write

        response = start_response.__self__  # type: ignore[attr-defined]  # gunicorn's, a bound method
        return self._application(environ, start_or_end)

    def is_draining(self) -> bool:
        """Whether this worker takes nothing new and leaves when it has nothing left."""
        return not self.alive

    def accept(self, listener: Any) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_RESOURCES:
                self.log.error("Cannot accept a connection (%s): raise LimitNOFILE= of the service", error.strerror)
                time.sleep(NO_RESOURCES_PAUSE)
            elif error.errno not in _NOBODY_THERE:
                raise
            return
        self.nr_conns += 1
        conn = gthread.TConn(self.cfg, client, address, listener.getsockname())
        conn.listener = getattr(listener, "fdname", None)
        conn.timeout = time.monotonic() + max(self.cfg.keepalive, FIRST_BYTE_TIMEOUT)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def enqueue_req(self, conn: gthread.TConn) -> None:
        self._requests += 1
        if self._requests >= self.cfg.threads:
            self.set_accept_enabled(False)
        super().enqueue_req(conn)

    def finish_request(self, conn: gthread.TConn, fs: Future[bool]) -> None:
        self._requests -= 1
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
        else:
            self._begin_close(conn)

    def _begin_close(self, conn: gthread.TConn) -> None:
        """Send FIN, and wait for the client's (RFC 9112, section 9.6): bytes that nobody
        reads would make the kernel send a reset, and cut the end of the answer off."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._read_to_end, conn))
        except (OSError, ValueError):  # it has gone already
            self._end_close(conn)
            return
        conn.timeout = time.monotonic() + CLOSE_TIMEOUT
        self._closing.append(conn)

    def _read_to_end(self, conn: gthread.TConn, client: socket.socket) -> None:
        try:
            if client.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:  # a reset ends it, too
            pass
        self._closing.remove(conn)
        self.poller.unregister(client)
        self._end_close(conn)

    def _end_close(self, conn: gthread.TConn) -> None:
        self.nr_conns -= 1
        conn.close()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept as long as a thread is free: gthread's loop asks for it again and again."""
        super().set_accept_enabled(enabled and self._requests < self.cfg.threads)

    def handle(self, conn: gthread.TConn) -> bool:
        self._serving.listener = conn.listener
        keep: bool = super().handle(conn)
        return keep

    def murder_keepalived(self, force: bool = False) -> None:
        self._serve_late_arrivals(self.keepalived_conns)
        super().murder_keepalived(force)

    def murder_pending(self) -> None:
        self._serve_late_arrivals(self.pending_conns)
        super().murder_pending()
        while self._closing and self._closing[0].timeout <= time.monotonic():
            conn = self._closing.popleft()
            self.poller.unregister(conn.sock)
            self._end_close(conn)

    def _serve_late_arrivals(self, conns: deque[gthread.TConn]) -> None:
        """Poll once more if the oldest of `conns` is about to be closed: a request that
        came while the poller's other events were served would be answered with a reset."""
        if conns and conns[0].timeout <= time.monotonic():
            self.wait_for_and_dispatch_events(timeout=0)

    def _cap_keepalive(self, deadline: float) -> None:
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def is_parent_alive(self) -> bool:
        """Whether the master is there. Without it the drain begins, as after SIGTERM:
        gthread would go on to offer keep-alive, and cut the clients off at the end."""
        if not super().is_parent_alive():
            self.alive = False
        return self.alive

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if not self.booted:
            sys.exit(0)
