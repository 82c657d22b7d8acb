"""gevent's server, with a limit on descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.server import StreamServer

from flask_socketact.linux import descriptors


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
