"""The ``Status:`` line of ``systemctl status``: the workers of a service."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from flask_socketact.master import listeners
from flask_socketact.shared.slot import Field

if TYPE_CHECKING:
    from flask_socketact.master.arbiter import Arbiter


def serving(master: Arbiter) -> str:
    """Describe a service that is ready."""
    generations = Counter(master.WORKERS[pid].slot[Field.GENERATION] for pid in master.serving)
    present = f"{generations[master.generation]} of {master.num_workers} workers"
    begin = f"Reload failed ({master.reloads.failure.public}); still serving" if master.reloads.failure else "Serving"
    parts = [
        f"{begin} with {present} at {listeners.describe(master.LISTENERS)}",
        f"generation {master.generation}, {master.in_flight} requests in flight, {master.served} served",
        *_draining(master),
    ]
    if master.shortage:
        parts.append(f"workers are missing: {master.shortage.public}")
    if old := master.old.found:
        parts.append(f"old workers from before a restart: {len(old)}")
    return "; ".join(parts)


def stopping(master: Arbiter, *, graceful: bool = True) -> str:
    """Describe a service that stops."""
    drain = f"waiting up to {master.cfg.graceful_timeout} s" if graceful else "cut off"
    held = f" and {master.held} holds" if master.held else ""
    return f"Stopping: {master.in_flight} requests in flight{held}, {drain}"


def _draining(master: Arbiter) -> list[str]:
    """Describe each generation of which workers drain."""
    in_flight: Counter[int] = Counter()
    for pid in master.draining:
        slot = master.WORKERS[pid].slot
        in_flight[slot[Field.GENERATION]] += slot[Field.IN_FLIGHT]
    return [f"draining: generation {number}, {count} requests in flight" for number, count in in_flight.items()]
