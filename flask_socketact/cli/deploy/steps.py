"""A deployment, step by step."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from flask_socketact.cli.deploy import health_watch, release_link
from flask_socketact.cli.deploy.health_watch import Baseline, Health, UnhealthyError
from flask_socketact.cli.deploy.in_progress import Pending, Record
from flask_socketact.cli.deploy.release_link import Link
from flask_socketact.cli.deploy.service import CommandError, Service
from flask_socketact.errors import SocketActError
from flask_socketact.systemd.manager import ManagerError

RESTART, RELOAD = "restart", "reload"

#: How long the old release may take to be ready again, at least: longer than a reload that hangs. Seconds.
UNDO_TIMEOUT = 150.0
#: What makes a deployment be undone.
_BAD = (CommandError, UnhealthyError, ManagerError, OSError, KeyboardInterrupt)


class Tell(Protocol):
    """Who hears of it."""

    def __call__(self, step: str) -> None:
        """Hear of a step, in a sentence."""

    def failure(self, reason: str) -> None:
        """Hear why the release is not deployed: once, before the one before it is put back."""


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
        self._answered = True  # somebody, before anything was changed: one can tell by asking

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
        current = release_link.find(self._service.directory)
        now = current.target()
        is_untouched = now == pending.old and self._service.main_pid == pending.main_pid
        what = f"The deployment of {pending.new}, begun {pending.begun}, was cut off"
        is_undone = False
        if now not in (pending.old, pending.new):
            self._tell(f"{what}, and since then {now} was put in place: that stays")
        elif not current.leads_to_folder(pending.old):
            self._tell(f"{what}, and {pending.old} is no more: {now} stays")
        elif not is_untouched:
            self._tell(f"{what}: {pending.old} is put back")
            self._put_back(current, pending.old, pending.verb)
            is_undone = True
        self._record.end()
        return is_undone

    def _deploy_release(self, release: Path) -> None:
        current = release_link.find(self._service.directory)
        new, old = current.check(release), current.target()
        before = self._look_first()
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
            raise NotDeployedError(reason) from None
        self._record.end()
        self._tell(f"Deployed {new}")

    def _deploy_in_place(self) -> None:
        try:
            self._restart(self._look_first())
        except _BAD as error:
            reason = self._tell_failure(error)
            if self._is_restarted:
                raise LeftBrokenError(
                    "it serves, as there is no release to put back: deploy a good one, with --release"
                ) from None
            if not self._service.is_served:
                raise LeftBrokenError(
                    f"{self._service.name} does not serve: flask-socketact doctor tells more"
                ) from None
            self._tell("The workers from before serve on")
            raise NotDeployedError(reason) from None
        self._tell("Deployed what is in place")

    def _look_first(self) -> Baseline:
        """Look at the service before anything is changed."""
        before = health_watch.baseline(self._service, self._wanted.health)
        self._answered = before.answered
        if not self._answered:
            where = ", ".join(self._service.addresses)
            self._tell(f"Nobody answers at {where}: only READY=1 and the counts of errors tell whether it is well")
        return before

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
        health_watch.wait(self._service, wanted.health, before, began + wanted.timeout)

    def _tell_failure(self, error: BaseException) -> str:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        self._tell.failure(reason)
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
        self._await_answer(old)
        self._tell(f"{old} serves again")

    def _await_answer(self, old: str) -> None:
        """Wait until the old release answers: slow workers of the bad one may still have what is asked first.

        :raises LeftBrokenError: it does not, for as long as it may take.
        """
        deadline = time.monotonic() + UNDO_TIMEOUT
        while (page := self._service.ask(self._wanted.health.page)).status is None and self._answered:
            if time.monotonic() > deadline:
                raise LeftBrokenError(f"{old} does not answer: {page.text}: see {self._journal}")
            time.sleep(health_watch.INTERVAL)

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
