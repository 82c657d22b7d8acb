"""What a deployment leaves behind while it is at work, so that the next one can undo it if it is killed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flask_socketact import files
from flask_socketact.errors import RecordError


@dataclass(frozen=True)
class Pending:
    """A deployment that has begun. Written before anything is changed, and removed when it has ended."""

    old: str  #: what the link said
    new: str  #: what it is to say
    verb: str  #: of systemctl
    main_pid: int  #: of the generation before
    begun: str  #: time, ISO 8601
    #: identities of the links that it makes, for the new release and to put the old one back, as of Link.identity: one
    #: made by hand may say the same
    links: list[str]


class Record:
    """The files of one service. The lock ends with the process that has it, however that ends."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.json"
        self._lock = folder / f"{name}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other deployments of the service away.

        :raises RecordError: one is at work, or the folder cannot be written to.
        """
        try:
            self._lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RecordError(
                f"{self._lock}: {error.strerror}: deploy as the user whose manager it is, or root"
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
            raise RecordError(f"another deployment is at work, by process {_pid(descriptor)}: wait for it") from None
        except OSError as error:
            raise RecordError(f"{self._lock}: {error.strerror}: without it nothing is deployed") from None

    def read(self) -> Pending | None:
        """Return the deployment that has begun and not ended; None if there is none.

        :raises RecordError: something else stands there.
        """
        try:
            return Pending(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            raise RecordError(
                f"{self._path} is not legible: see that the link to the release is right, and remove the file"
            ) from None

    def begin(self, pending: Pending) -> None:
        """Write a deployment down, so that it outlives a power cut.

        :raises RecordError: the disk does not take it; nothing has been changed.
        """
        try:
            files.write(self._path, json.dumps(asdict(pending)), mode=0o600, durable=True)
        except OSError as error:
            raise RecordError(f"{self._path}: {error.strerror}: without it nothing is deployed") from None

    def end(self) -> None:
        """Forget it.

        :raises RecordError: it cannot be removed.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise RecordError(
                f"{self._path}: {error.strerror}: remove it, or the next deployment undoes this one"
            ) from None


def _pid(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode(errors="replace") or "?"
