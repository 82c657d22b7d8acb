"""What the journal has of a unit's last start: journalctl(1), systemd.journal-fields(7)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask_socketact.errors import ManagerError
from flask_socketact.systemd.manager import call
from flask_socketact.text import printable

if TYPE_CHECKING:
    from flask_socketact.systemd.manager import Manager, Unit

#: More than a start that fails writes. Lines of one start; one of more than 4096 bytes is left out by journalctl.
_LINES = 100
#: Of a message that is to stand in one line, in characters.
_MAX_MESSAGE = 300
_SECONDS = 5.0
#: The relay comes after what has failed, and fails for the same reason; before systemd has started it, and then.
_RELAY = ("(relay)", "relay")
_ERRORS = ("0", "1", "2", "3")  # PRIORITY= of an error, and of what is worse


@dataclass(frozen=True)
class _Entry:
    message: str
    is_error: bool
    is_managers: bool  #: and not of a process of the unit


def failure(unit: Unit, manager: Manager) -> str:
    """Return why the last start of a unit has failed, in one line; empty if the journal does not tell, or one must not
    look.

    It is the first error of what the unit has started, or the last line that this has written before it ended (that of
    a traceback, on stderr, is no error for the journal), or the first error of the manager.

    :param unit: with ``InvocationID``
    """
    entries = list(_read(unit, manager)) if unit["InvocationID"] else []
    own = [entry.message for entry in entries if not entry.is_managers]
    errors = [entry.message for entry in entries if entry.is_error and not entry.is_managers]
    of_manager = [entry.message for entry in entries if entry.is_error and entry.is_managers]
    return next(iter((*errors[:1], *own[-1:], *of_manager[:1])), "")


def _read(unit: Unit, manager: Manager) -> Iterator[_Entry]:
    """Yield the entries of a unit's last start, the oldest first."""
    fields = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,JOB_RESULT,_SYSTEMD_UNIT,_SYSTEMD_USER_UNIT"
    options = ("--quiet", "--no-pager", f"--lines={_LINES}", "--output=json", f"--output-fields={fields}")
    try:
        done = call("journalctl", *options, *_matches(unit, manager), seconds=_SECONDS)
    except (ManagerError, subprocess.TimeoutExpired):
        return
    field = "_SYSTEMD_USER_UNIT" if manager.user else "_SYSTEMD_UNIT"
    for line in done.stdout.split("\n"):
        entry = parse_entry(line)
        if "JOB_RESULT" in entry or entry.get("SYSLOG_IDENTIFIER") in _RELAY:
            continue  # it says no more than that something has failed
        message = entry.get("MESSAGE")  # of one that is no text a list, and of a long one null
        if isinstance(message, str) and message.strip():
            text = printable(message.strip().removeprefix(f"{unit.name}: "))[:_MAX_MESSAGE]
            yield _Entry(text, entry.get("PRIORITY") in _ERRORS, entry.get(field) != unit.name)


def _matches(unit: Unit, manager: Manager) -> tuple[str, ...]:
    """Return what is the unit's: of its processes, and of the manager, as which nobody else can write."""
    invocation = unit["InvocationID"]
    if manager.user:
        own = (f"_SYSTEMD_USER_UNIT={unit.name}", f"_SYSTEMD_INVOCATION_ID={invocation}")
        return (*own, "+", f"USER_UNIT={unit.name}", f"USER_INVOCATION_ID={invocation}")
    own = (f"_SYSTEMD_UNIT={unit.name}", f"_SYSTEMD_INVOCATION_ID={invocation}")
    return (*own, "+", "_PID=1", f"UNIT={unit.name}", f"INVOCATION_ID={invocation}")


def parse_entry(line: str) -> dict[str, Any]:
    """Read an entry as ``journalctl --output=json`` prints it; one that was cut off is empty."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
