"""A real Prometheus sees the first error of a new release."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.http import ask
from tests.support.metrics import samples
from tests.support.prometheus import PROMETHEUS, Prometheus
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Folder

SOURCE = """
from flask import Flask
from flask_socketact import SocketAct

app = Flask(__name__)
app.config["SOCKETACT_METRICS"] = "/metrics"
SocketAct(app)

@app.get("/")
def hello():
    return "Hello\\n"
"""
BAD = SOURCE.replace('return "Hello', 'raise RuntimeError("a slip")\n    return "Hello')
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: app
    static_configs: [{{targets: ["{}:{}"]}}]
"""
ERRORS = 'socketact_responses_total{code="5xx"}'
BY_ENDPOINT = 'socketact_request_duration_seconds_count{endpoint="hello",status="500"}'


@pytest.mark.skipif(not PROMETHEUS.exists(), reason="script/setup test has not downloaded it")
def test_first_error_after_a_restart(folder: Folder, http: socket.socket, tmp_path: Path) -> None:
    """``increase()`` has the first one, although no scrape came before it; by endpoint and status it has not."""
    path = folder(SOURCE)
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "counters")}
    arguments = (*CONF, "-w", "2", "app:app")
    connect = partial(dial, http)
    with Prometheus(tmp_path / "prometheus", CONFIG.format(*http.getsockname())) as prometheus:
        with Server(path, *arguments, listeners={"http": http}, environ=environ) as good:
            good.wait_until_ready()
            prometheus.wait_for(lambda: prometheus.value(ERRORS) == 0, "a scrape of the good release")
        folder(BAD)
        with Server(path, *arguments, listeners={"http": http}, environ=environ) as bad:
            bad.wait_until_ready()
            assert ask(connect)[0] == 500  # one, as a scrape may come between two
            scrapes = f"count_over_time({BY_ENDPOINT}[1m])"
            prometheus.wait_for(lambda: (prometheus.value(scrapes) or 0) >= 2, "scrapes of the error")
            seen = prometheus.value(f"increase({ERRORS}[1m])")
            assert seen is not None
            assert 1 <= seen < 2  # it extrapolates
            assert prometheus.value(f"increase({BY_ENDPOINT}[1m])") in (None, 0)


@pytest.mark.parametrize("shared", [True, False], ids=["several processes", "one process"])
def test_classes_exist_before_the_first_request(
    folder: Folder, http: socket.socket, tmp_path: Path, shared: bool
) -> None:
    """And they count neither health checks nor scrapes."""
    path = folder(SOURCE)
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "counters")} if shared else {}
    connect = partial(dial, http)
    with Server(path, *CONF, "-w", "1", "app:app", listeners={"http": http}, environ=environ) as served:
        served.wait_until_ready()
        codes = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")
        zeros = {f'socketact_responses_total{{code="{code}"}}': 0.0 for code in codes}
        for target in ("/readyz", "/healthz", "/metrics"):
            assert ask(connect, target)[0] == 200
        assert zeros.items() <= samples(connect).items()
        ask(connect)
        ask(connect, "/none")
        zeros['socketact_responses_total{code="2xx"}'] = zeros['socketact_responses_total{code="4xx"}'] = 1.0
        # A response is counted when it has ended, which its client may know before.
        served.wait_for(lambda: zeros.items() <= samples(connect).items(), "two responses to be counted")
