"""The folder of a run: one file, to which each result is appended when it is there, so an interruption loses none."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flask_socketact.errors import SocketActError
from tests.soak.plan import Settings

_NAME = "soak.jsonl"
#: Kinds of records.
RUN, SESSION, REQUESTS, SAMPLE, RESTART, PHASE = "run", "session", "requests", "sample", "restart", "phase"
_FORMAT = 1


class ResultsError(SocketActError):
    """The folder is not what it should be."""


class Results:
    """The records of a run."""

    def __init__(self, folder: Path, records: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.records = records
        self._lock = threading.Lock()  # the client's accounts arrive in a thread
        self._file = (folder / _NAME).open("a")

    @classmethod
    def begin(cls, folder: Path, settings: Settings) -> Results:
        """Make the folder of a new run.

        :raises ResultsError: it has a run already, or cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / _NAME).exists():
                raise ResultsError(
                    f"{folder} has the results of another run: use --resume {folder}, or another --folder"
                )
            results = cls(folder, [])
        except OSError as error:
            raise ResultsError(f"{folder}: {error.strerror}: choose another --folder") from None
        results.add(RUN, format=_FORMAT, settings=asdict(settings))
        return results

    @classmethod
    def resume(cls, folder: Path) -> Results:
        """Open the folder of a run that was interrupted; of its last record, what is incomplete is removed.

        :raises ResultsError: there is no such run.
        """
        path = folder / _NAME
        try:
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            records = [json.loads(line) for line in whole.splitlines()]
            if not records or records[0]["kind"] != RUN or records[0]["format"] != _FORMAT:
                raise ResultsError(f"{path} has no run that this version can resume: begin another one")
            os.truncate(path, len(whole))
            return cls(folder, records)
        except OSError as error:
            raise ResultsError(f"{path}: {error.strerror}: --resume needs the folder of a run") from None
        except (ValueError, KeyError, TypeError):
            raise ResultsError(f"{path} is damaged: begin another run") from None

    def add(self, kind: str, **values: Any) -> None:
        """Append a record."""
        record = {"kind": kind, **values}
        with self._lock:
            self.records.append(record)
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of a kind."""
        return [record for record in self.records if record["kind"] == kind]

    @property
    def settings(self) -> Settings:
        """What the run was asked for."""
        return Settings(**self.records[0]["settings"])
