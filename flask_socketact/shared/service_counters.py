"""What the masters of a service count, in a file that each master continues."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact import files

if TYPE_CHECKING:
    from gunicorn.glogging import Logger

#: systemd's environment variable: the folders of ``RuntimeDirectory=`` (systemd.exec(5)), which survive a restart, but
#: not a reboot. systemd sorts them. Ours has this ending; without one, it is the first.
FOLDER = "RUNTIME_DIRECTORY"
ENDING = "-metrics"
_FILE = "service.json"


class ServiceCounters:
    """The counters of this master's service; without a folder they are not kept.

    A file that cannot be written is logged once, and stops nothing.
    """

    def __init__(self, log: Logger) -> None:
        self._folder = find_folder()
        self._log = log
        self._entries = read(self._folder) if self._folder else {}
        self._warned = False

    def count(self, name: str) -> None:
        """Add one to the counter `name`."""
        self.note(**{name: self._entries.get(name, 0) + 1})

    def note(self, **values: float) -> None:
        """Set some counters, and write the file."""
        self._entries |= values
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(self._folder / _FILE, json.dumps(self._entries))
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._log.warning("%s=%s: %s, so restarts are not counted", FOLDER, self._folder, error.strerror)


def find_folder() -> Path | None:
    """Return the folder that the processes of this service share; None without one."""
    folders = os.environ.get(FOLDER, "").split(":")
    folder = next((folder for folder in folders if folder.endswith(ENDING)), folders[0])
    return Path(folder) if folder else None


def read(folder: Path) -> dict[str, float]:
    """Return the counters in `folder`; none when the file is missing or malformed."""
    try:
        entries = json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {name: value for name, value in entries.items() if isinstance(value, int | float)}
