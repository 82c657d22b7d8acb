"""The journal of a unit: why it failed, and what a deploy does. See journalctl(1), systemd.journal-fields(7)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask_socketact.cli import bounded
from flask_socketact.shared.slot import DEPLOY_AGENT
from flask_socketact.systemd import message_ids
from flask_socketact.systemd.manager import PATH
from flask_socketact.text import cut, printable

if TYPE_CHECKING:
    from flask_socketact.systemd.manager import Manager
    from flask_socketact.systemd.unit import Unit

#: How long journalctl may take, in seconds.
_TIMEOUT = 5.0
#: More lines than a failed start writes.
_LINES_OF_START = 100
#: Longest message of :func:`start_failure`, in characters.
_MAX_START_MESSAGE = 300
#: Entries that :func:`last_error` searches.
_LAST_ENTRIES = 20
#: Longest text that a command quotes from a service, in characters.
MAX_QUOTE = 500
#: The relay fails after the unit, for the same reason: its identifiers before and after systemd has started it.
_RELAY = ("(relay)", "relay")
_ERRORS = ("0", "1", "2", "3")  # PRIORITY=err and above
#: Errors that follow the one with the reason: one of gunicorn, and the access log of a request by deploy.
_NO_REASON = re.compile(rf"Worker \(pid:\d+\) exited with code \d+\.|.*\"{DEPLOY_AGENT}\".*")


@dataclass(frozen=True)
class _Entry:
    message: str
    is_error: bool
    is_managers: bool  #: written by systemd, not by a process of the unit


def start_failure(unit: Unit, manager: Manager) -> str:
    """Return why the last start of a unit failed, in one line; empty if the journal has no reason or cannot be read.

    That is the first error of a process of the unit; or the last line that a process wrote before it exited (the end of
    a traceback on stderr is no error for the journal); or the first error of systemd.

    :param unit: with ``InvocationID``
    """
    entries = list(_start(unit, manager)) if unit["InvocationID"] else []
    own = [entry.message for entry in entries if not entry.is_managers]
    errors = [entry.message for entry in entries if entry.is_error and not entry.is_managers]
    of_manager = [entry.message for entry in entries if entry.is_error and entry.is_managers]
    return next(iter((*errors[:1], *own[-1:], *of_manager[:1])), "")


def last_error(service: str, since: int, *, user: bool) -> str:
    """Return the last error that a service logged; empty if there is none, or the journal cannot be read.

    :param since: seconds since the epoch
    :param user: whether the service belongs to a user manager
    """
    match = f"{_unit_field(user=user)}={service}"
    options = ("--priority=err", "--reverse", f"--lines={_LAST_ENTRIES}", f"--since=@{since}")
    for entry in _entries(*options, "--output-fields=MESSAGE", "--all", match):
        lines = [line.strip() for line in _text(entry).splitlines() if line.strip()]
        if lines and not _NO_REASON.fullmatch(lines[-1]):
            return cut(lines[-1], MAX_QUOTE)
    return ""


def as_typed(unit: str, *, user: bool) -> str:
    """Return the command that shows the end of a unit's journal, as you type it."""
    if user:
        return f"journalctl --user -e -u {unit}"
    return f"{'' if os.geteuid() == 0 else 'sudo '}journalctl -e -u {unit}"


def write(text: str, pid: int) -> None:
    """Write a line about a service; without a journal do nothing.

    :param pid: main process of the service, by which journald adds the unit's name; 0 if there is none
    """
    from systemd import journal  # every `flask` command imports this module

    about = {"OBJECT_PID": str(pid)} if pid else {}
    with suppress(OSError):
        journal.send(text, SYSLOG_IDENTIFIER="flask-socketact", **message_ids.DEPLOYMENT, **about)


def _start(unit: Unit, manager: Manager) -> Iterator[_Entry]:
    """Yield the entries of a unit's last start, the oldest first."""
    fields = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,JOB_RESULT,_SYSTEMD_UNIT,_SYSTEMD_USER_UNIT"
    field = _unit_field(user=manager.user)
    for entry in _entries(f"--lines={_LINES_OF_START}", f"--output-fields={fields}", *_matches(unit, manager)):
        if "JOB_RESULT" in entry or entry.get("SYSLOG_IDENTIFIER") in _RELAY:
            continue  # it says only that something failed
        message = entry.get("MESSAGE")  # null if it is longer than 4096 bytes, a list if it is not text
        if isinstance(message, str) and message.strip():
            text = printable(message.strip().removeprefix(f"{unit.name}: "))[:_MAX_START_MESSAGE]
            yield _Entry(text, entry.get("PRIORITY") in _ERRORS, entry.get(field) != unit.name)


def _unit_field(*, user: bool) -> str:
    """Return the field in which journald notes the unit of a process."""
    return "_SYSTEMD_USER_UNIT" if user else "_SYSTEMD_UNIT"


def _matches(unit: Unit, manager: Manager) -> tuple[str, ...]:
    """Return what selects the entries of a unit's processes, and those of systemd about it, which nothing can forge."""
    invocation = unit["InvocationID"]
    own = (f"{_unit_field(user=manager.user)}={unit.name}", f"_SYSTEMD_INVOCATION_ID={invocation}")
    if manager.user:
        return (*own, "+", f"USER_UNIT={unit.name}", f"USER_INVOCATION_ID={invocation}")
    return (*own, "+", "_PID=1", f"UNIT={unit.name}", f"INVOCATION_ID={invocation}")


def _entries(*arguments: str) -> Iterator[dict[str, Any]]:
    """Yield the entries that journalctl prints; none if it fails. A line that is cut off is skipped."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", *arguments]
    try:
        printed = bounded.head(command, seconds=_TIMEOUT, env={"PATH": PATH, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in printed.split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _text(entry: dict[str, Any]) -> str:
    """Return the message of an entry; journalctl prints one that is not UTF-8 as a list of bytes."""
    message = entry.get("MESSAGE")
    if isinstance(message, list) and all(isinstance(byte, int) for byte in message):
        return bytes(message).decode(errors="replace")
    return message if isinstance(message, str) else ""
