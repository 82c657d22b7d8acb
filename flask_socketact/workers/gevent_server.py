"""gevent's server, with a limit on descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent.server import StreamServer

from flask_socketact.linux import descriptors

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker


class Server(StreamServer):
    """Accepts nothing while the application's reserve of descriptors is in use. Connections wait in the kernel."""

    make_room: Callable[[], None]

    def do_read(self) -> Any:
        if descriptors.has_room(self.socket.fileno()):
            return super().do_read()
        self.make_room()
        self.stop_accepting()
        gevent.spawn_later(descriptors.ACCEPT_PAUSE, self._start_accepting_if_started)
        return None


def drain_without_memory(worker: BaseWorker) -> None:
    """Let a worker drain whose greenlets often get no memory. It would go on to accept connections, and lose them."""
    hub = gevent.get_hub()
    report = hub.handle_error

    def handle_error(context: Any, kind: Any, value: Any, traceback: Any) -> None:
        if kind is MemoryError and worker.fails_often():
            worker.alive = False
        report(context, kind, value, traceback)

    hub.handle_error = handle_error
