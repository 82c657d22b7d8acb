"""``/healthz`` and ``/readyz``, for load balancers and monitoring (draft-inadarei-api-health-check)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Any, cast

from flask import Blueprint, Flask, Response, current_app, request

from flask_socketact.addresses import unmapped
from flask_socketact.application import checks, view_options
from flask_socketact.application.checks import Runner
from flask_socketact.application.config import Settings
from flask_socketact.application.monitored import left_out
from flask_socketact.bridge import server_info
from flask_socketact.shared.slot import Field

PASS, WARN, FAIL = "pass", "warn", "fail"

#: Sums over all workers in /healthz: name, unit, and field of the scoreboard.
_SUMS = {
    "workers:inFlight": ("requests", Field.IN_FLIGHT),
    "workers:open": ("connections", Field.OPEN),
    "workers:idle": ("connections", Field.IDLE),
    "workers:holds": ("holds", Field.HOLDS),
}


class Health:
    """The health endpoints of one application."""

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        draining: Callable[[], bool],
        breakers: Callable[[], Mapping[str, str]],
    ) -> None:
        """Set up the endpoints; `breakers` returns the state of each breaker."""
        self._settings = settings
        self._runner = runner
        self._draining = draining
        self._breakers = breakers

    def add_to(self, app: Flask) -> None:
        """Add those endpoints that have a path in the configuration."""
        endpoints = Blueprint("socketact", __name__)
        for path, view in ((self._settings.healthz, self.healthz), (self._settings.readyz, self.readyz)):
            if path is not None:
                endpoints.add_url_rule(path, view.__name__, left_out(view))
        view_options.put(endpoints, view_options.DEADLINE, None)
        if self._settings.health_listener:
            view_options.put(endpoints, view_options.LISTENERS, self._settings.health_listener)
        app.register_blueprint(endpoints)

    def healthz(self) -> Response:
        """Respond with 200: this process works. The details are those of all workers, from the scoreboard."""
        return self._respond(PASS, _of_workers)

    def readyz(self) -> Response:
        """Respond with 503 while the worker drains or a check fails, and otherwise with 200."""
        if self._draining():
            return self._respond(FAIL, dict, output="draining")
        results = self._runner.results()
        failed = [name for name, result in results.items() if not result.passed]
        return self._respond(FAIL if failed else PASS, lambda: self._of_checks(results))

    def _of_checks(self, results: Mapping[str, checks.Result]) -> dict[str, Any]:
        found = {f"{name}:responseTime": [checks.as_json(result)] for name, result in results.items()}
        for name, state in self._breakers().items():
            found[f"{name}:breaker"] = [{"status": PASS if state == "closed" else WARN, "observedValue": state}]
        return found

    def _respond(self, status: str, details: Callable[[], dict[str, Any]], **content: Any) -> Response:
        if self._sees_details():
            content["checks"] = details()
        response = cast("Response", current_app.json.response(status=status, **content))
        response.status_code = 503 if status == FAIL else 200
        response.mimetype = "application/health+json"
        response.headers["Cache-Control"] = "no-store"
        return response

    def _sees_details(self) -> bool:
        settings = self._settings
        if settings.listener_of(request.environ) in settings.details_listener:
            return True
        try:
            address = ipaddress.ip_address(unmapped(request.remote_addr or ""))
        except ValueError:  # from a Unix socket
            return False
        return any(address in network for network in settings.details_networks)


def _of_workers() -> dict[str, Any]:
    found = {"process:pid": _observed(os.getpid())}
    server = server_info.server
    if server is not None:
        slots = list(server.board.taken())
        serving = sum(1 for slot in slots if slot[Field.ACCEPTING] or not slot[Field.DRAINING])
        found["process:generation"] = _observed(server.slot[Field.GENERATION])
        found["workers:serving"] = _observed(serving, observedUnit="workers")
        for name, (unit, field) in _SUMS.items():
            found[name] = _observed(sum(slot[field] for slot in slots), observedUnit=unit)
    return found


def _observed(value: int, **more: str) -> list[dict[str, Any]]:
    return [{"status": PASS, "observedValue": value, **more}]
