"""Restart the example service for hours under load. Results go to a folder as they come, and a report at the end.

``python -m tests.soak``, run by script/soak.
"""

from __future__ import annotations

import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from flask_socketact.cli.exit_status import Command, ExitStatus
from flask_socketact.errors import OptionError, SocketActError
from flask_socketact.text import duration
from tests.soak import report, results
from tests.soak.latency import PERCENTILES
from tests.soak.load import LoadError
from tests.soak.plan import WITH, WITHOUT, Settings, restarts_in
from tests.soak.results import Results
from tests.soak.run import Run
from tests.soak.verdict import JUDGED, Verdict, judge
from tests.support.machine import MachineError

_HOURS = 1.0


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--restarts", type=click.IntRange(1), help="Number of restarts. Every third is a reload.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Or how long to run.  [default: 1]")
@click.option("--every", type=click.FloatRange(1), default=10.0, help="Seconds between restarts.")
@click.option("--rate", type=click.FloatRange(0), default=1000.0, help="Requests per second; 0: as fast as it goes.")
@click.option("--connections", type=click.IntRange(1, 1000), default=64, help="Keep-alive connections.")
@click.option("--worker", type=click.Choice(["thread", "sync", "gevent"]), default="thread", help="Worker class.")
@click.option("--preload", is_flag=True, help="With preload_app.")
@click.option("--tree", type=click.Path(exists=True, file_okay=False), default="/", help="A tree of script/tree.")
@click.option("--folder", type=click.Path(path_type=Path), help="For the results.  [default: soak-DATE]")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with the run in this folder.")
@click.pass_context
def main(context: click.Context, /, folder: Path | None, resume: Path | None, **options: Any) -> None:
    """Restart a service for hours under a steady load, and see whether a client notices, or anything grows.

    Exit status: 0 if all conditions are kept, 1 if one is broken, 130 after Ctrl-C.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    if os.geteuid() != 0:
        raise SocketActError("booting a machine needs root: start script/soak, which asks sudo for it")
    context.exit(_soak(_open(context, folder, resume, options)))


def _open(context: click.Context, folder: Path | None, resume: Path | None, options: dict[str, Any]) -> Results:
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if resume is not None:
        if given != ["resume"]:
            raise OptionError("--resume goes on with the options of the run: leave out the others")
        return Results.resume(resume)
    restarts, hours = options.pop("restarts"), options.pop("hours")
    if restarts and hours:
        raise OptionError("--restarts and --hours exclude each other: leave out one")
    number = restarts or restarts_in(hours or _HOURS, options["every"])
    default = Path(f"soak-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    return Results.begin(folder or default, Settings(restarts=number, **options))


def _soak(kept: Results) -> ExitStatus:
    click.echo(f"soak: {kept.settings.restarts} restarts; results in {kept.folder}; Ctrl-C ends it with a report")
    status = ExitStatus.DONE
    try:
        Run(kept, _tell).run()
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
        click.echo(f"soak: interrupted; go on with: script/soak --resume {kept.folder}", err=True)
    except (LoadError, MachineError) as error:
        if not kept.of(results.SESSION):
            raise SocketActError(f"{error}") from None
        status = ExitStatus.BROKEN
        click.echo(f"soak: {error}\nsoak: go on with: script/soak --resume {kept.folder}", err=True)
    verdict = judge(kept)
    _print(verdict, report.write(kept, verdict))
    kept.close()
    return status if verdict.is_kept else ExitStatus.BROKEN


def _tell(kept: Results, ended: str) -> None:
    """Print a line on the run so far, and write its report."""
    verdict = judge(kept)
    report.write(kept, verdict)
    total, part = verdict.total, verdict.parts
    slow = ", ".join(f"{duration(part[name].latency.percentile(JUDGED))} {name}" for name in (WITHOUT, WITH))
    click.echo(
        f"{ended}: {total.sent:,} requests, {total.failed.total():,} failed, {total.closed:,} closed; "
        f"p99.9 {slow} restarts; {len(kept.of(results.RESTART)):,} restarts"
    )


def _print(verdict: Verdict, path: Path) -> None:
    """Print the verdict."""
    for name, account in verdict.parts.items():
        times = (f"p{percent:g} {duration(account.latency.percentile(percent))}" for percent in PERCENTILES)
        click.echo(f"{name} restarts: {account.answered:,} answered, {', '.join(times)}")
    for check in (*verdict.checks, *verdict.levels):
        mark = {True: "kept", False: "BROKEN", None: "not judged"}[check.is_kept]
        click.echo(f"{mark:>10}  {check.name}: {check.found} (wanted: {check.wanted})")
    click.echo(f"soak: {'kept' if verdict.is_kept else 'broken'}; open {path} in a browser")


if __name__ == "__main__":
    main(prog_name="script/soak")
