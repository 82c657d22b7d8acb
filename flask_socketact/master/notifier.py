"""What the service manager knows of us, and what it is still to be told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from gunicorn.glogging import Logger

from flask_socketact.errors import NotifyError
from flask_socketact.systemd import notify

#: While requests are in flight, a stop may last so much longer than systemd has heard last; and a start, or a reload,
#: while workers load the application, which has a limit of its own. Seconds.
EXTENSION = 10.0
#: How often that is said. Seconds.
EXTENSION_INTERVAL = 1.0


class Manager:
    """systemd, at the other end of the notify socket; outside of it, nobody.

    A message that cannot be sent never stops the service: the failure is logged once, and who
    asks for the message in each turn of the loop tries again.
    """

    def __init__(self, address: str | None, log: Logger) -> None:
        self._address = address
        self._log = log
        self._status = ""
        self._warning = ""
        self._barrier: int | None = None
        self._ask_at = 0.0  # for time

    def status(self, text: str) -> None:
        """Say `text`, unless it is known already."""
        if text != self._status:
            self._tell(notify.status, text)

    def ready(self, text: str) -> bool:
        """Say that the service is ready; return whether that is known now."""
        return self._tell(notify.ready, text)

    def reloading(self, text: str) -> bool:
        """Say that the service reloads; return whether that is known now."""
        return self._tell(notify.reloading, text)

    def stopping(self, text: str) -> None:
        self._tell(notify.stopping, text)

    def ask_for_time(self) -> bool:
        """Ask for more time for what may take it, if that was not done just now; return whether it was done."""
        now = time.monotonic()
        if now < self._ask_at:
            return False
        self._ask_at = now + EXTENSION_INTERVAL
        self._send(lambda: notify.extend_timeout(self._address, EXTENSION))
        return True

    def watchdog(self) -> None:
        self._send(lambda: notify.watchdog(self._address))

    def ask_for_barrier(self) -> None:
        """Let :attr:`has_acted` tell when what was sent before has been acted upon."""
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
