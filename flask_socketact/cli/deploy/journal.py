"""What a deployment does, in the journal: ``journalctl -u NAME`` shows it among what the service says."""

from __future__ import annotations

from contextlib import suppress

from systemd import journal

from flask_socketact.cli.deploy.service import Service
from flask_socketact.errors import ManagerError
from flask_socketact.systemd import message_ids


def write(service: Service, text: str) -> None:
    """Write a line about a service. Without a journal nothing is written, and nobody is stopped."""
    pid = 0
    with suppress(ManagerError):
        pid = service.main_pid
    about = {"OBJECT_PID": str(pid)} if pid else {}  # journald adds the unit's name (systemd.journal-fields(7))
    with suppress(OSError):
        journal.send(text, SYSLOG_IDENTIFIER="flask-socketact", **message_ids.DEPLOYMENT, **about)
