"""``socketact_responses_total``: the responses of the application by the class of their status.

Prometheus' ``increase()`` cannot see the errors with which a series begins. Series by endpoint and status begin with
their first request; these six are there, with the value 0, before the first request. They cost requests nothing: each
scrape adds up the histogram of durations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

#: Values of the label ``code``, as in HAProxy's own metrics.
_CODES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")
#: Endpoints of the extension: a load balancer and Prometheus request them, and they are not traffic.
_OWN_ENDPOINT = re.compile(r"socketact(_metrics)?\.\w+")


class WithResponses(Collector):
    """The metrics of another collector, and the responses that its histogram has counted."""

    def __init__(self, source: Collector, duration: str) -> None:
        """Read from `source` the histogram named `duration`, which has the labels ``endpoint`` and ``status``."""
        self._source = source
        self._duration = duration

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the source, and then the responses."""
        responses = dict.fromkeys(_CODES, 0.0)
        for metric in self._source.collect():
            if metric.name == self._duration:
                _add(metric, responses)
            yield metric
        family = CounterMetricFamily(
            "socketact_responses", "Responses of the application by class of status.", labels=["code"]
        )
        for code, number in responses.items():
            family.add_metric([code], number)
        yield family


def _add(durations: Metric, responses: dict[str, float]) -> None:
    for sample in durations.samples:
        if sample.name.endswith("_count") and not _OWN_ENDPOINT.fullmatch(sample.labels.get("endpoint", "")):
            code = f"{sample.labels.get('status', '')[:1]}xx"
            responses[code if code in responses else "other"] += sample.value
