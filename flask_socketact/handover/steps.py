"""The steps of a restart or reload, by name, so that tests can stop or kill a process at any of them.

Here, reaching a step does nothing. A build for tests has another module in this place, and another function `reached`
in the relay (`relay`).
"""

from __future__ import annotations

from enum import Enum


class Step(Enum):
    """A step, and which process reaches it."""

    # The old master.
    MASTER_STOPS = "master-stops"  #: it has got SIGTERM
    MASTER_FORGETS = "master-forgets"  #: it has forgotten the workers that were moved to a scope
    # The new master.
    MASTER_STARTS = "master-starts"  #: it has the listeners and the mailbox, and no worker
    MASTER_SUPERSEDES = "master-supersedes"  #: new connections are to be its own from now on
    MASTER_IS_READY = "master-is-ready"  #: it is about to send READY=1
    MASTER_RETIRES = "master-retires"  #: the old workers are to drain
    # A master that reloads.
    MASTER_RELOADS = "master-reloads"  #: the new workers are about to be forked
    MASTER_HAS_RELOADED = "master-has-reloaded"  #: the old workers are to drain
    # A new worker.
    WORKER_STARTS = "worker-starts"  #: it was forked
    WORKER_LOADS = "worker-loads"  #: it is about to load the application
    WORKER_HAS_LOADED = "worker-has-loaded"
    WORKER_RECEIVES = "worker-receives"  #: it has connections from the mailbox, and does not yet wait for requests
    # An old worker.
    WORKER_IS_RELAYED = "worker-is-relayed"  #: it has seen that it was moved to a scope, and its master has exited
    WORKER_DRAINS = "worker-drains"  #: it is about to accept nothing new
    WORKER_SENDS = "worker-sends"  #: it is about to send connections to the mailbox
    WORKER_HAS_SENT = "worker-has-sent"  #: the connections are in the mailbox, and still open here
    WORKER_HAS_DRAINED = "worker-has-drained"  #: it is about to exit
    # A loader (``preload_app``).
    LOADER_LOADS = "loader-loads"
    LOADER_HAS_LOADED = "loader-has-loaded"
    LOADER_FORKS = "loader-forks"  #: it is about to fork a worker
    # The relay: root's script, not this module.
    RELAY_LOOKS = "relay-looks"  #: it knows that a restart runs
    RELAY_MOVES = "relay-moves"  #: it is about to make the scope
    RELAY_HAS_MOVED = "relay-has-moved"


def reached(step: Step) -> None:
    """Note that this process has reached `step`."""
