"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: A remedy for units that are not as the command writes them.
INSTALL = "Install it anew: flask-socketact units --install, with the options as before"


class Verdict(str, Enum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One line each: `found` is a sentence without its full stop, `remedy` what to do, empty if there is nothing."""

    verdict: Verdict
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    return Finding(Verdict.OK, found)


def warning(found: str, remedy: str) -> Finding:
    return Finding(Verdict.WARNING, found, remedy)


def error(found: str, remedy: str) -> Finding:
    """Something breaks a promise."""
    return Finding(Verdict.ERROR, found, remedy)
