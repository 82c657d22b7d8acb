"""The steps of a deploy."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flask_socketact.cli.deploy import health_watch, release_link, trial
from flask_socketact.cli.deploy.canary import Canary
from flask_socketact.cli.deploy.health_watch import Baseline, Health
from flask_socketact.cli.deploy.record import Pending, Record
from flask_socketact.cli.deploy.release_link import Link
from flask_socketact.cli.deploy.report import Report
from flask_socketact.cli.deploy.rollback import Rollback, end
from flask_socketact.cli.deploy.service import RELOAD, Service
from flask_socketact.cli.deploy.trial import Switch
from flask_socketact.errors import (
    CommandError,
    LeftBrokenError,
    ManagerError,
    NotBegunError,
    NotDeployedError,
    RecordError,
    ReleaseError,
    UnhealthyError,
    UntriedError,
)

#: Errors after which a deploy is rolled back.
_FAILURES = (CommandError, UnhealthyError, ManagerError, OSError, KeyboardInterrupt)
#: Errors before anything was changed.
_REFUSALS = (NotBegunError, ReleaseError, RecordError)


@dataclass(frozen=True)
class Wanted:
    """What to deploy."""

    release: Path | None  #: None: the release in place
    verb: str  #: RESTART or RELOAD
    health: Health
    timeout: float  #: of the trial; and from the restart until the service is healthy, in seconds
    trial: bool  #: try the release before any client sees it
    canary: int | None = None  #: share in HAProxy while the release is watched, in percent; None: the full share


def state_folder(*, user_manager: bool) -> Path:
    """Return the folder of records: it survives a reboot (file-hierarchy(7))."""
    if not user_manager:
        return Path("/var/lib/flask-socketact")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "flask-socketact"


class Deployment:
    """One deploy of a service. Its record must be locked."""

    def __init__(self, service: Service, record: Record, wanted: Wanted, report: Report) -> None:
        self.has_begun = False  #: something was changed, and not yet rolled back
        self._service = service
        self._record = record
        self._wanted = wanted
        self._report = report
        self._is_restarted = False
        self._canary = Canary(service, record, report)
        self._rollback = Rollback(service, record, report, wanted.health.pages, wanted.timeout)

    def run(self) -> None:
        """Deploy; before that, roll back an earlier deploy that was killed.

        :raises NotBegunError: nothing was changed.
        :raises ReleaseError: nothing was changed.
        :raises RecordError: nothing was changed.
        :raises NotDeployedError: the old release serves.
        :raises LeftBrokenError: the old release may not serve.
        """
        if self._wanted.verb == RELOAD:
            self._check_reload()
        has_repaired = self._repair()
        if self._wanted.release is not None:
            with release_link.find(self._service.directory) as current:
                self._deploy_release(current, self._wanted.release)
        elif not has_repaired:  # a repair has just restarted it
            self._deploy_in_place()

    def _check_reload(self) -> None:
        """Check that the service can reload.

        :raises NotBegunError: it cannot.
        """
        name = self._service.name
        if not self._service.overlaps:
            raise NotBegunError(
                f"{name} cannot reload, because its old and new workers must not run at the same time "
                "(SOCKETACT_OVERLAP=no): deploy without --reload"
            )
        if not self._service.is_active:
            raise NotBegunError(f"{name} is not active, and cannot reload: deploy without --reload")

    def _repair(self) -> bool:
        """Roll back a deploy that was killed; return whether that was necessary.

        :raises LeftBrokenError: the rollback failed, and there is no `--release`.
        """
        pending = self._record.read()
        if pending is None:
            return False
        with release_link.find(self._service.directory) as current:
            now = current.target()
            is_untouched = now == pending.old and self._service.main_pid == pending.main_pid
            what = f"The deploy of {pending.new}, begun {pending.begun}, was killed"
            if current.identity() in pending.links and current.leads_to_folder(pending.old):
                self._report(f"{what}: rolling back to {pending.old}")
                self._roll_back(current, pending)
                return True
            if current.identity() in pending.links:
                self._report(f"{what}, and {pending.old} no longer exists: the link keeps {now}")
            elif not is_untouched:
                self._report(f"{what}, and {current.path} is not the link that it made: the link keeps {now}")
            give_back = self._canary.restore if now == pending.old else self._canary.report_left
            give_back(pending)
        self._record.end()
        return False

    def _roll_back(self, current: Link, pending: Pending) -> None:
        """Roll back a deploy that was killed.

        :raises LeftBrokenError: the old release does not serve, and there is no `--release`.
        """
        self.has_begun = True
        try:
            self._rollback.roll_back(current, pending, None)
        except LeftBrokenError as error:
            if self._wanted.release is None:
                raise
            self._report(str(error))
        self.has_begun = False

    def _deploy_release(self, current: Link, release: Path) -> None:
        new = current.check(release)
        if current.leads_to(new):
            if self._wanted.canary is not None:
                raise NotBegunError(f"{new} is in place already, with no release to roll back to: omit --canary")
            self._report(f"{new} is in place already: if it is bad, there is no release to roll back to")
            self._deploy_in_place()
            return
        if self._wanted.canary is not None:
            self._canary.check()
        before = self._measure_before()
        self._try(before, Switch(current.path, new))
        old = current.target()  # now: the link may have been changed by hand during the trial
        begun = datetime.now().astimezone().isoformat(timespec="seconds")
        pending = Pending(old, str(new), self._wanted.verb, self._service.main_pid, begun, [], self._wanted.canary)
        try:
            self._canary.begin(pending)
            self._switch(current, pending)
            self._restart(before)
        except (*_FAILURES, *_REFUSALS) as error:
            if not self.has_begun and current.identity() not in pending.links:
                self._undo(pending)
                raise
            self.has_begun = True
            drained = self._canary.drain(pending)  # before anything else: clients get errors
            reason = self._report_failure(error)
            if drained:
                self._report(drained)
            self._rollback.roll_back(current, pending, before)
            raise NotDeployedError(reason) from None
        self._finish(pending)
        self._report(f"Deployed {new}")

    def _undo(self, pending: Pending) -> None:
        """Restore the share of a deploy that has changed nothing else.

        :raises LeftBrokenError: it cannot be set; the next deploy tries again.
        """
        self.has_begun = True
        self._canary.restore(pending)
        self._record.end()
        self.has_begun = False

    def _finish(self, pending: Pending) -> None:
        """Restore the share of a good release, then end the deploy: if killed in between, the next deploy rolls back.

        :raises LeftBrokenError: the release is deployed, but does not have its full share.
        """
        try:
            self._canary.restore(pending)
        except LeftBrokenError as error:
            end(self._record)
            raise LeftBrokenError(f"{pending.new} is deployed, but {error}") from None
        end(self._record)

    def _deploy_in_place(self) -> None:
        before = self._measure_before()
        self._try(before, None)
        try:
            self._restart(before)
        except _FAILURES as error:
            if not self.has_begun:
                raise
            reason = self._report_failure(error)
            self._report_what_serves()
            raise NotDeployedError(reason) from None
        self._report("Deployed the release in place")

    def _report_what_serves(self) -> None:
        """Report what serves after a failed deploy of the release in place.

        :raises LeftBrokenError: the old workers do not serve.
        """
        name = self._service.name
        if self._is_restarted and self._service.is_stopped:
            raise LeftBrokenError(f"{name} was stopped: start it with {self._service.systemctl} start {name}")
        if self._is_restarted:
            raise LeftBrokenError("the bad release serves, as there is no other: deploy a good one with --release")
        if not self._service.is_served:
            raise LeftBrokenError(f"{name} does not serve: run flask-socketact doctor {name}")
        self._report("The old workers keep serving")

    def _measure_before(self) -> Baseline:
        """Measure the health of the service before anything is changed."""
        before = health_watch.baseline(self._service, self._wanted.health)
        if not before.responded:
            where = ", ".join(self._service.addresses)
            self._report(f"No response at {where}: only READY=1 and the counts of errors show the health")
        elif self._service.is_active and not self._service.is_counted:
            self._report("The counts of errors cannot be read: only READY=1 and the pages show the health")
        return before

    def _try(self, before: Baseline, switch: Switch | None) -> None:
        """Try the release, if that is wanted and possible.

        :raises NotDeployedError: it is bad.
        :raises NotBegunError: the service was stopped meanwhile.
        """
        if not self._wanted.trial:
            return
        began = time.monotonic()
        what = "the release in place" if switch is None else switch.release
        self._report(f"Trying {what} before any client sees it")
        try:
            trial.run(self._service, switch, self._wanted.health, before, self._wanted.timeout)
        except UntriedError as error:
            self._report(f"No trial: {error}")
        except UnhealthyError as error:
            reason = self._report_failure(error)
            self._report("Nothing was changed: the old release serves")
            raise NotDeployedError(reason) from None
        else:
            self._report(f"The trial was good, and took {time.monotonic() - began:.1f} s")
            self._check_not_stopped()

    def _check_not_stopped(self) -> None:
        """Check that the service, which served before the trial, was not stopped meanwhile: a restart would start it.

        :raises NotBegunError: it was.
        """
        if self._service.is_stopped and not self._service.exits_when_idle:
            raise NotBegunError(f"{self._service.name} was stopped during the trial, and nothing was changed")

    def _switch(self, current: Link, pending: Pending) -> None:
        """Switch the link to the new release.

        :raises ReleaseError: it cannot be switched; nothing was changed.
        :raises RecordError: the record cannot be written; nothing was changed.
        :raises OSError: the link was switched, but may not survive a power failure.
        """
        self._report(f"Switching {current.path} to {pending.new} from {pending.old}")
        with current.made_alongside(pending.new) as link:
            pending.links.append(link.identity)
            self._record.begin(pending)
            current.replace(link)
        self.has_begun = True
        current.sync()

    def _restart(self, before: Baseline) -> None:
        """Restart or reload, and wait until the new generation is healthy.

        :raises CommandError: it does not start.
        :raises UnhealthyError: it is not healthy.
        """
        wanted, began = self._wanted, time.monotonic()
        self._report(f"systemctl {wanted.verb} {self._service.name}")
        self.has_begun = True
        self._service.run(wanted.verb, wanted.timeout)
        self._is_restarted = True
        self._report(f"Ready after {time.monotonic() - began:.1f} s; {health_watch.describe_watch(wanted.health)}")
        judged = health_watch.wait(self._service, wanted.health, before, began + wanted.timeout)
        self._report(health_watch.describe(judged))

    def _report_failure(self, error: BaseException) -> str:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        self._report.failure(reason)
        return reason
