"""The report: one self-contained HTML file, which a later run can be compared with."""

from __future__ import annotations

import base64
import json
import shlex
from array import array
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from flask_socketact import files
from flask_socketact.cli.rehearse.outcome import Account, Condition, Verdict, noticed, phase
from flask_socketact.cli.rehearse.recording import Recording
from flask_socketact.cli.rehearse.run import Plan
from flask_socketact.errors import ReportError
from flask_socketact.text import duration

#: Format of the data: bump when an older report can no longer be shown next to a new one.
FORMAT = 2
#: Largest report that is read, in bytes. One of a million requests has about 20 MB.
LIMIT = 200_000_000
_BEGIN, _END = '<script type="application/json" id="runs">', "</script>"


def describe(title: str, plan: Plan, recording: Recording, verdict: Verdict) -> dict[str, Any]:
    """Return the data of a run: all requests as columns, little-endian, in base64."""
    return {
        "format": FORMAT,
        "title": title,
        "url": plan.groups[0].target.url,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(plan.command),
        "seconds": recording.seconds,
        "kinds": [
            {"name": group.kind.name, "meaning": group.kind.meaning, "number": group.number} for group in plan.groups
        ],
        "verdict": verdict.as_object(),
        "restarts": [vars(restart) for restart in recording.restarts],
        "first_generation": recording.first_generation,
        "reasons": recording.reasons,
        "requests": {
            "kind": _encode("B", recording.kind),
            "began": _encode("f", recording.began),
            "answering": _encode("f", (row.answering for row in recording)),
            "own": _encode("f", recording.own),
            "failure": _encode("H", recording.failure),
            "phase": _encode("B", (phase(row, recording) for row in recording)),
        },
        "closed": {"kind": list(recording.closed_kind), "at": list(recording.closed_at)},
    }


def _encode(typecode: str, values: Any) -> str:
    return base64.b64encode(array(typecode, values).tobytes()).decode()


def render(runs: Sequence[dict[str, Any]]) -> str:
    """Return the report of a run, or of two next to each other, as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flask_socketact.cli.rehearse", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["duration"] = duration
    environment.filters["noticed"] = _noticed
    # A script element ends at the first "</", even within a string.
    data = json.dumps(runs, separators=(",", ":")).replace("<", "\\u003c")
    return environment.get_template("report.html").render(runs=runs, data=data)


def _noticed(account: dict[str, Any], conditions: Sequence[dict[str, Any]]) -> set[str]:
    """Return the measures that clients notice, of an account as it stands in the data."""
    return noticed(Account(**account), [Condition(**each) for each in conditions])


def read(path: Path) -> dict[str, Any]:
    """Return the run of a report, or the second of two.

    :raises ReportError: it is not a report, or cannot be read.
    """
    try:
        text = files.read(path, limit=LIMIT)
        run = json.loads(text.partition(_BEGIN)[2].partition(_END)[0])[-1]
        if run["format"] != FORMAT:
            raise ReportError(f"{path} was made by another version: rehearse again")
        render([run])  # fail now, not at the end of the rehearsal
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError, jinja2.TemplateError):
        raise ReportError(f"{path} is not a report of flask-socketact rehearse: correct --compare") from None
    return dict(run)
