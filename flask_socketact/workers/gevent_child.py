"""gevent and the processes that the application forks."""

from __future__ import annotations

import os
from typing import Any

import gevent
import gevent.hub


def notice_children() -> None:
    """Make gevent notice the exit of the first child, too, however early it is.

    gevent handles SIGCHLD only from then on when it has forked (``os.fork()``) or starts a process (subprocess). A
    child that has exited by then is waited for without end.
    """
    os.register_at_fork(before=gevent.get_hub().loop.install_sigchld)


def discard_hub() -> Any:
    """Discard the hub, with which a child would run the greenlets of its parent.

    :returns: the hub, to be referenced: gevent switches to a hub that is garbage-collected
    """
    hub = gevent.get_hub()
    hub.loop.destroy()
    gevent.hub.set_loop(None)
    gevent.hub.set_hub(None)
    return hub
