"""Messages to the service manager, without repetition, and without harm when they cannot be sent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from gunicorn.glogging import Logger

from flask_socketact.errors import NotifyError
from flask_socketact.systemd import notify

#: How much more time is asked for: in a stop while requests are in flight; in a start or a reload while workers load
#: the application, which the load timeout limits. Seconds.
EXTENSION = 10.0
#: How often it is asked for. Seconds.
EXTENSION_INTERVAL = 1.0


class Manager:
    """systemd, at the other end of the notify socket; without systemd, messages go nowhere.

    A message that cannot be sent never stops the service: the failure is logged once, and the master's loop sends the
    message again in its next turn.
    """

    def __init__(self, address: str | None, log: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._log = log
        self._clock = clock
        self._status = ""
        self._warning = ""
        self._barrier: int | None = None
        self._ask_at = 0.0  # for more time, not before; CLOCK_MONOTONIC, seconds

    def status(self, text: str) -> None:
        """Send ``STATUS=``, unless the manager has this text."""
        if text != self._status:
            self._tell(notify.status, text)

    def ready(self, text: str) -> bool:
        """Send ``READY=1`` and ``STATUS=``; return whether that succeeded."""
        return self._tell(notify.ready, text)

    def reloading(self, text: str) -> bool:
        """Send ``RELOADING=1`` and ``STATUS=``; return whether that succeeded."""
        return self._tell(notify.reloading, text)

    def stopping(self, text: str) -> None:
        self._tell(notify.stopping, text)

    def ask_for_time(self) -> bool:
        """Ask for more time for the job that runs, at most once a second; return whether it was asked for now."""
        now = self._clock()
        if now < self._ask_at:
            return False
        self._ask_at = now + EXTENSION_INTERVAL
        self._send(lambda: notify.extend_timeout(self._address, EXTENSION))
        return True

    def watchdog(self) -> None:
        self._send(lambda: notify.watchdog(self._address))

    def ask_for_barrier(self) -> None:
        """Let :attr:`has_acted` say when the manager has processed the messages sent so far: sd_notify_barrier(3)."""
        self._send(self._send_barrier)

    @property
    def has_acted(self) -> bool:
        if self._barrier is not None and notify.is_passed(self._barrier):
            os.close(self._barrier)
            self._barrier = None
        return self._barrier is None

    def _send_barrier(self) -> None:
        self._barrier = notify.barrier(self._address)

    def _tell(self, message: Callable[[str | None, str], None], text: str) -> bool:
        sent = self._send(lambda: message(self._address, text))
        if sent:
            self._status = text
        return sent

    def _send(self, message: Callable[[], None]) -> bool:
        try:
            message()
        except NotifyError as error:
            if str(error) != self._warning:
                self._warning = str(error)
                self._log.warning("%s", error)
            return False
        return True
