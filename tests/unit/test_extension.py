"""The extension in an application that no server of ours runs, and with what our worker would tell it."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_socketact import SocketAct

DRAINING = {"socketact.draining": lambda: True}
SERVING = {"socketact.draining": lambda: False}


def make_app(**config: object) -> tuple[Flask, SocketAct]:
    app = Flask(__name__)
    app.config.update(config)
    socketact = SocketAct()
    socketact.init_app(app)

    @app.get("/")
    def seen() -> dict[str, object]:
        return {"listener": socketact.listener, "draining": socketact.draining}

    return app, socketact


def test_without_a_server_of_ours() -> None:
    app, _ = make_app()
    assert app.test_client().get("/").json == {"listener": None, "draining": False}


def test_what_the_worker_says() -> None:
    app, _ = make_app()
    environ = {"socketact.listener": "admin", **DRAINING}
    assert app.test_client().get("/", environ_overrides=environ).json == {"listener": "admin", "draining": True}


def test_draining_may_begin_while_a_request_runs() -> None:
    app, socketact = make_app()
    answers = iter([False, True])
    with app.test_request_context(environ_overrides={"socketact.draining": lambda: next(answers)}):
        assert not socketact.draining
        assert socketact.draining


def test_outside_of_a_request() -> None:
    _, socketact = make_app()
    with pytest.raises(RuntimeError, match="outside of request context"):
        _ = socketact.listener
    with pytest.raises(RuntimeError, match="outside of request context"):
        _ = socketact.draining


@pytest.mark.parametrize("environ", [{}, SERVING, DRAINING])
def test_liveness(environ: dict[str, object]) -> None:
    app, _ = make_app()
    answer = app.test_client().get("/healthz", environ_overrides=environ)
    assert (answer.status_code, answer.json) == (200, {"status": "pass"})
    assert answer.headers["Cache-Control"] == "no-store"


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
    answer = app.test_client().get("/readyz", environ_overrides=environ)
    assert (answer.status_code, answer.json) == (status, content)
    assert answer.headers["Cache-Control"] == "no-store"


def test_paths_by_configuration() -> None:
    app, _ = make_app(SOCKETACT_HEALTHZ="/-/alive", SOCKETACT_READYZ=None)
    client = app.test_client()
    assert client.get("/-/alive").status_code == 200
    assert client.get("/healthz").status_code == 404
    assert client.get("/readyz").status_code == 404


def test_everything_switched_off() -> None:
    app, _ = make_app(SOCKETACT_HEALTHZ=None, SOCKETACT_READYZ=None)
    assert {rule.endpoint for rule in app.url_map.iter_rules()} == {"seen", "static"}


@pytest.mark.parametrize("path", ["healthz", "", 8, False, "/health/<name>"])
def test_path_that_is_none(path: object) -> None:
    with pytest.raises(ValueError, match=r"SOCKETACT_HEALTHZ is .*: give a path that begins with '/'"):
        make_app(SOCKETACT_HEALTHZ=path)


def test_one_path_for_both() -> None:
    with pytest.raises(ValueError, match="SOCKETACT_HEALTHZ and SOCKETACT_READYZ are both '/health'"):
        make_app(SOCKETACT_HEALTHZ="/health", SOCKETACT_READYZ="/health")


def test_twice_on_one_application() -> None:
    app, socketact = make_app()
    with pytest.raises(RuntimeError, match="already been registered"):
        socketact.init_app(app)


def test_one_extension_for_several_applications() -> None:
    socketact = SocketAct()
    for path in ("/a", "/b"):
        app = Flask(__name__)
        app.config["SOCKETACT_HEALTHZ"] = path
        socketact.init_app(app)
        assert app.test_client().get(path).status_code == 200
        assert app.extensions["socketact"] is socketact
