"""/healthz, /readyz, and the checks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from flask import Flask, current_app
from werkzeug.test import TestResponse

from flask_socketact import SocketAct

DRAINING: dict[str, object] = {"socketact.draining": lambda: True}
SERVING: dict[str, object] = {"socketact.draining": lambda: False}
LOCAL = {"SOCKETACT_DETAILS_NETWORKS": ["127.0.0.0/8"]}


def make_app(**config: object) -> tuple[Flask, SocketAct]:
    app = Flask(__name__)
    app.config.update({"SOCKETACT_CHECK_CACHE": 0, **config})
    return app, SocketAct(app)


def ready(app: Flask, **options: object) -> TestResponse:
    return app.test_client().get("/readyz", **options)


@contextmanager
def hanging() -> Iterator[threading.Event]:
    end = threading.Event()
    yield end
    end.set()


@pytest.mark.parametrize("environ", [{}, SERVING, DRAINING])
def test_liveness(environ: dict[str, object]) -> None:
    app, _ = make_app()
    response = app.test_client().get("/healthz", environ_overrides=environ)
    assert (response.status_code, response.json) == (200, {"status": "pass"})


@pytest.mark.parametrize(
    ("environ", "status", "content"),
    [
        ({}, 200, {"status": "pass"}),
        (SERVING, 200, {"status": "pass"}),
        (DRAINING, 503, {"status": "fail", "output": "draining"}),
    ],
)
def test_readiness(environ: dict[str, object], status: int, content: dict[str, str]) -> None:
    app, _ = make_app()
    response = ready(app, environ_overrides=environ)
    assert (response.status_code, response.json) == (status, content)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_head_and_headers(path: str) -> None:
    app, _ = make_app()
    for method in ("GET", "HEAD"):
        response = app.test_client().open(path, method=method)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/health+json"
        assert response.headers["Cache-Control"] == "no-store"
    assert not response.data


def test_configured_paths() -> None:
    app, _ = make_app(SOCKETACT_HEALTHZ="/-/alive", SOCKETACT_READYZ=None)
    client = app.test_client()
    assert [client.get(path).status_code for path in ("/-/alive", "/healthz", "/readyz")] == [200, 404, 404]


def test_check_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    app, socketact = make_app()
    failing = True

    @socketact.check("database")
    def database() -> None:
        if failing:
            raise ConnectionError("no route\nto host")

    with caplog.at_level(logging.INFO):
        assert [ready(app).status_code for _ in range(3)] == [503] * 3
        assert ready(app).json == {"status": "fail"}
        failing = False
        assert [ready(app).status_code for _ in range(3)] == [200] * 3
    assert [record.getMessage() for record in caplog.records if record.name == app.name] == [
        "Check database fails: ConnectionError: no route to host",
        "Check database passes again",
    ]


@pytest.mark.parametrize(("found", "status"), [(None, 200), (True, 200), (0, 200), (False, 503)])
def test_what_a_check_returns(found: object, status: int) -> None:
    app, socketact = make_app()
    socketact.check("it")(lambda: found)
    assert ready(app).status_code == status


def test_checks_run_in_parallel_and_in_a_context() -> None:
    app, socketact = make_app()
    barrier = threading.Barrier(3)
    names = []
    for name in ("one", "two", "three"):

        @socketact.check(name, timeout=10)
        def check() -> None:
            names.append(current_app.name)
            barrier.wait(10)

    assert ready(app).status_code == 200
    assert names == [app.name] * 3


def test_check_that_hangs_fails_and_is_not_started_again() -> None:
    app, socketact = make_app(**LOCAL)
    calls = []
    with hanging() as end:

        @socketact.check("queue", timeout=0.05)
        def queue() -> None:
            calls.append(1)
            end.wait(20)

        for _ in range(3):
            began = time.monotonic()
            response = ready(app)
            assert response.status_code == 503
            assert "still running after" in response.json["checks"]["queue:responseTime"][0]["output"]  # type: ignore[index]
            assert time.monotonic() - began < 5
        assert len(calls) == 1
    deadline = time.monotonic() + 10
    while ready(app).status_code != 200:  # the earlier run has ended, and the next one passes
        assert time.monotonic() < deadline


def test_results_are_cached() -> None:
    app, socketact = make_app(SOCKETACT_CHECK_CACHE=60)
    calls: list[int] = []
    socketact.check("it")(lambda: calls.append(1))
    threads = [threading.Thread(target=ready, args=(app,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_earlier_results_during_a_run() -> None:
    app, socketact = make_app()
    slow = threading.Event()
    with hanging() as end:

        @socketact.check("it", timeout=10)
        def check() -> None:
            if slow.is_set():
                end.wait(20)

        assert ready(app).status_code == 200
        slow.set()
        looker = threading.Thread(target=ready, args=(app,))
        looker.start()
        began = time.monotonic()
        assert ready(app).status_code == 200
        assert time.monotonic() - began < 5
        end.set()
        looker.join()


def test_async_check() -> None:
    app, socketact = make_app()

    @socketact.check("it")
    async def check() -> bool:
        return False

    assert ready(app).status_code == 503


@pytest.mark.parametrize(
    ("config", "environ", "seen"),
    [
        ({}, {}, False),
        ({"SOCKETACT_DETAILS_LISTENER": "admin"}, {"socketact.listener": "admin"}, True),
        ({"SOCKETACT_DETAILS_LISTENER": "admin"}, {"socketact.listener": "http"}, False),
        (LOCAL, {"REMOTE_ADDR": "127.0.0.9"}, True),
        (LOCAL, {"REMOTE_ADDR": "10.0.0.9"}, False),
        (LOCAL, {"REMOTE_ADDR": ""}, False),
        ({"SOCKETACT_DETAILS_NETWORKS": ["fd00::/8"]}, {"REMOTE_ADDR": "fd00::1"}, True),
        (LOCAL, {"REMOTE_ADDR": "::ffff:127.0.0.9"}, True),
        (LOCAL, {"REMOTE_ADDR": "::ffff:10.0.0.9"}, False),
        ({"SOCKETACT_DETAILS_NETWORKS": ["::ffff:10.0.0.0/104"]}, {"REMOTE_ADDR": "10.0.0.9"}, True),
        ({"SOCKETACT_DETAILS_NETWORKS": ["::ffff:10.0.0.0/104"]}, {"REMOTE_ADDR": "::ffff:10.0.0.9"}, True),
        ({"SOCKETACT_DETAILS_NETWORKS": ["::ffff:10.0.0.0/104"]}, {"REMOTE_ADDR": "11.0.0.9"}, False),
    ],
)
def test_details(config: dict[str, object], environ: dict[str, object], seen: bool) -> None:
    app, socketact = make_app(**config)
    socketact.check("database")(lambda: None)
    socketact.breaker("inventory")
    response = ready(app, environ_overrides=environ).json
    assert response is not None
    assert ("checks" in response) == seen
    alive = app.test_client().get("/healthz", environ_overrides=environ).json
    assert alive is not None
    assert ("checks" in alive) == seen
    if seen:
        assert response["checks"]["database:responseTime"][0]["status"] == "pass"
        assert response["checks"]["inventory:breaker"] == [{"status": "pass", "observedValue": "closed"}]


def test_name_in_use() -> None:
    socketact = SocketAct()
    socketact.check("database")(lambda: None)
    with pytest.raises(ValueError, match=r"check\('database'\) is registered already: give each check its own name"):
        socketact.check("database")(lambda: None)


def test_factory_called_again() -> None:
    socketact = SocketAct()

    def create_app() -> Flask:
        app = Flask(__name__)
        socketact.init_app(app)

        @socketact.check("database")
        def database() -> bool:
            return app.name == current_app.name

        return app

    assert [ready(create_app()).status_code for _ in range(2)] == [200, 200]
