"""The extension under other servers, and with the environ that our workers pass."""

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


def test_under_another_server() -> None:
    app, _ = make_app()
    assert app.test_client().get("/").json == {"listener": None, "draining": False}


def test_environ_of_our_worker() -> None:
    app, _ = make_app()
    environ = {"socketact.listener": "admin", **DRAINING}
    assert app.test_client().get("/", environ_overrides=environ).json == {"listener": "admin", "draining": True}


def test_draining_may_begin_while_a_request_runs() -> None:
    app, socketact = make_app()
    responses = iter([False, True])
    with app.test_request_context(environ_overrides={"socketact.draining": lambda: next(responses)}):
        assert not socketact.draining
        assert socketact.draining


def test_outside_a_request() -> None:
    _, socketact = make_app()
    with pytest.raises(RuntimeError, match="outside of request context"):
        _ = socketact.listener
    assert not socketact.draining


def test_init_app_twice() -> None:
    app, socketact = make_app()
    with pytest.raises(RuntimeError, match="already been registered"):
        socketact.init_app(app)


def test_one_instance_for_several_applications() -> None:
    socketact = SocketAct()
    for path in ("/a", "/b"):
        app = Flask(__name__)
        app.config["SOCKETACT_HEALTHZ"] = path
        socketact.init_app(app)
        assert app.test_client().get(path).status_code == 200
        assert app.extensions["socketact"] is socketact


def test_deleted_application_is_not_called() -> None:
    app, _ = make_app()
    gone = weakref.ref(app)
    members = len(server_info.applications)
    del app, _
    gc.collect()
    assert gone() is None
    assert len(server_info.applications) < members


def test_unused_extension_adds_no_middleware_or_hooks() -> None:
    app, _ = make_app()
    assert app.wsgi_app.__func__ is Flask.wsgi_app  # type: ignore[attr-defined]
    assert not app.before_request_funcs
    assert not app.after_request_funcs


@pytest.mark.parametrize("used", [True, False])
def test_unused_extension_takes_no_part_in_requests(*, used: bool) -> None:
    app, socketact = make_app()
    if used:
        app.add_url_rule("/admin", "admin", socketact.only("admin")(lambda: "admin"))
    for member in list(server_info.applications):
        member.loaded()
    assert ("create_url_adapter" in vars(app)) == used
    assert app.test_client().get("/").status_code == 200
    assert app.test_client().get("/admin").status_code == 404
