"""``/metrics``: the numbers of all workers of the service, also of those that have exited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from flask import Blueprint, Flask, Response, request
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from flask_socketact.application import view_options
from flask_socketact.application.config import Settings
from flask_socketact.application.metrics.definitions import DURATION, PAGES
from flask_socketact.application.metrics.responses import WithResponses
from flask_socketact.application.monitored import left_out
from flask_socketact.bridge import server_info
from flask_socketact.linux import socket_queues
from flask_socketact.shared import service_counters


def add_to(app: Flask, settings: Settings, refresh: Callable[[], None]) -> None:
    """Add the endpoint; `refresh` updates the gauges of this process."""
    if PAGES is None and server_info.server is not None:
        app.logger.warning("SOCKETACT_METRICS: each worker shows only its own metrics. Render the units with --metrics")
    endpoint = Blueprint("socketact_metrics", __name__)

    def metrics() -> Response:
        refresh()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        response = Response(encode(_registry()), content_type=content_type)
        response.headers["Cache-Control"] = "no-store"
        return response

    endpoint.add_url_rule(str(settings.metrics), "metrics", left_out(metrics))
    view_options.put(endpoint, view_options.DEADLINE, None)
    if settings.metrics_listener:
        view_options.put(endpoint, view_options.LISTENERS, settings.metrics_listener)
    app.register_blueprint(endpoint)


def _registry() -> CollectorRegistry:
    """Return the metrics of all processes, or of this one if they do not share their files."""
    registry = CollectorRegistry()
    registry.register(_Service())
    if PAGES is None:
        registry.register(WithResponses(REGISTRY, DURATION))
    else:
        PAGES.drop_dead_gauges()
        shared = MultiProcessCollector(None, str(PAGES.folder))  # type: ignore[no-untyped-call]
        registry.register(WithResponses(shared, DURATION))
    return registry


class _Service(Collector):
    """Metrics of the service as a whole."""

    def collect(self) -> Iterator[Metric]:
        """Yield the counters of the master, and the queues of the listeners."""
        if folder := service_counters.find_folder():
            yield from _of_master(service_counters.read(folder))
        if server_info.server is not None:
            queue = GaugeMetricFamily(
                "socketact_listener_queue", "Connections that no worker has accepted yet.", labels=["listener"]
            )
            lengths: Counter[str] = Counter()  # several addresses may share a name
            for name, listener in server_info.server.listeners:
                length = socket_queues.length(listener)
                if length is not None:
                    lengths[name or str(listener)] += length
            for name, length in lengths.items():
                queue.add_metric([name], length)
            yield queue


def _of_master(noted: dict[str, float]) -> Iterator[Metric]:
    yield CounterMetricFamily("socketact_starts", "Starts of the service.", value=noted.get("starts", 0))
    reloads = CounterMetricFamily("socketact_reloads", "Reloads of the service.", labels=["result"])
    reloads.add_metric(["succeeded"], noted.get("reloads", 0))
    reloads.add_metric(["failed"], noted.get("failed_reloads", 0))
    yield reloads
    if "boot_seconds" in noted:
        yield GaugeMetricFamily(
            "socketact_boot_seconds",
            "Time from the last start until every worker had loaded the application.",
            value=noted["boot_seconds"],
        )
