"""The metrics of this process, with prometheus_client.

:mod:`flask_socketact.shared.metric_files` explains how the numbers of all processes are added up.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from flask_socketact.application.checks import Result
from flask_socketact.application.queue_time import waited
from flask_socketact.bridge import holds, keys, server_info
from flask_socketact.errors import CountersError
from flask_socketact.linux import proc
from flask_socketact.shared import metric_files
from flask_socketact.shared.slot import Field

try:
    # Before the first metric is created: it decides where they are stored.
    _error = None
    PAGES = metric_files.use()
except CountersError as error:
    _error, PAGES = error, None
try:
    from prometheus_client import Counter, Gauge, Histogram
except ImportError as error:
    raise ImportError("prometheus_client is missing: install flask-socketact[metrics]") from error

from flask_socketact.application.metrics.histogram import FastHistogram

if _error:
    logging.getLogger(__name__).error("%s", _error)


#: Buckets in seconds, from the response of a trivial view to one that is too slow.
_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WAITS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Name of the histogram of the duration of requests.
DURATION = "socketact_request_duration_seconds"
_DURATION_HELP = "Time from reading a request until its response has been sent."
_LABELS = ("endpoint", "status")
_FAILED = "500"
_observe_duration: Callable[[float, tuple[str, ...]], None]
if PAGES is None:
    _histogram = Histogram(DURATION, _DURATION_HELP, _LABELS, buckets=_DURATIONS)

    def _observe_duration(seconds: float, labels: tuple[str, ...]) -> None:
        _histogram.labels(*labels).observe(seconds)

else:
    _observe_duration = FastHistogram(PAGES, DURATION, _DURATION_HELP, _LABELS, buckets=_DURATIONS).observe
_wait = Histogram(
    "socketact_request_wait_seconds",
    "Time that the first request of a connection waited before it was read.",
    buckets=_WAITS,
)
_late = Counter("socketact_deadline_exceeded", "Requests that got 503 because they were too late.")
_workers = Gauge("socketact_workers", "Workers.", ["state"], multiprocess_mode="livesum")
_in_flight = Gauge(
    "socketact_requests_in_flight", "Requests that a worker is reading or serving.", multiprocess_mode="livesum"
)
_holds = Gauge("socketact_holds", "Work outside requests that a drain waits for.", multiprocess_mode="livesum")
_connections = Gauge("socketact_connections", "Connections.", ["state"], multiprocess_mode="livesum")
_accepted = Counter("socketact_connections_accepted", "Connections accepted from a listener.")
_carried = Counter("socketact_connections_carried", "Idle connections handed over to other workers.")
_memory = Gauge("socketact_worker_memory_bytes", "Resident memory of each worker.", multiprocess_mode="liveall")
_drains = Counter("socketact_drains", "Workers that drained and exited.", ["end"])
_COMPLETE, _CUT_SHORT = (_drains.labels(end) for end in ("complete", "cut short"))  # both exist from the start
_gc_pauses = Counter("socketact_gc_pauses", "Runs of the garbage collector.", ["generation"])
_gc_seconds = Counter("socketact_gc_pause_seconds", "Time that the garbage collector took.", ["generation"])
_checks = Gauge(
    "socketact_check_passing",
    "Whether a check passes, by its latest result.",
    ["check"],
    multiprocess_mode="livemostrecent",
)
_breakers = Gauge(
    "socketact_breaker_open", "Workers whose breaker is not closed.", ["breaker"], multiprocess_mode="livesum"
)


def observe(environ: dict[str, Any], status: str | None, seconds: float) -> None:
    """Count a response that has been sent; `status` is as in ``200 OK``, None if the request failed."""
    # Removed, as it refers to environ: a reference cycle would wait for the garbage collector.
    rule = environ.pop(keys.REQUEST).url_rule
    _observe_duration(seconds, (rule.endpoint if rule else "", status[:3] if status else _FAILED))
    if environ.get(keys.FIRST):
        _wait.observe(waited(environ))


def count_late() -> None:
    """Count a request that was rejected because it was too late."""
    _late.inc()


class Gauges:
    """Metrics that are not counted when something happens, but updated every second, and before each scrape."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted = self._carried = 0
        self._is_drained = False
        self._results: dict[str, Result] = {}
        self._collector = Collections()

    def refresh(self, checks: Mapping[str, Result], breakers: Mapping[str, str]) -> None:
        """Update all from the worker's slot, its memory, and the given results of checks and states of breakers."""
        with self._lock:
            self._collector.flush()
            _memory.set(_resident())
            _holds.set(len(holds.current()))
            for name, result in checks.items():
                if result is not self._results.get(name):  # the latest of all workers counts
                    self._results[name] = result
                    _checks.labels(name).set(result.passed)
            for name, state in breakers.items():
                _breakers.labels(name).set(state != "closed")
            if server_info.server is not None:
                self._read_slot(server_info.server)

    def count_drain(self, *, cut_short: bool) -> None:
        """Count the end of this worker's drain: once, even if it has several applications."""
        if not self._is_drained:
            self._is_drained = True
            (_CUT_SHORT if cut_short else _COMPLETE).inc()

    def _read_slot(self, server: server_info.Server) -> None:
        slot = server.slot
        is_draining = server.is_draining()
        _workers.labels("draining").set(is_draining)
        _workers.labels("serving").set(not is_draining)
        _in_flight.set(slot[Field.IN_FLIGHT])
        _connections.labels("open").set(slot[Field.OPEN])
        _connections.labels("idle").set(slot[Field.IDLE])
        _connections.labels("websocket").set(slot[Field.WEBSOCKETS])
        _connections.labels("stream").set(slot[Field.STREAMS])
        # A connection that is being carried in may be counted in only one of the two fields yet.
        accepted = max(self._accepted, slot[Field.ACCEPTED] - slot[Field.CARRIED_IN])
        carried = slot[Field.CARRIED_OUT]
        _accepted.inc(accepted - self._accepted)
        _carried.inc(carried - self._carried)
        self._accepted, self._carried = accepted, carried


_gauges: Gauges | None = None


def gauges() -> Gauges:
    """Return the gauges of this process; all its applications share them."""
    global _gauges  # noqa: PLW0603 (there is one process)
    if _gauges is None:
        _gauges = Gauges()
    return _gauges


class Collections:
    """Counts the runs of this process's garbage collector until they are added to the metrics."""

    def __init__(self) -> None:
        self._began = 0.0
        self._pauses = [0, 0, 0]
        self._seconds = [0.0, 0.0, 0.0]
        gc.callbacks.append(self._note)

    def flush(self) -> None:
        """Add the runs since the last call to the metrics."""
        for generation in range(3):
            _gc_pauses.labels(generation).inc(self._pauses[generation])
            _gc_seconds.labels(generation).inc(self._seconds[generation])
            self._pauses[generation] = 0
            self._seconds[generation] = 0.0

    def _note(self, phase: str, info: Mapping[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        else:
            self._pauses[info["generation"]] += 1
            self._seconds[info["generation"]] += now - self._began


def _resident() -> int:
    """Return this process's resident memory, in bytes."""
    return proc.resident_memory(os.getpid()) or 0
