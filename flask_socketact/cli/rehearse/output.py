"""Progress and results of ``rehearse``: with colors and a bar on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from flask_socketact.cli.console import console, table
from flask_socketact.cli.rehearse.outcome import Account, Verdict, noticed
from flask_socketact.cli.rehearse.recording import Recording
from flask_socketact.cli.rehearse.run import Plan
from flask_socketact.cli.rehearse.run import Progress as Report
from flask_socketact.text import duration, printable

#: Time between two updates of the bar, in seconds. While it is drawn, no requests are sent.
INTERVAL = 0.25
#: Lateness of the clients' loop that is reported, in seconds.
_LATE = 0.1


@contextmanager
def progress(plan: Plan, *, quiet: bool) -> Iterator[Report]:
    """Print the plan, and yield the function that shows progress."""
    if quiet:
        yield lambda _recording, _doing: None
        return
    out = console()
    clients = ", ".join(f"{group.number} {group.kind.name}" for group in plan.groups)
    out.print(f"Clients: {clients}. {_restarts(plan)}", markup=False)
    if out.is_terminal:
        with _bar(out) as bar:
            yield _OnTerminal(plan, bar)
    else:
        yield _InLines(out)


def _restarts(plan: Plan) -> str:
    number = f"{plan.restarts} restart{'' if plan.restarts == 1 else 's'}"
    return f"{number} by: {shlex.join(plan.command)}" if plan.restarts else "No restarts"


def _bar(out: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.fields[seen]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=out, auto_refresh=False, transient=True)


def _seen(recording: Recording) -> str:
    return f"{len(recording):,} requests, {recording.failed:,} failed, {len(recording.closed_kind):,} closed"


class _OnTerminal:
    def __init__(self, plan: Plan, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("serving", total=plan.every * (plan.restarts + 1), seen="")
        self._began = self._drawn = time.monotonic()

    def __call__(self, recording: Recording, doing: str) -> None:
        now = time.monotonic()
        if now - self._drawn < INTERVAL:
            return
        self._drawn = now
        seen = _seen(recording)
        self._bar.update(self._task, completed=now - self._began, description=doing, seen=seen, refresh=True)


class _InLines:
    """Prints a line for each step."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._doing = ""

    def __call__(self, recording: Recording, doing: str) -> None:
        if doing != self._doing:
            self._doing = doing
            self._out.print(f"  {doing:<12} {_seen(recording)}", markup=False)


def show(recording: Recording, verdict: Verdict) -> None:
    """Print the accounts and the verdict."""
    out = console()
    out.print(_table(verdict))
    for each in verdict.accounts[:-1]:
        for reason, times in each.reasons.items():
            out.print(printable(f"  {each.kind}: failed {times} times: {reason}"), style="red", markup=False)
    for number, restart in enumerate(recording.restarts, 1):
        if restart.status != 0:
            text = printable(f"  restart {number}: exit status {restart.status}: {restart.error}")
            out.print(text, style="red", markup=False)
    if verdict.lateness > _LATE:
        late = duration(verdict.lateness)
        text = f"  The clients' own loop was late by up to {late}: it may be the cause of waits up to this"
        out.print(text, style="yellow", markup=False)
    out.print(verdict.sentence, markup=False)
    if not verdict.is_kept:
        out.print(f"Broken: {'; '.join(verdict.broken)}", style="bold red", markup=False)
    else:
        color = "yellow" if noticed(verdict.accounts[-1], verdict.conditions) else "green"
        out.print(f"{verdict.headline}.", style=f"bold {color}", markup=False)


def _table(verdict: Verdict) -> Table:
    accounts = table("clients", "requests", "failed", "closed", "p50", "p99", "max", "longest wait")
    for each in verdict.accounts:
        accounts.add_row(*_cells(each), style="red" if noticed(each, verdict.conditions) else None)
    return accounts


def _cells(each: Account) -> list[str]:
    counts = (f"{count:,}" for count in (each.requests, each.failed, each.closed))
    return [each.kind, *counts, *map(duration, (each.p50, each.p99, each.max, each.wait))]
