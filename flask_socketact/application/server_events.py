"""What the server tells one application: its import has ended, a second has passed, a drain has begun or ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flask import Flask

from flask_socketact import signals
from flask_socketact.application import websockets
from flask_socketact.application.checks import Runner
from flask_socketact.application.policies import Policies
from flask_socketact.bridge import server_info

if TYPE_CHECKING:
    from flask_socketact.application.metrics.definitions import Gauges


_SIGNALS = {
    server_info.GENERATION_READY: signals.generation_ready,
    server_info.DRAIN_BEGUN: signals.drain_begun,
}


class Member:
    """Receives the calls of :class:`flask_socketact.bridge.server_info.Application`."""

    def __init__(
        self,
        app: Flask,
        policies: Policies,
        runner: Runner,
        breakers: Callable[[], Mapping[str, str]],
        gauges: Gauges | None,
    ) -> None:
        self._app = app
        self._policies = policies
        self._runner = runner
        self._breakers = breakers
        self._gauges = gauges

    def loaded(self) -> None:
        """Check that systemd passes the listeners that the application names, and prepare for a drain.

        :raises ValueError: It does not pass one of them.
        """
        self._policies.settle()
        websockets.close_at_drain(self._app)

    def beat(self) -> None:
        """Update the gauges of this process."""
        if self._gauges is not None:
            self._gauges.refresh(self._runner.known, self._breakers())

    def has_receivers(self, signal: str) -> bool:
        """Return whether the signal has receivers."""
        return bool(_SIGNALS[signal].has_receivers_for(self._app))

    def send(self, signal: str) -> None:
        """Send a blinker signal to its receivers."""
        with self._app.app_context():
            _SIGNALS[signal].send(self._app)

    def drained(self, *, cut_short: bool) -> None:
        """Count the end of the drain."""
        if self._gauges is not None:
            self._gauges.count_drain(cut_short=cut_short)
            self.beat()
