"""Output of ``doctor``."""

from __future__ import annotations

from collections import Counter

from rich.text import Text

from flask_socketact.cli.console import console
from flask_socketact.cli.doctor.finding import Finding, Verdict
from flask_socketact.text import printable

#: In the order of the output: what is to be done stands where one looks first, at the end.
_COLORS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.ERROR: "red"}


def show(findings: list[tuple[str, Finding]], *, quiet: bool) -> None:
    """Print a line for each check, the errors last, and a summary.

    :param quiet: print only warnings and errors
    """
    out = console()
    for verdict, color in _COLORS.items():
        for check, finding in findings:
            if finding.verdict is verdict and not (quiet and verdict is Verdict.OK):
                line = Text(as_line(check, finding))
                line.stylize(color, 0, len(verdict.value))
                out.print(line, soft_wrap=True)  # the terminal wraps: rich would break commands that are copied
    if not quiet:
        out.print(Text(summary([finding for _, finding in findings]), "bold"))


def as_line(check: str, finding: Finding) -> str:
    """Return a finding as one line."""
    remedy = f". {finding.remedy}" if finding.remedy else ""
    return printable(f"{finding.verdict.value:<8} {check}: {finding.found}{remedy}")


def summary(findings: list[Finding]) -> str:
    """Return how many checks had which result."""
    counts = Counter(finding.verdict for finding in findings)
    errors, warnings, fine = (counts[verdict] for verdict in (Verdict.ERROR, Verdict.WARNING, Verdict.OK))
    if not (errors or warnings):
        return f"All {fine} checks are ok"
    parts = [_number(count, of) for count, of in ((errors, "error"), (warnings, "warning")) if count]
    return f"{', '.join(parts)}, {_number(fine, 'check')} {'is' if fine == 1 else 'are'} ok"


def _number(count: int, of: str) -> str:
    return f"{count} {of}{'' if count == 1 else 's'}"
