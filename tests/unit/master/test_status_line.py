"""The line that ``systemctl status`` shows."""

from __future__ import annotations

import signal

from flask_socketact.master import status_line
from flask_socketact.master.failures import Failure
from flask_socketact.shared.slot import Field
from tests.unit.master.conftest import Master


def test_a_service_with_all_its_workers(master: Master) -> None:
    text = status_line.serving(master)
    host, port = master.LISTENERS[0].getsockname()
    assert "2 of 2 workers" in text
    assert f"{host}:{port}" in text
    assert "generation 1, 0 requests in flight, 0 served" in text


def test_requests_of_all_workers_are_added_up(master: Master) -> None:
    for number, worker in enumerate(master.WORKERS.values(), 1):
        worker.slot[Field.IN_FLIGHT] = number
        worker.slot[Field.REQUESTS] = 10 * number
    assert "3 requests in flight, 30 served" in status_line.serving(master)


def test_a_worker_that_drains_does_not_count_as_serving(master: Master) -> None:
    first, second = master.WORKERS
    master.WORKERS[first].slot[Field.IN_FLIGHT] = 3
    master.WORKERS[second].slot[Field.IN_FLIGHT] = 4
    master.kill_worker(first, signal.SIGTERM)
    text = status_line.serving(master)
    assert "1 of 2 workers" in text
    assert "draining: generation 1, 3 requests in flight" in text


def test_each_generation_that_drains_is_described(master: Master) -> None:
    for pid in list(master.WORKERS):
        master.kill_worker(pid, signal.SIGTERM)
    master.generation = 2
    master.kill_worker(master.spawn_worker(), signal.SIGTERM)
    master.WORKERS[master.spawn_worker()].slot[Field.IN_FLIGHT] = 7
    text = status_line.serving(master)
    assert "0 of 2 workers" in text
    assert text.count("draining: ") == 2
    assert "generation 2, 7 requests in flight" in text


def test_workers_of_another_generation_do_not_count(master: Master) -> None:
    """Those from before a reload serve until the new ones accept."""
    master.generation = 2
    master.accept(master.spawn_worker())
    assert "1 of 2 workers" in status_line.serving(master)


def test_failures_are_shown_without_the_messages_of_exceptions(master: Master) -> None:
    master.reloads.failure = Failure("KeyError: secret", "KeyError at app.py:3")
    master.shortage = Failure("OSError: password", "OSError at app.py:9")
    text = status_line.serving(master)
    assert "KeyError at app.py:3" in text
    assert "OSError at app.py:9" in text
    assert "secret" not in text
    assert "password" not in text


def test_a_stop_shows_what_is_waited_for_and_for_how_long(master: Master) -> None:
    slot = next(iter(master.WORKERS.values())).slot
    slot[Field.IN_FLIGHT] = 2
    text = status_line.stopping(master)
    assert "2 requests in flight" in text
    assert "holds" not in text
    assert f"{master.cfg.graceful_timeout} s" in text
    slot[Field.HOLDS] = 1
    assert "1 holds" in status_line.stopping(master)
    assert f"{master.cfg.graceful_timeout} s" not in status_line.stopping(master, graceful=False)
