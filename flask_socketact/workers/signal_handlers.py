"""The signal handlers of a worker, in the place of which an application may put its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]


class SignalHandlers:
    """SignalHandlers that are put back again and again: reloads and stops depend on them."""

    def __init__(self, ours: Mapping[signal.Signals, Handler], log: Any) -> None:
        """Take the worker's handlers, and gunicorn's logger."""
        self._ours = ours
        self.log = log
        self._replaced: dict[int, Any] = {}  # handlers of the application

    def restore(self) -> None:
        """Put ours back where the application has put its own."""
        for number, handler in self._ours.items():
            found = signal.getsignal(number)
            if found == handler:
                continue
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
            if found is not self._replaced.get(number):
                self._replaced[number] = found
                then = ", when the worker has drained" if number == signal.SIGTERM else ", never"
                self.log.warning(
                    "The application has set a handler for %s: the worker keeps its own, and calls it%s",
                    number.name,
                    then,
                )

    def call_application_handler(self) -> None:
        """Call what the application has set for SIGTERM: it may have something to finish, as a thread to stop."""
        handler = self._replaced.get(signal.SIGTERM)
        if not callable(handler):
            return
        try:
            handler(signal.SIGTERM, None)
        except SystemExit:  # the usual end of one
            pass
        except BaseException:
            self.log.exception("The application's handler of SIGTERM has failed")
