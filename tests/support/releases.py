"""Releases of an application, and a load that asks for it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.support.load import Load
from tests.support.server import dial

if TYPE_CHECKING:
    from pathlib import Path


WORKERS = ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"]


#: Answers with its release; `{extra}` is run at import.
SOURCE = """
{extra}

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "{length}")])
    return [b"{release}"]
"""


def release(folder: Path, name: str, extra: str = "") -> None:
    # Renamed into place: a worker that boots reads one or the other.
    (folder / "next").write_text(SOURCE.format(release=name, length=len(name), extra=extra))
    (folder / "next").replace(folder / "app.py")


def asking(http: socket.socket) -> Load:
    """Clients that ask for / all the time, on new connections."""
    return Load(lambda: dial(http), {"new connection": 2})
