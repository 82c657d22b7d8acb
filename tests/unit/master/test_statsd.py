"""The numbers for statsd, which are attributes of log records."""

from __future__ import annotations

import logging
import signal
import socket

import pytest

from flask_socketact.master import statsd
from tests.unit.master.conftest import Master


@pytest.fixture(autouse=True)
def debug(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    master.log.error_log.setLevel(logging.DEBUG)
    master.cfg.set("enable_backlog_metric", False)
    caplog.clear()


def numbers(master: Master, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    """Return the metrics that are logged now: name, type and value."""
    caplog.clear()
    statsd.log_numbers(master)
    found = [vars(record) for record in caplog.records]
    return [(record["metric"], record["mtype"], record["value"]) for record in found]


def test_the_number_of_workers_is_logged_when_it_changes(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    assert numbers(master, caplog) == [("gunicorn.workers", "gauge", 2)]
    assert numbers(master, caplog) == []
    master.kill_worker(next(iter(master.WORKERS)), signal.SIGTERM)
    assert numbers(master, caplog) == [("gunicorn.workers", "gauge", 1)]
    master.spawn_worker()
    assert numbers(master, caplog) == [("gunicorn.workers", "gauge", 2)]


def test_the_backlog_is_logged_each_time_if_it_is_asked_for(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    numbers(master, caplog)
    master.cfg.set("enable_backlog_metric", True)
    with socket.create_connection(master.LISTENERS[0].getsockname()):
        for _ in range(2):
            assert numbers(master, caplog) == [("gunicorn.backlog", "histogram", 1)]
