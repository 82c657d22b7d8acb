"""What people read: durations, errors of others in one line, and what somebody else has written."""

from __future__ import annotations

#: Of an error that is to stand in one line, in characters.
_MAX_LINE = 200

#: From so many seconds of one unit on, the next is used: its name, its seconds, and how it is written.
_UNITS = (
    (1.0, "ms", 0.001, ".1f"),
    (120.0, "s", 1.0, ".2f"),
    (7200.0, "min", 60.0, ".0f"),
    (172800.0, "h", 3600.0, ".0f"),
    (float("inf"), "d", 86400.0, ".0f"),
)


def duration(seconds: float) -> str:
    """Return a time as people say it: ``4.2 ms``, ``1.25 s``, ``5 min``."""
    unit, size, form = next(unit[1:] for unit in _UNITS if seconds < unit[0])
    return f"{seconds / size:{form}} {unit}"


def describe(error: BaseException) -> str:
    """Return what an error of somebody else's is and says, in one line: ``KeyError: 'name'``."""
    line = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return cut(line, _MAX_LINE)


def cut(text: str, most: int) -> str:
    """Return `text`, or as many characters as there may be."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(text: str) -> str:
    """Return what does nothing to a terminal, of a text that somebody else has written."""
    return "".join(char if char.isprintable() else "?" for char in text)
