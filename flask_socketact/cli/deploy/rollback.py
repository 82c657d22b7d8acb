"""Roll back to the old release when the new one is bad."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from flask_socketact.cli.deploy import health_watch
from flask_socketact.cli.deploy.canary import Canary
from flask_socketact.cli.deploy.health_watch import Baseline
from flask_socketact.cli.deploy.record import Pending, Record
from flask_socketact.cli.deploy.release_link import Link
from flask_socketact.cli.deploy.report import Report
from flask_socketact.cli.deploy.service import RELOAD, RESTART, Response, Service
from flask_socketact.errors import CommandError, LeftBrokenError, ManagerError, RecordError, ReleaseError

#: Least time that the old release has to become ready again, in seconds: longer than a reload that hangs.
TIMEOUT = 150.0


class Rollback:
    """Rolls back to the old release."""

    def __init__(self, service: Service, record: Record, report: Report, pages: Sequence[str], timeout: float) -> None:
        self._service = service
        self._record = record
        self._report = report
        self._pages = pages  #: paths that must respond as before
        self._timeout = timeout  #: for that, in seconds
        self._canary = Canary(service, record, report)

    def roll_back(self, current: Link, pending: Pending, before: Baseline | None) -> None:
        """Roll back to the old release, and end the deploy, even if the rollback fails.

        :param before: health of the old release before the deploy; None if unknown
        :raises LeftBrokenError: it does not serve as before, or an administrator changed the link or the service.
        """
        try:
            self._switch_back(current, pending)
            self._serve_again(pending, before)
            self._canary.restore(pending)
        except LeftBrokenError:
            self._canary.report_left(pending)
            end(self._record)
            raise
        end(self._record)

    def _switch_back(self, current: Link, pending: Pending) -> None:
        """Switch the link to the old release.

        :raises LeftBrokenError: it cannot be switched, or an administrator made another link.
        """
        if current.identity() not in pending.links:
            raise LeftBrokenError(
                f"{current.path} is not the link that the deploy made, and was not changed: check where it leads, and "
                f"restart {self._service.name}"
            )
        try:
            if current.target() == pending.old:
                return
            with current.made_alongside(pending.old) as link:
                pending.links.append(link.identity)
                with suppress(RecordError):  # disk full: if killed now, the next deploy does not know this link
                    self._record.begin(pending)
                current.replace(link)
        except ReleaseError as error:
            raise LeftBrokenError(f"{pending.old} cannot be put in place again: {error}") from None

    def _serve_again(self, pending: Pending, before: Baseline | None) -> None:
        """Restart or reload the old release, unless an administrator has stopped the service.

        :raises LeftBrokenError: it does not serve.
        """
        name = self._service.name
        try:
            is_stopped = before is not None and self._is_stopped()
            if not is_stopped:
                self._load_again(pending.verb)
        except (CommandError, ManagerError) as error:
            raise LeftBrokenError(f"{pending.old} does not start: {error}: see {self._service.journalctl}") from None
        if is_stopped:
            start = f"{self._service.systemctl} start {name}"
            raise LeftBrokenError(f"{name} was stopped; {pending.old} is in place again: start it with {start}")
        self._await_response(pending.old, before)

    def _await_response(self, old: str, before: Baseline | None) -> None:
        """Wait until the old release responds as before: slow workers of the bad one may still get the first requests.

        :raises LeftBrokenError: it does not respond as before within the timeout.
        """
        began = time.monotonic()
        while True:
            pages = {path: self._service.request(path) for path in self._pages}
            bad = {path: page for path, page in pages.items() if not page.is_good}
            worse = next((page for path, page in bad.items() if _must_wait(path, page, before)), None)
            if worse is None:
                break
            limit = TIMEOUT if worse.status is None else self._timeout
            if time.monotonic() - began > limit:
                raise LeftBrokenError(
                    f"{old} is in place again, but does not respond as before: {worse.text}: "
                    f"see {self._service.journalctl}"
                )
            time.sleep(health_watch.INTERVAL)
        still_bad = "; ".join(page.text for page in bad.values())
        self._report(f"{old} is in place again; {still_bad}" if bad else f"{old} serves again")

    def _is_stopped(self) -> bool:
        """Return whether an administrator stopped the service. Waits while it stops."""
        deadline = time.monotonic() + TIMEOUT
        while self._service.is_stopping and time.monotonic() < deadline:
            time.sleep(health_watch.INTERVAL)
        return self._service.is_stopped

    def _load_again(self, verb: str) -> None:
        """Restart or reload. Reload twice: the first may join a reload of the bad release that is still running.

        :raises CommandError: the restart failed.
        """
        seconds = max(self._timeout, TIMEOUT)
        if verb == RELOAD:
            with suppress(CommandError):
                self._service.run(RELOAD, seconds)
            with suppress(CommandError):
                self._service.run(RELOAD, seconds)
                return
        self._service.run(RESTART, seconds)


def end(record: Record) -> None:
    """Remove the record of a deploy that has ended.

    :raises LeftBrokenError: it cannot be removed, and the next deploy would roll back.
    """
    try:
        record.end()
    except RecordError as error:
        raise LeftBrokenError(str(error)) from None


def _must_wait(path: str, page: Response, before: Baseline | None) -> bool:
    """Return whether a bad page was better `before`; if that is unknown, any response is enough."""
    if page.status is None:
        return before is None or before.responded
    return before is not None and path in before.good_pages
