"""Views and blueprints that are restricted to listeners."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any

import pytest
from flask import Blueprint, Flask, url_for
from flask.testing import FlaskClient
from flask.views import MethodView
from werkzeug.routing import BaseConverter, Map
from werkzeug.test import TestResponse

from flask_socketact import SocketAct

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW")


class Site:
    """An application with a client that connects to a listener."""

    def __init__(self, **config: object) -> None:
        self.app = Flask(__name__)
        self.app.config.update(config)
        self.socketact = SocketAct(self.app)

    def ask(self, listener: str | None, path: str, method: str = "GET", **options: Any) -> TestResponse:
        client: FlaskClient = self.app.test_client()
        environ = {} if listener is None else {"socketact.listener": listener}
        return client.open(path, method=method, environ_overrides=environ, **options)


@pytest.fixture
def site() -> Site:
    site = Site(SOCKETACT_HEALTH_LISTENER="admin")
    app, socketact = site.app, site.socketact
    admin = socketact.only("admin")(Blueprint("admin", __name__, url_prefix="/admin"))
    inner = socketact.only("admin", "debug")(Blueprint("inner", __name__, url_prefix="/inner"))

    @app.route("/")
    def public() -> str:
        return url_for("admin.stop", number=1)

    @app.get("/both")
    @socketact.only("http", "admin")
    def both() -> str:
        return "both"

    @app.post("/shared")
    def shared() -> str:
        return "public"

    @app.get("/shared")
    @socketact.only("admin")
    def shared_admin() -> str:
        return "admin"

    @app.route("/slash/")
    @socketact.only("admin")
    def slash() -> str:
        return "slash"

    @admin.route("/stop/<int:number>", methods=["POST", "GET"])
    def stop(number: int) -> str:
        return f"stop {number}"

    @inner.get("/view")
    def view() -> str:
        return "inner"

    class Classy(MethodView):
        decorators = [socketact.only("admin")]  # noqa: RUF012 (Flask's type)

        def put(self) -> str:
            return "put"

    app.add_url_rule("/classy", view_func=Classy.as_view("classy"))
    admin.register_blueprint(inner)
    app.register_blueprint(admin)
    return site


HIDDEN = ("/admin/stop/1", "/admin/inner/view", "/classy", "/slash/", "/slash", "/healthz", "/readyz", "/admin/nothing")


@pytest.mark.parametrize("listener", ["http", "debug", "Admin", "admin ", None])
@pytest.mark.parametrize("path", HIDDEN)
def test_404_through_other_listeners_for_every_method(site: Site, listener: str | None, path: str) -> None:
    assert {site.ask(listener, path, method).status_code for method in METHODS} == {404}


def test_its_own_listener(site: Site) -> None:
    assert site.ask("admin", "/admin/stop/7", "POST").text == "stop 7"
    assert site.ask("admin", "/admin/stop/7", "DELETE").status_code == 405
    assert site.ask("admin", "/admin/inner/view").text == "inner"
    assert site.ask("admin", "/classy", "PUT").text == "put"
    assert site.ask("admin", "/slash").status_code == 308
    assert site.ask("admin", "/healthz").status_code == 200


def test_nested_blueprints_must_both_allow_the_listener(site: Site) -> None:
    assert site.ask("debug", "/admin/inner/view").status_code == 404


def test_view_for_several_listeners(site: Site) -> None:
    assert [site.ask(name, "/both").status_code for name in ("http", "admin", "other")] == [200, 200, 404]


def test_public_methods_of_the_same_path(site: Site) -> None:
    """They stay public, and reveal nothing about the restricted ones."""
    assert site.ask("http", "/shared", "POST").text == "public"
    assert site.ask("http", "/shared").status_code == 405
    assert set(site.ask("http", "/shared").headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
    assert set(site.ask("http", "/shared", "OPTIONS").headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
    assert site.ask("admin", "/shared").text == "admin"


def test_same_path_with_a_view_for_each_listener() -> None:
    site = Site()

    @site.app.get("/")
    @site.socketact.only("admin")
    def admin() -> str:
        return "admin"

    @site.app.get("/")
    def public() -> str:
        return "public"

    assert [site.ask(name, "/").text for name in ("admin", "http")] == ["admin", "public"]


def test_url_for_knows_all_routes(site: Site) -> None:
    assert site.ask("http", "/").text == "/admin/stop/1"


def test_decorator_without_functools_wraps(site: Site) -> None:
    def careless(view: Any) -> Any:
        return lambda: f"{view()}"

    site = Site()
    site.app.add_url_rule("/", "careless", careless(site.socketact.only("admin")(lambda: "secret")))
    assert [site.ask(name, "/").status_code for name in ("http", "admin")] == [404, 200]


def test_decorated_twice() -> None:
    site = Site()
    site.app.add_url_rule("/", "view", site.socketact.only("a", "b")(site.socketact.only("b", "c")(lambda: "b")))
    assert [site.ask(name, "/").status_code for name in ("a", "b", "c")] == [404, 200, 404]


def test_view_added_after_a_context(site: Site) -> None:
    site = Site()
    with site.app.test_request_context():
        pass
    site.app.add_url_rule("/late", "late", site.socketact.only("admin")(lambda: "late"), methods=["PUT"])
    assert site.ask("http", "/late").status_code == 404


def test_host_matching_and_subdomains() -> None:
    app = Flask(__name__, host_matching=True, static_host="static")
    socketact = SocketAct(app)
    app.add_url_rule("/", "view", socketact.only("admin")(lambda: "secret"), host="<name>.example")
    app.view_functions["view"] = socketact.only("admin")(lambda name: name)
    ask = app.test_client().get
    for listener, status in (("admin", 200), ("http", 404)):
        assert (
            ask("/", base_url="http://a.example", environ_overrides={"socketact.listener": listener}).status_code
            == status
        )


def test_without_systemd(caplog: pytest.LogCaptureFixture) -> None:
    """Without systemd, restricted views respond with 404, and a warning says so, unless a listener is configured."""
    site = Site()
    site.app.add_url_rule("/", "view", site.socketact.only("admin")(lambda: "secret"))
    with caplog.at_level(logging.WARNING):
        assert [site.ask(None, "/").status_code for _ in range(3)] == [404] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "systemd passes no listeners, so views that are restricted to 'admin' respond with 404. "
        "For development, set SOCKETACT_LISTENER = 'admin'"
    ]
    caplog.clear()
    site = Site(SOCKETACT_LISTENER="admin")
    site.app.add_url_rule("/", "view", site.socketact.only("admin")(lambda: "secret"))
    assert site.ask(None, "/").text == "secret"
    assert site.ask("http", "/").status_code == 404
    assert not caplog.records


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (MethodView, "add the decorator to its attribute 'decorators'"),
        ("view", "is neither a view function nor a blueprint"),
    ],
)
def test_invalid_target(target: Any, text: str) -> None:
    for decorate in (SocketAct().only("admin"), SocketAct().deadline(1)):
        with pytest.raises(TypeError, match=text):
            decorate(target)


def test_without_a_name() -> None:
    with pytest.raises(ValueError, match="give the FileDescriptorName= of a listener"):
        SocketAct().only()
    with pytest.raises(ValueError, match="give the FileDescriptorName= of a listener"):
        SocketAct().only("a:b")


def wrapping(view: Any) -> Any:
    """A decorator with functools.wraps."""

    @wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return wrapper


class Plain(MethodView):
    def get(self) -> str:
        return "secret"


def test_above_the_route() -> None:
    site = Site()
    app, only = site.app, site.socketact.only

    @only("admin")
    @app.get("/view")
    def view() -> str:
        return "secret"

    @only("admin")
    @wrapping
    @wrapping
    @app.get("/wrapped")
    @wrapping
    def wrapped() -> str:
        return "secret"

    classy = Plain.as_view("classy")
    app.add_url_rule("/classy", view_func=classy)
    only("admin")(classy)

    blueprint = Blueprint("blueprint", __name__)

    @only("admin")
    @blueprint.get("/blueprint")
    async def asynchronous() -> str:
        return "secret"

    app.register_blueprint(blueprint)
    paths = ("/view", "/wrapped", "/classy", "/blueprint")
    assert [site.ask("http", path).status_code for path in paths] == [404] * 4
    assert [site.ask("admin", path).text for path in paths] == ["secret"] * 4
    assert {site.ask("http", "/view", method).status_code for method in METHODS} == {404}


def test_above_and_below_the_route() -> None:
    site = Site()

    @site.socketact.only("b", "c")
    @site.app.get("/")
    @site.socketact.only("a", "b")
    def view() -> str:
        return "b"

    assert [site.ask(name, "/").status_code for name in ("a", "b", "c")] == [404, 200, 404]


class Controller:
    def view(self) -> str:
        return "secret"


def test_bound_method() -> None:
    site = Site()
    site.app.add_url_rule("/", "view", site.socketact.only("admin")(Controller().view))
    site.app.add_url_rule("/public", "public", Controller().view)
    assert [site.ask(name, "/").status_code for name in ("http", "admin")] == [404, 200]
    assert site.ask("http", "/public").text == "secret"


class SlowToCompile(BaseConverter):
    """A converter that takes a while, as many routes do, and notes how many threads are inside."""

    inside = most = 0

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map)
        kind = type(self)
        kind.inside += 1
        kind.most = max(kind.most, kind.inside)
        time.sleep(0.02)
        kind.inside -= 1


def test_first_requests_at_once() -> None:
    """Each thread needs the URL map of its listener, and two threads must not compile routes at the same time."""
    site = Site()
    site.app.url_map.converters["slow"] = SlowToCompile
    for number in range(3):
        site.app.add_url_rule(f"/{number}/<slow:a>", f"{number}", site.socketact.only("admin")(lambda a: a))
    listeners = ("http", "admin", "debug", None) * 2
    SlowToCompile.most = 0
    with ThreadPoolExecutor(len(listeners)) as threads:
        found = threads.map(lambda listener: site.ask(listener, "/1/a").status_code, listeners)
        assert list(found) == [404, 200, 404, 404] * 2
    assert SlowToCompile.most == 1
