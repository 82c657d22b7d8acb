"""What the masters of a service count: in a file that each takes over from the one before it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact import files

if TYPE_CHECKING:
    from gunicorn.glogging import Logger

#: Environment variable, systemd's: the folders of ``RuntimeDirectory=`` (systemd.exec(5)), which outlive a restart, and
#: not the machine. Ours is the first.
FOLDER = "RUNTIME_DIRECTORY"
_FILE = "service.json"


class Ledger:
    """The file of the service that this process is the master of; without a folder for it, nothing.

    A disk that takes nothing is told once, and stops nobody.
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
        """Write down `values`, in the place of those before."""
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
    """Return the folder that the processes of this service share; None where it has none."""
    folder = os.environ.get(FOLDER, "").partition(":")[0]
    return Path(folder) if folder else None


def read(folder: Path) -> dict[str, float]:
    """Return what the service's masters have written down in `folder`; nothing, if there is nothing legible."""
    try:
        entries = json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {name: value for name, value in entries.items() if isinstance(value, int | float)}
