"""Why a service has failed, in its own words: the last error in its journal."""

from __future__ import annotations

import re
import subprocess

from flask_socketact.cli import bounded
from flask_socketact.systemd.manager import PATH
from flask_socketact.systemd.unit_journal import parse_entry
from flask_socketact.text import cut

#: Seconds.
TIMEOUT = 5.0
#: Of what the service has written itself, so much is told. Characters.
MAX_LINE = 500
#: Records in which the reason is looked for.
_RECORDS = 20
#: Errors of gunicorn that do not tell the reason, which has been logged before.
_NO_REASON = re.compile(r"Worker \(pid:\d+\) exited with code \d+\.")


def last_error(unit: str, since: int, *, user: bool) -> str:
    """Return the last error that a service itself has logged since a time, in seconds of the epoch; to end a sentence
    with. Empty where one must not look, or there is none, or behind a record that is longer than people read.
    """
    field = "_SYSTEMD_USER_UNIT" if user else "_SYSTEMD_UNIT"
    options = ("--quiet", "--no-pager", "--priority=err", "--reverse", f"--lines={_RECORDS}", f"--since=@{since}")
    output = ("--output=json", "--output-fields=MESSAGE", "--all")
    try:
        printed = bounded.head(
            ["journalctl", *options, *output, f"{field}={unit}"], seconds=TIMEOUT, env={"PATH": PATH, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    reason = find_reason(printed)
    return f": {reason}" if reason else ""


def find_reason(records: str) -> str:
    """Return the last line of the newest record that tells a reason; empty if none does.

    :param records: as ``journalctl --reverse --output=json`` prints them.
    """
    for record in records.split("\n"):
        lines = [line.strip() for line in _message(record).splitlines() if line.strip()]
        if lines and not _NO_REASON.fullmatch(lines[-1]):
            return cut(lines[-1], MAX_LINE)
    return ""


def _message(record: str) -> str:
    """Return the text of a record; journalctl prints one that is not only text as a list of bytes."""
    message = parse_entry(record).get("MESSAGE")
    if isinstance(message, list) and all(isinstance(byte, int) for byte in message):
        return bytes(message).decode(errors="replace")
    return message if isinstance(message, str) else ""
