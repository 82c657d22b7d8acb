"""A deployment, step by step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flask_socketact.deployment import link, watch
from flask_socketact.deployment.link import Link
from flask_socketact.deployment.record import Pending, Record
from flask_socketact.deployment.service import CommandError, Service
from flask_socketact.deployment.watch import Baseline, Health, UnhealthyError
from flask_socketact.errors import SocketActError
from flask_socketact.systemctl import ManagerError

RESTART, RELOAD = "restart", "reload"

#: How long the old release may take to be ready again, at least: longer than a reload that hangs. Seconds.
UNDO_TIMEOUT = 150.0
#: What makes a deployment be undone.
_BAD = (CommandError, UnhealthyError, ManagerError, OSError, KeyboardInterrupt)
#: Hears of each step, in a sentence.
Tell = Callable[[str], None]


class NotDeployedError(SocketActError):
    """The release was bad, and the one before it serves; the text says why."""


class LeftBrokenError(SocketActError):
    """The release was bad, and there is none to put back, or that does not start: somebody must look."""


@dataclass(frozen=True)
class Wanted:
    """What is to be deployed."""

    release: Path | None  #: None: what is in place already
    verb: str  #: RESTART or RELOAD
    health: Health
    timeout: float  #: from the command until the service has been well for long enough, in seconds


def state_folder(*, user_manager: bool) -> Path:
    """Return where records are kept; the state of the machine, so that they outlive a boot (file-hierarchy(7))."""
    if not user_manager:
        return Path("/var/lib/flask-socketact")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "flask-socketact"


class Deployment:
    """One deployment of a service. Used with the lock of its record."""

    def __init__(self, service: Service, record: Record, wanted: Wanted, tell: Tell) -> None:
        self._service = service
        self._record = record
        self._wanted = wanted
        self._tell = tell
        self._is_restarted = False

    def run(self) -> None:
        """Deploy, after the last deployment has been undone, if that was killed half-way.

        :raises ReleaseError: nothing was done.
        :raises RecordError: nothing was done.
        :raises NotDeployedError: the release before serves.
        :raises LeftBrokenError: it is not known that it does.
        """
        has_repaired = self._repair()
        if self._wanted.release is not None:
            self._deploy_release(self._wanted.release)
        elif not has_repaired:  # it has just been restarted
            self._deploy_in_place()

    def _repair(self) -> bool:
        """Undo a deployment that was killed half-way; return whether there was one that had changed something.

        :raises LeftBrokenError: it cannot be undone.
        """
        pending = self._record.read()
        if pending is None:
            return False
        current = link.find(self._service.directory)
        is_changed = current.target() != pending.old or self._service.main_pid != pending.main_pid
        if is_changed:
            self._tell(
                f"The deployment of {pending.new}, begun {pending.begun}, was cut off: {pending.old} is put back"
            )
            self._put_back(current, pending.old, pending.verb)
        self._record.end()
        return is_changed

    def _deploy_release(self, release: Path) -> None:
        current = link.find(self._service.directory)
        new, old = current.check(release), current.target()
        before = watch.baseline(self._service, self._wanted.health)
        begun = datetime.now().astimezone().isoformat(timespec="seconds")
        self._record.begin(Pending(old, str(new), self._wanted.verb, self._service.main_pid, begun))
        try:
            self._tell(f"{current.path} is to be {new}, and was {old}")
            current.switch(str(new))
            self._restart(before)
        except _BAD as error:
            reason = self._tell_failure(error)
            self._put_back(current, old, self._wanted.verb)
            self._record.end()
            raise NotDeployedError(f"{reason}. {old} serves again") from None
        self._record.end()
        self._tell(f"Deployed {new}")

    def _deploy_in_place(self) -> None:
        try:
            self._restart(watch.baseline(self._service, self._wanted.health))
        except _BAD as error:
            reason = self._tell_failure(error)
            if self._is_restarted:
                raise LeftBrokenError(
                    f"{reason}. It serves, as there is no release to put back: deploy a good one, with --release"
                ) from None
            raise NotDeployedError(f"{reason}. The workers from before serve on, if there are any") from None
        self._tell("Deployed what is in place")

    def _restart(self, before: Baseline) -> None:
        """Restart or reload, and wait until the new generation is well.

        :raises CommandError: it does not boot.
        :raises UnhealthyError: it is not well.
        """
        wanted, began = self._wanted, time.monotonic()
        self._tell(f"systemctl {wanted.verb} {self._service.name}")
        self._service.run(wanted.verb, wanted.timeout)
        self._is_restarted = True
        self._tell(f"Ready after {time.monotonic() - began:.1f} s; watched for {wanted.health.seconds:g} s")
        watch.wait(self._service, wanted.health, before, began + wanted.timeout)

    def _tell_failure(self, error: BaseException) -> str:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        self._tell(f"Not deployed: {reason}")
        return reason

    def _put_back(self, current: Link, old: str, verb: str) -> None:
        """Let the old release serve again.

        :raises LeftBrokenError: it does not.
        """
        try:
            if current.target() != old:
                current.switch(old)
            self._load_again(verb)
        except (CommandError, ManagerError, OSError) as error:
            raise LeftBrokenError(f"{old} does not start: {error}: see {self._journal}") from None
        page = self._service.ask(self._wanted.health.page)
        if page.status is None:
            raise LeftBrokenError(f"{old} does not answer: {page.text}: see {self._journal}")
        self._tell(f"{old} serves again")

    def _load_again(self, verb: str) -> None:
        """Restart, or reload; of a reload that is at work, of the bad release perhaps, another would only be a part.

        :raises CommandError: it cannot be restarted.
        """
        seconds = max(self._wanted.timeout, UNDO_TIMEOUT)
        if verb == RELOAD:
            with suppress(CommandError):
                self._service.run(RELOAD, seconds)
            with suppress(CommandError):
                self._service.run(RELOAD, seconds)
                return
        self._service.run(RESTART, seconds)

    @property
    def _journal(self) -> str:
        return f"journalctl -e -u {self._service.name}"
