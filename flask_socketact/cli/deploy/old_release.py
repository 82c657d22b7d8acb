"""The release before, put back when the new one is bad."""

from __future__ import annotations

import time
from contextlib import suppress

from flask_socketact.cli.deploy import health_watch
from flask_socketact.cli.deploy.health_watch import Baseline
from flask_socketact.cli.deploy.in_progress import Pending, Record
from flask_socketact.cli.deploy.outcome import Tell
from flask_socketact.cli.deploy.release_link import Link
from flask_socketact.cli.deploy.service import RELOAD, RESTART, Answer, Service
from flask_socketact.errors import CommandError, LeftBrokenError, ManagerError, RecordError, ReleaseError

#: How long the old release may take to be ready again, at least: longer than a reload that hangs. Seconds.
UNDO_TIMEOUT = 150.0


class OldRelease:
    """Puts the release before a deployment back."""

    def __init__(self, service: Service, record: Record, tell: Tell, page: str, timeout: float) -> None:
        self._service = service
        self._record = record
        self._tell = tell
        self._page = page  #: is to be answered as before
        self._timeout = timeout  #: until it must be, in seconds

    def put_back(self, current: Link, pending: Pending, before: Baseline | None) -> None:
        """Let the old release serve again. Whether it does or not, the deployment has then ended.

        :param before: how the old release answered before the deployment; None: unknown.
        :raises LeftBrokenError: it does not serve, or not as before; or the link or the service was changed by hand.
        """
        try:
            self._switch_back(current, pending)
            self._serve_again(pending, before)
        except LeftBrokenError:
            end(self._record)
            raise
        end(self._record)

    def _switch_back(self, current: Link, pending: Pending) -> None:
        """Let the link name the old release.

        :raises LeftBrokenError: it cannot, or is another link, made by hand.
        """
        if current.identity() not in pending.links:
            raise LeftBrokenError(
                f"{current.path} is not the link that the deployment made, and stays: see where it leads, and restart "
                f"{self._service.name}"
            )
        try:
            if current.target() == pending.old:
                return
            with current.made_alongside(pending.old) as link:
                pending.links.append(link.identity)
                with suppress(RecordError):  # the disk is full: if we are killed now, the next one leaves this link
                    self._record.begin(pending)
                current.replace(link)
        except ReleaseError as error:
            raise LeftBrokenError(f"{pending.old} is not put back: {error}") from None

    def _serve_again(self, pending: Pending, before: Baseline | None) -> None:
        """Restart or reload the old release, unless the service was stopped by hand since the deployment began.

        :raises LeftBrokenError: it does not serve.
        """
        name = self._service.name
        try:
            is_stopped = before is not None and self._is_stopped()
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
            page = self._service.ask(self._page)
            if page.is_good or not _must_wait(page, before):
                break
            limit = UNDO_TIMEOUT if page.status is None else self._timeout
            if time.monotonic() - began > limit:
                raise LeftBrokenError(
                    f"{old} is in place again, and does not answer as before: {page.text}: see {self._journal}"
                )
            time.sleep(health_watch.INTERVAL)
        self._tell(f"{old} serves again" if page.is_good else f"{old} is in place again; {page.text}")

    def _is_stopped(self) -> bool:
        """Return whether the service was stopped by hand. Waits for a stop that has begun."""
        deadline = time.monotonic() + UNDO_TIMEOUT
        while self._service.is_stopping and time.monotonic() < deadline:
            time.sleep(health_watch.INTERVAL)
        return self._service.is_stopped

    def _load_again(self, verb: str) -> None:
        """Restart, or reload; of a reload that is at work, of the bad release perhaps, another would only be a part.

        :raises CommandError: it cannot be restarted.
        """
        seconds = max(self._timeout, UNDO_TIMEOUT)
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


def end(record: Record) -> None:
    """Forget a deployment that has ended.

    :raises LeftBrokenError: it cannot be, and the next one would undo it.
    """
    try:
        record.end()
    except RecordError as error:
        raise LeftBrokenError(str(error)) from None


def _must_wait(page: Answer, before: Baseline | None) -> bool:
    """Return whether a page that is not good was better `before`; None: unknown, any response will do."""
    if page.status is None:
        return before is None or before.answered
    return before is not None and before.page_was_good
