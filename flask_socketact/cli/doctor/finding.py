"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(str, Enum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One line of output: `found` is a sentence without a full stop, `remedy` what to do, or empty."""

    verdict: Verdict
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    return Finding(Verdict.OK, found)


def warning(found: str, remedy: str) -> Finding:
    return Finding(Verdict.WARNING, found, remedy)


def error(found: str, remedy: str) -> Finding:
    """Return a finding that breaks a promise."""
    return Finding(Verdict.ERROR, found, remedy)
