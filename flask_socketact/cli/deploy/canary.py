"""The share of a canary: how much HAProxy sends to a service while its new release is watched.

A share has no end of its own, and only two things bring the full share back: the new release is good, or the old one
serves again. If the deploy is killed, the share stays small until the next deploy has rolled back: a share that expires
would send all clients to a release that was never judged.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from flask_socketact.cli import typed
from flask_socketact.cli.lb import agent, state
from flask_socketact.errors import LeftBrokenError, NotBegunError, RecordError

if TYPE_CHECKING:
    from flask_socketact.cli.deploy.record import Pending, Record
    from flask_socketact.cli.deploy.report import Report
    from flask_socketact.cli.deploy.service import Service
    from flask_socketact.cli.lb.agent import Agent
    from flask_socketact.cli.lb.state import Share

#: Longest time until HAProxy asks, in seconds: several times its agent-inter.
TIMEOUT = 30.0


class Canary:
    """Sets the share of a deploy. Without ``--canary``, nothing happens: ``Pending.canary`` is None then."""

    def __init__(self, service: Service, record: Record, report: Report) -> None:
        self._service = service
        self._manager = service.manager
        self._name = service.name.removesuffix(".service")
        self._record = record
        self._report = report

    def check(self) -> Agent:
        """Return the agent of the service, which HAProxy asks, and which asks for the full share.

        :raises NotBegunError: there is none, an administrator has set a share, or no response could be judged.
        """
        if self._service.is_active and not self._service.is_counted:
            raise NotBegunError(
                f"the counts of requests of {self._name} cannot be read, so a canary would be inconclusive: deploy "
                "without --canary"
            )
        found = agent.find(self._name, self._manager)
        if not found.is_listening:
            remedy = agent.remedy(found, user=self._manager.user)
            raise NotBegunError(f"{found.unit} is not active, so HAProxy would not hear of a canary: {remedy}")
        if not found.asked:
            raise NotBegunError(f"HAProxy has not asked {_where(found)} yet: see agent-check and agent-port there")
        share = self._share()
        if share.weight not in (None, state.READY):
            raise NotBegunError(
                f"a canary would change the share of {self._name} ({share}): deploy without --canary, or run "
                f"{self._ready} first"
            )
        return found

    def begin(self, pending: Pending) -> None:
        """Set the share, and wait until HAProxy has heard of it.

        :raises NotBegunError: it cannot be set, or HAProxy does not ask.
        :raises RecordError: the record cannot be written.
        """
        if pending.canary is None:
            return
        found = self.check()  # again: the trial may have taken minutes
        self._record.begin(pending)  # first: if killed from now on, the next deploy sets the full share
        state.write(self._name, pending.canary, user_manager=self._manager.user)
        self._report(f"Waiting for HAProxy to ask {_where(found)}")
        agent.wait_until_asked(found.name, self._manager, TIMEOUT)
        self._report(f"HAProxy sends {pending.canary}% of its share of the requests")

    def drain(self, pending: Pending) -> str:
        """Drain the service, whose new release is bad; return what to report. It may fail: a rollback must go on."""
        if pending.canary is None:
            return ""
        try:
            if self._share().weight == state.DRAINED:
                return "Drained already, by another command"
        except NotBegunError:
            pass  # malformed: it is replaced
        try:
            state.write(self._name, state.DRAINED, user_manager=self._manager.user)
        except NotBegunError as error:
            return f"Not drained: {error}"
        pending.shares.append(self._identity())
        with suppress(RecordError):  # disk full: if killed now, the service stays drained, and list says so
            self._record.begin(pending)
        return "Drained: HAProxy sends no new requests"

    def restore(self, pending: Pending) -> None:
        """Set the full share, unless another command has changed the share since the deploy began.

        :raises LeftBrokenError: it cannot be set.
        """
        if pending.canary is None:
            return
        try:
            share = self._share()
            if not self._is_ours(share, pending):
                if share.weight not in (None, state.READY):
                    self._report(f"The share was changed by another command, and stays: {share}")
                return
            state.write(self._name, state.READY, user_manager=self._manager.user)
        except NotBegunError as error:
            raise LeftBrokenError(f"{error}: run {self._ready} when that is repaired") from None
        self._report("HAProxy sends the full share again")

    def report_left(self, pending: Pending) -> None:
        """Report a share that stays, since what serves now may be bad."""
        if pending.canary is None:
            return
        with suppress(NotBegunError):
            share = self._share()
            if self._is_ours(share, pending):
                self._report(f"{self._name}: {share}; when the service is good, run {self._ready}")

    def _is_ours(self, share: Share, pending: Pending) -> bool:
        """Return whether the deploy has set the share; an administrator may drain the service, too."""
        return share.weight == pending.canary or self._identity() in pending.shares

    def _share(self) -> Share:
        return state.read(self._name, user_manager=self._manager.user)

    def _identity(self) -> str:
        return state.identity(self._name, user_manager=self._manager.user)

    @property
    def _ready(self) -> str:
        return typed.lb_ready(self._name, user_manager=self._manager.user)


def _where(found: Agent) -> str:
    return ", ".join(found.addresses)
