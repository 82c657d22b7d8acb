"""The extension in an application that no server of ours runs, and with what our worker would tell it."""

from __future__ import annotations

import gc
import weakref

import pytest
from flask import Flask

from flask_socketact import SocketAct
from flask_socketact.bridge import server_info

DRAINING: dict[str, object] = {"socketact.draining": lambda: True}


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
    assert not socketact.draining


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


def test_an_application_that_is_gone_hears_nothing() -> None:
    app, _ = make_app()
    gone = weakref.ref(app)
    members = len(server_info.applications)
    del app, _
    gc.collect()
    assert gone() is None
    assert len(server_info.applications) < members


def test_nothing_of_ours_is_around_an_application_that_asks_for_nothing() -> None:
    app, _ = make_app()
    assert app.wsgi_app.__func__ is Flask.wsgi_app  # type: ignore[attr-defined]
    assert not app.before_request_funcs
    assert not app.after_request_funcs


@pytest.mark.parametrize("asking", [True, False])
def test_complete_application_that_asks_for_nothing_is_left_alone(*, asking: bool) -> None:
    app, socketact = make_app()
    if asking:
        app.add_url_rule("/admin", "admin", socketact.only("admin")(lambda: "admin"))
    for member in list(server_info.applications):
        member.loaded()
    assert ("create_url_adapter" in vars(app)) == asking
    assert app.test_client().get("/").status_code == 200
    assert app.test_client().get("/admin").status_code == 404
