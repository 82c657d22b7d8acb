"""Callbacks from a worker to the Flask extensions of its application."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from flask_socketact.bridge import holds, server_info


class Applications:
    """All registered applications. A callback that fails affects neither the others nor the worker."""

    def __init__(self, log: Any) -> None:
        """Take gunicorn's logger."""
        self.log = log

    def for_each(self, call: Callable[[server_info.Application], None]) -> None:
        for application in list(server_info.applications):
            try:
                call(application)
            except Exception:
                self.log.exception("The application has failed to take a message of its server")

    def send(self, signal: str) -> None:
        """Send a signal in a thread: what receivers do may take its time. A drain waits for its end."""
        if not any(application.has_receivers(signal) for application in server_info.applications):
            return
        held = holds.take(f"receivers of {signal}")

        def run() -> None:
            try:
                self.for_each(lambda application: application.send(signal))
            finally:
                holds.release(held)

        threading.Thread(target=run, name=signal, daemon=True).start()
