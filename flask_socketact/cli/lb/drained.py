"""Wait until a service that was drained has nothing to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask_socketact.cli.lb import agent, state
from flask_socketact.cli.status import snapshot
from flask_socketact.errors import NotBegunError, NotDrainedError
from flask_socketact.text import duration

if TYPE_CHECKING:
    from flask_socketact.cli.lb.agent import Agent
    from flask_socketact.systemd.manager import Manager

#: Seconds without a request.
QUIET = agent.ROUND
#: Seconds between two looks.
_INTERVAL = 0.2


def check(name: str, manager: Manager) -> None:
    """Check that the requests of a service can be counted.

    :raises NotBegunError: they cannot.
    """
    if remark := snapshot.look(name, manager).remark:
        raise NotBegunError(f"--wait cannot count the requests of {name}: {remark}")


def wait(name: str, manager: Manager, timeout: float, say: Callable[[str], None]) -> None:
    """Wait until HAProxy asks, and then for `QUIET` without a request in flight.

    :param name: of a service that was drained just now
    :param timeout: in seconds
    :param say: is called with what it waits for, when that changes
    :raises NotDrainedError: the time is over, or the service is no longer drained.
    """
    before = agent.find(name, manager)  # a connection that is counted already may have got the old answer
    deadline = time.monotonic() + timeout
    busy_at, said = time.monotonic(), ""
    while True:
        _check_drained(name, manager)
        what, detail = _awaited(before, manager)
        now = time.monotonic()
        if what:
            busy_at = now
        elif now - busy_at >= QUIET:
            return
        if now >= deadline:
            left = what + detail or f"{QUIET:g} s without a request"
            raise NotDrainedError(f"{name} is drained, but after {timeout:g} s it still waits for {left}")
        if what and what != said:
            say(f"Waiting for {what}{detail}")
            said = what
        time.sleep(_INTERVAL)


def _check_drained(name: str, manager: Manager) -> None:
    share = state.read(name, user_manager=manager.user)
    if share.weight != state.DRAINED:
        raise NotDrainedError(f"{name} is no longer drained, since --for is over or another command has changed it")


def _awaited(before: Agent, manager: Manager) -> tuple[str, str]:
    """Return what a service waits for, and a detail; empty if nothing."""
    if agent.find(before.name, manager).asked == before.asked:
        return f"HAProxy to ask {', '.join(before.addresses)}", ""
    return _left(before.name, manager)


def _left(name: str, manager: Manager) -> tuple[str, str]:
    """Return what a service still has to do.

    Idle connections do not count: HAProxy keeps some, and sends nothing on those to a server with the weight 0.
    """
    workers = snapshot.look(name, manager).workers
    requests = sum(worker.in_flight for worker in workers)
    if not requests:
        return "", ""
    oldest = max(worker.oldest for worker in workers)
    return f"{requests} request{'' if requests == 1 else 's'}", f", the oldest for {duration(oldest)}"
