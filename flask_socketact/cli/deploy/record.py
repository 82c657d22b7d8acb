"""The record of a deploy that is running: if it is killed, the next deploy rolls it back."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flask_socketact import files
from flask_socketact.errors import RecordError
from flask_socketact.systemd import unit_names


@dataclass(frozen=True)
class Pending:
    """A deploy that is running. Written before anything is changed, and removed at the end."""

    old: str  #: target of the link before
    new: str  #: target of the link after
    verb: str  #: of systemctl: restart or reload
    main_pid: int  #: of the old generation
    begun: str  #: start time, ISO 8601
    #: identities (Link.identity) of the links that the deploy makes: a link made by hand may have the same target
    links: list[str]
    canary: int | None = None  #: share in HAProxy while the release is watched, in percent; None: the full share
    shares: list[str] = field(default_factory=list)  #: identities (lb.state.identity) of the drains of the deploy


class Record:
    """The record and the lock of one service. The kernel releases the lock when its process exits."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.json"
        # Instances of a template usually share the link to the release.
        self._lock = folder / f"{unit_names.template_of(name)}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other deploys of the service.

        :raises RecordError: another is running, or the folder is not writable.
        """
        try:
            self._lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RecordError(
                f"{self._lock}: {error.strerror}: run deploy as root, or with --user-manager as its user"
            ) from None
        try:
            self._lock_for_us(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock_for_us(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d" % os.getpid(), 0)
        except BlockingIOError:
            raise RecordError(f"another deploy is running, process {_pid(descriptor)}: wait until it ends") from None
        except OSError as error:
            raise RecordError(f"{self._lock} cannot be written: {error.strerror}: nothing was deployed") from None

    def read(self) -> Pending | None:
        """Return the deploy that was killed before it ended; None if there is none.

        :raises RecordError: the record is malformed or not readable.
        """
        try:
            return Pending(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            raise RecordError(
                f"{self._path} is malformed: check that the link leads to the right release, then remove the file"
            ) from None

    def begin(self, pending: Pending) -> None:
        """Write the record; it survives a power failure.

        :raises RecordError: it cannot be written, and nothing was changed.
        """
        try:
            files.write(self._path, json.dumps(asdict(pending)), mode=0o600, durable=True)
        except OSError as error:
            raise RecordError(f"{self._path} cannot be written: {error.strerror}: nothing was deployed") from None

    def end(self) -> None:
        """Remove the record.

        :raises RecordError: it cannot be removed.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise RecordError(
                f"{self._path}: {error.strerror}: remove it, or the next deploy rolls this one back"
            ) from None


def _pid(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode(errors="replace") or "?"
