"""Output of ``status``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flask_socketact.cli import unit_journal
from flask_socketact.cli.console import console, table
from flask_socketact.cli.status.snapshot import Overview, Worker
from flask_socketact.text import duration, printable


def show(seen: Overview, *, user: bool = False) -> None:
    """Print an overview.

    :param user: whether the service belongs to a user manager
    """
    console().print(_all(seen, user))


def watch(looks: Iterator[Overview], *, user: bool = False) -> None:
    """Show one overview after the other; on a terminal each replaces the one before."""
    out = console()
    if not out.is_terminal:
        for seen in looks:
            out.print(_all(seen, user))
    with Live(console=out, auto_refresh=False) as live:
        for seen in looks:
            live.update(_all(seen, user), refresh=True)


def _all(seen: Overview, user: bool) -> RenderableType:
    parts: list[RenderableType] = [_head(seen, user)]
    if seen.listeners:
        parts += ["", _listeners(seen)]
    if seen.workers:
        parts += ["", _workers(seen), *_draining(seen)]
    for warning in seen.warnings:
        parts += ["", Text(printable(f"Warning: {warning}"), "yellow")]
    if seen.remark:
        parts += ["", Text(printable(f"No workers are shown: {seen.remark}"), "yellow")]
    return Group(*parts)


def _head(seen: Overview, user: bool) -> Text:
    text = Text()
    text.append(seen.service, "bold")
    text.append(f": {seen.state}", "green" if seen.is_active else "red")
    if not seen.is_active:
        text.append(f" (see {unit_journal.as_typed(seen.service, user=user)})")
    if seen.failure and not seen.status:
        text.append(f"\n{printable(seen.failure)}")
    if seen.status and (seen.main_pid or not seen.is_active):
        text.append(f"\n{printable(seen.status)}")
    if not seen.is_active and (old := sum(each.state == "relayed" for each in seen.workers)):
        text.append(f"\n{old} old workers from before the restart keep serving")
    if seen.share and seen.share.state != "unset":
        text.append(f"\nbalancer: {seen.share}", None if seen.share.state == "ready" else "yellow")
    if not seen.overlaps:
        text.append("\nin a restart the old workers exit before new ones start, and clients wait (--no-overlap)")
    if seen.restart:
        restart = seen.restart
        generation = f"generation {seen.generation}, " if seen.generation else ""
        text.append(f"\n{generation}main process {seen.main_pid}, ready for {duration(restart.ago)}")
        text.append(f"\nlast {restart.kind}: took {duration(restart.took)}")
        if restart.longest_wait is not None:
            wait = duration(restart.longest_wait)
            text.append(f", longest wait {wait}, {restart.carried} connections carried")
    return text


def _listeners(seen: Overview) -> Table:
    listeners = table("listener", "address", "waiting", "at most")
    for listener in seen.listeners:
        waiting = "?" if listener.queue is None else f"{listener.queue:,}"
        closed = "" if listener.is_listening else "closed"
        style = "red" if closed else "yellow" if listener.queue else None
        name, address = (Text(printable(word)) for word in (listener.name, listener.address))  # "[::]" is not markup
        listeners.add_row(name, address, closed or waiting, f"{listener.backlog:,}", style=style)
    return listeners


def _workers(seen: Overview) -> Table:
    headings = ("generation", "state", "req/s", "requests", "5xx", "in flight", "connections", "oldest", "memory")
    workers = table("worker", *headings)
    for each in seen.workers:
        workers.add_row(*_cells(each, seen), style=None if each.state == "serving" else "yellow")
    return workers


def _cells(each: Worker, seen: Overview) -> list[str]:
    return [
        str(each.pid),
        f"{each.generation}" if each.master == seen.main_pid else f"{each.master}/{each.generation}",
        each.state,
        "" if each.rate is None else f"{each.rate:.1f}",
        f"{each.requests:,}",
        f"{each.errors:,}",
        f"{each.in_flight:,}",
        f"{each.connections:,}{_lasting([each])}",
        duration(each.oldest) if each.oldest else "",
        "" if each.memory is None else f"{each.memory / 1e6:.1f} MB",
    ]


def _draining(seen: Overview) -> Iterator[Text]:
    """Yield for each generation that drains what it waits for."""
    generations: dict[tuple[int, int], list[Worker]] = defaultdict(list)
    for each in seen.workers:
        if each.state == "draining":
            generations[each.master, each.generation].append(each)
    for (master, number), workers in generations.items():
        name = f"generation {number}" if master == seen.main_pid else f"generation {number} of main process {master}"
        since = duration(max(each.draining_for for each in workers))
        limit = duration(max(each.drain_time for each in workers))
        yield Text(f"{name} drains for {since} of at most {limit}, waiting for {_waits_for(workers)}", "yellow")


def _lasting(workers: list[Worker]) -> str:
    """Return how many of the connections last for hours."""
    counts = {"WebSockets": sum(each.websockets for each in workers), "streams": sum(each.streams for each in workers)}
    parts = [f"{count:,} {name}" for name, count in counts.items() if count]
    return f" ({', '.join(parts)})" if parts else ""


def _waits_for(workers: list[Worker]) -> str:
    requests, held = sum(each.in_flight for each in workers), sum(each.held for each in workers)
    lasting = _lasting(workers)
    idle = sum(each.connections for each in workers) - requests
    oldest = max(each.oldest for each in workers)
    parts = [
        f"{requests} requests{lasting}{f', the oldest for {duration(oldest)}' if oldest else ''}" if requests else "",
        f"{held} holds" if held else "",
        f"{idle} idle connections" if idle > 0 else "",
    ]
    return "; ".join(filter(None, parts)) or "nothing more"
