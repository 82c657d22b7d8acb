"""Run the application's checks, in parallel, and keep their results for a short time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from flask import Flask

from flask_socketact.text import describe


@dataclass(frozen=True)
class Check:
    """A function that checks whether something is available: it fails by raising, or by returning False."""

    name: str
    function: Callable[[], object]
    timeout: float  #: seconds


@dataclass(frozen=True)
class Result:
    """The result of one run of a check."""

    passed: bool
    output: str  #: why it failed; empty if it passed
    seconds: float
    when: float  #: seconds since 1970


class Runner:
    """Runs the checks of one application, and keeps their latest results."""

    def __init__(self, app: Flask, checks: Mapping[str, Check], cache: float) -> None:
        """Keep results for `cache` seconds. Checks may be added to `checks` later."""
        self._app = app
        self._checks = checks
        self._cache = cache
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Future[object], float]] = {}  # with the start, time.monotonic()
        self._results: dict[str, Result] | None = None
        self._until = 0.0

    @property
    def known(self) -> dict[str, Result]:
        """The latest results; empty before the first call of :meth:`results`."""
        return dict(self._results or {})

    def results(self) -> dict[str, Result]:
        """Return the results, from the cache or from a new run.

        A run takes as long as its slowest check, at most its timeout. Other threads get the earlier results meanwhile,
        if there are any.
        """
        if self._is_due() and self._lock.acquire(blocking=self._results is None):
            try:
                if self._is_due():
                    self._take_over(self._run())
                    self._until = time.monotonic() + self._cache
            finally:
                self._lock.release()
        return self.known

    def _is_due(self) -> bool:
        return self._results is None or time.monotonic() >= self._until

    def _run(self) -> dict[str, Result]:
        checks = list(self._checks.values())
        for check in checks:
            self._start(check)
        return {check.name: self._result(check) for check in checks}

    def _start(self, check: Check) -> None:
        """Run `check` in a thread, unless its last run has not ended."""
        if check.name in self._running:
            return
        outcome: Future[object] = Future()
        self._running[check.name] = outcome, time.monotonic()
        threading.Thread(target=self._check, args=(check, outcome), name=f"check-{check.name}", daemon=True).start()

    def _check(self, check: Check, outcome: Future[object]) -> None:
        try:
            with self._app.app_context():
                outcome.set_result(self._app.ensure_sync(check.function)())
        except BaseException as error:  # noqa: BLE001 (the result of the check)
            outcome.set_exception(error)

    def _result(self, check: Check) -> Result:
        outcome, began = self._running[check.name]
        output = ""
        try:
            found = outcome.result(max(0.0, began + check.timeout - time.monotonic()))
            if found is False:
                output = "it returned False"
        except (FutureTimeout, TimeoutError) as error:
            output = describe(error) if outcome.done() else f"still running after {time.monotonic() - began:.1f} s"
        except BaseException as error:  # noqa: BLE001 (any exception is a failure)
            output = describe(error)
        if outcome.done():
            del self._running[check.name]
        return Result(not output, output, time.monotonic() - began, time.time())

    def _take_over(self, results: dict[str, Result]) -> None:
        before = self._results or {}
        self._results = results
        for name, result in results.items():
            had_passed = name not in before or before[name].passed
            if had_passed and not result.passed:
                self._app.logger.warning("Check %s fails: %s", name, result.output)
            elif result.passed and not had_passed:
                self._app.logger.info("Check %s passes again", name)


def as_json(result: Result) -> dict[str, Any]:
    """Return `result` as an object of the health+json draft (draft-inadarei-api-health-check)."""
    described: dict[str, Any] = {
        "status": "pass" if result.passed else "fail",
        "observedValue": round(1000 * result.seconds, 1),
        "observedUnit": "ms",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(result.when)),
    }
    return described if result.passed else described | {"output": result.output}
