"""Text for people: durations, foreign errors in one line, and untrusted text that is safe to print."""

from __future__ import annotations

#: Longest description of an error, in characters.
_MAX_LINE = 200

#: Upper limit of a unit in seconds, its name, its length in seconds, and its format.
_UNITS = (
    (1.0, "ms", 0.001, ".1f"),
    (120.0, "s", 1.0, ".2f"),
    (7200.0, "min", 60.0, ".0f"),
    (172800.0, "h", 3600.0, ".0f"),
    (float("inf"), "d", 86400.0, ".0f"),
)


def duration(seconds: float) -> str:
    """Return a duration with its unit: ``4.2 ms``, ``1.25 s``, ``5 min``."""
    unit, size, form = next(unit[1:] for unit in _UNITS if seconds < unit[0])
    return f"{seconds / size:{form}} {unit}"


def describe(error: BaseException) -> str:
    """Return the type and text of an error in one line: ``KeyError: 'name'``."""
    line = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return cut(line, _MAX_LINE)


def cut(text: str, most: int) -> str:
    """Return `text`, shortened to `most` characters if it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(text: str) -> str:
    """Return `text` with ``?`` for each character that a terminal could interpret."""
    return "".join(char if char.isprintable() else "?" for char in text)
