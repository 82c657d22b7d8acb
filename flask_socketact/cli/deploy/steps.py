"""A deployment, step by step."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flask_socketact.cli.deploy import health_watch, release_link
from flask_socketact.cli.deploy.health_watch import Baseline, Health
from flask_socketact.cli.deploy.in_progress import Pending, Record
from flask_socketact.cli.deploy.old_release import OldRelease, end
from flask_socketact.cli.deploy.outcome import Tell
from flask_socketact.cli.deploy.release_link import Link
from flask_socketact.cli.deploy.service import RELOAD, Service
from flask_socketact.errors import (
    CommandError,
    LeftBrokenError,
    ManagerError,
    NotBegunError,
    NotDeployedError,
    ReleaseError,
    UnhealthyError,
)

#: What makes a deployment be undone.
_BAD = (CommandError, UnhealthyError, ManagerError, OSError, KeyboardInterrupt)


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
        self.has_begun = False  #: something has been changed, and not yet put back
        self._service = service
        self._record = record
        self._wanted = wanted
        self._tell = tell
        self._is_restarted = False
        self._old = OldRelease(service, record, tell, wanted.health.page, wanted.timeout)

    def run(self) -> None:
        """Deploy, after the last deployment has been undone, if that was killed half-way.

        :raises NotBegunError: nothing was done.
        :raises ReleaseError: nothing was done.
        :raises RecordError: nothing was done.
        :raises NotDeployedError: the release before serves.
        :raises LeftBrokenError: it is not known that it does.
        """
        if self._wanted.verb == RELOAD:
            self._check_reload()
        has_repaired = self._repair()
        if self._wanted.release is not None:
            with release_link.find(self._service.directory) as current:
                self._deploy_release(current, self._wanted.release)
        elif not has_repaired:  # it has just been restarted
            self._deploy_in_place()

    def _check_reload(self) -> None:
        """:raises NotBegunError: the service cannot reload."""
        name = self._service.name
        if not self._service.overlaps:
            raise NotBegunError(
                f"{name} cannot reload, as its old and new workers must not live at the same time "
                "(SOCKETACT_OVERLAP=no): deploy without --reload"
            )
        if not self._service.is_active:
            raise NotBegunError(f"{name} is not active, and cannot reload: deploy without --reload")

    def _repair(self) -> bool:
        """Undo a deployment that was killed half-way; return whether there was one that had changed something.

        :raises LeftBrokenError: it cannot be undone, and no other release is given.
        """
        pending = self._record.read()
        if pending is None:
            return False
        with release_link.find(self._service.directory) as current:
            now = current.target()
            is_untouched = now == pending.old and self._service.main_pid == pending.main_pid
            what = f"The deployment of {pending.new}, begun {pending.begun}, was cut off"
            if current.identity() in pending.links and current.leads_to_folder(pending.old):
                self._tell(f"{what}: {pending.old} is put back")
                self._undo(current, pending)
                return True
            if current.identity() in pending.links:
                self._tell(f"{what}, and {pending.old} is no more: {now} stays")
            elif not is_untouched:
                self._tell(f"{what}, and {current.path} is not the link that it made: {now} stays")
        self._record.end()
        return False

    def _undo(self, current: Link, pending: Pending) -> None:
        """Put back what was there before a deployment that was killed.

        :raises LeftBrokenError: it does not serve, and no other release is given.
        """
        self.has_begun = True
        try:
            self._old.put_back(current, pending, None)
        except LeftBrokenError as error:
            if self._wanted.release is None:
                raise
            self._tell(str(error))
        self.has_begun = False

    def _deploy_release(self, current: Link, release: Path) -> None:
        new, old = current.check(release), current.target()
        if current.leads_to(new):
            self._tell(f"{new} is in place already: if it is bad, there is nothing to put back")
            self._deploy_in_place()
            return
        before = self._look_first()
        begun = datetime.now().astimezone().isoformat(timespec="seconds")
        pending = Pending(old, str(new), self._wanted.verb, self._service.main_pid, begun, [])
        try:
            self._switch(current, pending)
            self._restart(before)
        except _BAD as error:
            if not self.has_begun and current.identity() not in pending.links:
                self._record.end()
                raise
            self.has_begun = True
            reason = self._tell_failure(error)
            self._old.put_back(current, pending, before)
            raise NotDeployedError(reason) from None
        end(self._record)
        self._tell(f"Deployed {new}")

    def _deploy_in_place(self) -> None:
        before = self._look_first()
        try:
            self._restart(before)
        except _BAD as error:
            if not self.has_begun:
                raise
            reason = self._tell_failure(error)
            self._say_what_serves()
            raise NotDeployedError(reason) from None
        self._tell("Deployed what is in place")

    def _say_what_serves(self) -> None:
        """Say what serves where there is no release to put back.

        :raises LeftBrokenError: not what served before.
        """
        name = self._service.name
        if self._is_restarted and self._service.is_stopped:
            raise LeftBrokenError(f"{name} is stopped: {self._service.systemctl} start {name} starts it")
        if self._is_restarted:
            raise LeftBrokenError("it serves, as there is no release to put back: deploy a good one, with --release")
        if not self._service.is_served:
            raise LeftBrokenError(f"{name} does not serve: flask-socketact doctor tells more")
        self._tell("The workers from before serve on")

    def _look_first(self) -> Baseline:
        """Look at the service before anything is changed."""
        before = health_watch.baseline(self._service, self._wanted.health)
        if not before.answered:
            where = ", ".join(self._service.addresses)
            self._tell(f"Nobody answers at {where}: only READY=1 and the counts of errors tell whether it is well")
        return before

    def _switch(self, current: Link, pending: Pending) -> None:
        """Let the link name the new release.

        :raises ReleaseError: it cannot; nothing has been changed.
        :raises RecordError: it cannot be written down; nothing has been changed.
        :raises OSError: whether that outlives a power cut is not known.
        """
        self._tell(f"{current.path} is to be {pending.new}, and was {pending.old}")
        with current.made_alongside(pending.new) as link:
            pending.links.append(link.identity)
            self._record.begin(pending)
            try:
                current.replace(link)
            except ReleaseError:
                self._record.end()
                raise
        self.has_begun = True
        current.sync()

    def _restart(self, before: Baseline) -> None:
        """Restart or reload, and wait until the new generation is well.

        :raises CommandError: it does not boot.
        :raises UnhealthyError: it is not well.
        """
        wanted, began = self._wanted, time.monotonic()
        self._tell(f"systemctl {wanted.verb} {self._service.name}")
        self.has_begun = True
        self._service.run(wanted.verb, wanted.timeout)
        self._is_restarted = True
        self._tell(f"Ready after {time.monotonic() - began:.1f} s; watched for {wanted.health.seconds:g} s")
        health_watch.wait(self._service, wanted.health, before, began + wanted.timeout)

    def _tell_failure(self, error: BaseException) -> str:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        self._tell.failure(reason)
        return reason
