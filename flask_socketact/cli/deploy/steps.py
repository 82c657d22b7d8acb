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
from flask_socketact.cli.deploy.in_progress import Pending, Record, RecordError
from flask_socketact.cli.deploy.release_link import Link, ReleaseError
from flask_socketact.cli.deploy.service import Answer, CommandError, Service
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


class NotBegunError(SocketActError):
    """Nothing has been changed; the text says why."""


class LeftBrokenError(SocketActError):
    """The release was bad, and there is none to put back, or that does not serve: somebody must look."""


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

    def run(self) -> None:
        """Deploy, after the last deployment has been undone, if that was killed half-way.

        :raises NotBegunError: nothing was done.
        :raises ReleaseError: nothing was done.
        :raises RecordError: nothing was done.
        :raises NotDeployedError: the release before serves.
        :raises LeftBrokenError: it is not known that it does.
        """
        if self._wanted.verb == RELOAD and not self._service.overlaps:
            raise NotBegunError(
                f"{self._service.name} cannot reload, as its old and new workers must not live at the same time "
                "(SOCKETACT_OVERLAP=no): deploy without --reload"
            )
        has_repaired = self._repair()
        if self._wanted.release is not None:
            with release_link.find(self._service.directory) as current:
                self._deploy_release(current, self._wanted.release)
        elif not has_repaired:  # it has just been restarted
            self._deploy_in_place()

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
            self._put_back(current, pending, None)
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
            self._put_back(current, pending, before)
            raise NotDeployedError(reason) from None
        self._end_record()
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
        with current.beside(pending.new) as link:
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

    def _put_back(self, current: Link, pending: Pending, before: Baseline | None) -> None:
        """Let the old release serve again. Whether it does or not, the deployment has then ended.

        :param before: how the old release answered; None: nobody knows any more.
        :raises LeftBrokenError: it does not serve, or not as before; or somebody else has been at work.
        """
        try:
            self._switch_back(current, pending)
            self._serve_again(pending, before)
        except LeftBrokenError:
            self._end_record()
            raise
        self._end_record()

    def _switch_back(self, current: Link, pending: Pending) -> None:
        """Let the link name the old release.

        :raises LeftBrokenError: it cannot, or is not the link that the deployment made: somebody has made another.
        """
        if current.identity() not in pending.links:
            raise LeftBrokenError(
                f"{current.path} is not the link that the deployment made, and stays: see where it leads, and restart "
                f"{self._service.name}"
            )
        try:
            if current.target() == pending.old:
                return
            with current.beside(pending.old) as link:
                pending.links.append(link.identity)
                with suppress(RecordError):  # the disk is full: if we are killed now, the next one leaves this link
                    self._record.begin(pending)
                current.replace(link)
        except ReleaseError as error:
            raise LeftBrokenError(f"{pending.old} is not put back: {error}") from None

    def _serve_again(self, pending: Pending, before: Baseline | None) -> None:
        """Restart or reload the old release; not, if somebody has stopped the service since the deployment began.

        :raises LeftBrokenError: it does not serve.
        """
        name = self._service.name
        try:
            is_stopped = before is not None and self._service.is_stopped
            if not is_stopped:
                self._load_again(pending.verb)
        except (CommandError, ManagerError) as error:
            raise LeftBrokenError(f"{pending.old} does not start: {error}: see {self._journal}") from None
        if is_stopped:
            start = f"{self._service.systemctl} start {name}"
            raise LeftBrokenError(f"{name} is stopped, and {pending.old} is in place again: {start} starts it")
        self._await_answer(pending.old, before)

    def _await_answer(self, old: str, before: Baseline | None) -> None:
        """Wait until the old release answers as before: slow workers of the bad one may still have what is asked first.

        :raises LeftBrokenError: it does not, for as long as it may take.
        """
        began = time.monotonic()
        while True:
            page = self._service.ask(self._wanted.health.page)
            if page.is_good or not _must_wait(page, before):
                break
            limit = UNDO_TIMEOUT if page.status is None else self._wanted.timeout
            if time.monotonic() - began > limit:
                raise LeftBrokenError(
                    f"{old} is in place again, and does not answer as before: {page.text}: see {self._journal}"
                )
            time.sleep(health_watch.INTERVAL)
        self._tell(f"{old} serves again" if page.is_good else f"{old} is in place again; {page.text}")

    def _end_record(self) -> None:
        """Forget the deployment.

        :raises LeftBrokenError: it cannot be, and the next one would undo it.
        """
        try:
            self._record.end()
        except RecordError as error:
            raise LeftBrokenError(str(error)) from None

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


def _must_wait(page: Answer, before: Baseline | None) -> bool:
    """Whether a page that is not good was better `before`; None: nobody knows, and any answer will do."""
    if page.status is None:
        return before is None or before.answered
    return before is not None and before.page_was_good
