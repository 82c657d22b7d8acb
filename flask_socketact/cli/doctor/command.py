"""``flask-socketact doctor``: check that an installed service keeps the promises of the README."""

from __future__ import annotations

import json

import click

from flask_socketact.cli.doctor import checks
from flask_socketact.cli.doctor.finding import Finding, Verdict
from flask_socketact.cli.doctor.system import read
from flask_socketact.cli.exit_status import Command, ExitStatus
from flask_socketact.cli.options import name_argument, user_manager_option


@click.command(
    cls=Command,
    epilog="Exit status: 0 there is no error; 1 there is one; 3 there is no such service, or systemd does not respond.",
)
@name_argument
@user_manager_option
@click.option("--quiet", is_flag=True, help="Print only warnings and errors.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array: check, verdict, found, remedy.")
@click.pass_context
def doctor(context: click.Context, /, name: str, *, user_manager: bool, quiet: bool, as_json: bool) -> None:
    """Check the units and settings of a service.

    Report everything that would make clients notice a restart of the service NAME. Print one line for each check: ok,
    warning or error, what was found, and the remedy; the errors come last, and then a summary. Nothing is changed. Run
    it as root: it reads gunicorn's settings as the service's user.
    """
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other: use one of them")
    findings = list(checks.run(read(name, user_manager=user_manager)))
    if as_json:
        click.echo(json.dumps([as_object(check, finding) for check, finding in findings], indent=2))
    else:
        from flask_socketact.cli.doctor import output

        output.show(findings, quiet=quiet)
    if any(finding.verdict is Verdict.ERROR for _, finding in findings):
        context.exit(ExitStatus.BROKEN)


def as_object(check: str, finding: Finding) -> dict[str, str]:
    """Return a finding for ``--json``."""
    return {"check": check, "verdict": finding.verdict.value, "found": finding.found, "remedy": finding.remedy}
