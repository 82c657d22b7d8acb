"""Times for people."""

from __future__ import annotations

#: From so many of one unit on, the next is used: its name, its seconds, and how it is written.
_UNITS = (
    (1.0, "ms", 0.001, ".1f"),
    (120.0, "s", 1.0, ".2f"),
    (7200.0, "min", 60.0, ".0f"),
    (172800.0, "h", 3600.0, ".0f"),
    (float("inf"), "d", 86400.0, ".0f"),
)


def describe(seconds: float) -> str:
    """Return a time as people say it: ``4.2 ms``, ``1.25 s``, ``5 min``."""
    unit, size, form = next(unit[1:] for unit in _UNITS if seconds < unit[0])
    return f"{seconds / size:{form}} {unit}"
