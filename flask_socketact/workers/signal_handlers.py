"""A worker's signal handlers, restored if the application replaces them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]


class SignalHandlers:
    """The handlers that reload and stop depend on."""

    def __init__(self, ours: Mapping[signal.Signals, Handler], log: Any) -> None:
        """`ours` are the worker's handlers; `log` is gunicorn's logger."""
        self._ours = ours
        self.log = log
        self._replaced: dict[int, Any] = {}  # the application's handlers

    def restore(self) -> None:
        """Set our handlers again where the application has set its own. Called every second."""
        for number, handler in self._ours.items():
            found = signal.getsignal(number)
            if found == handler:
                continue
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
            if found is not self._replaced.get(number):
                self._replaced[number] = found
                when = "is called after the drain" if number == signal.SIGTERM else "is never called"
                self.log.warning(
                    "The application has set a handler for %s, which %s: the worker uses its own", number.name, when
                )

    def call_application_handler(self) -> None:
        """Call the application's handler for SIGTERM: it may have work to finish, such as stopping a thread."""
        handler = self._replaced.get(signal.SIGTERM)
        if not callable(handler):
            return
        try:
            handler(signal.SIGTERM, None)
        except SystemExit:  # how such a handler usually ends
            pass
        except BaseException:
            self.log.exception("The application's handler for SIGTERM failed")
