"""The extension together with other Flask packages."""

from __future__ import annotations

import asyncio
from typing import Any

from flask import Blueprint, Flask, request
from flask_caching import Cache
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_socketact import SocketAct

ADMIN = {"socketact.listener": "admin"}
EVERYTHING: dict[str, Any] = {
    "SOCKETACT_METRICS": "/metrics",
    "SOCKETACT_DEADLINE": 5.0,
    "SOCKETACT_REQUEST_ID": "X-Request-Id",
    "SOCKETACT_DETAILS_NETWORKS": ["203.0.113.0/24"],
}


def test_async_views() -> None:
    app = Flask(__name__)
    app.config.update(EVERYTHING)
    socketact = SocketAct(app)

    @app.get("/")
    @socketact.only("admin")
    @socketact.deadline(2.0)
    @socketact.hold("view")
    async def view() -> str:
        await asyncio.sleep(0)
        return f"{socketact.remaining()}"

    assert 1 < float(app.test_client().get("/", environ_overrides=ADMIN).text) <= 2
    assert app.test_client().get("/").status_code == 404


def test_application_factory() -> None:
    """Extension and blueprint are globals of a module, shared by several applications of one process."""
    socketact = SocketAct()
    blueprint = Blueprint("admin", __name__)
    blueprint.add_url_rule("/", "view", socketact.only("admin")(lambda: "admin"))

    def create_app(**config: Any) -> Flask:
        app = Flask(__name__)
        app.config.update(config)
        socketact.init_app(app)
        app.register_blueprint(blueprint)
        return app

    first, second = create_app(**EVERYTHING), create_app(SOCKETACT_LISTENER="admin")
    assert [app.test_client().get("/").status_code for app in (first, second)] == [404, 200]
    assert "X-Request-Id" in first.test_client().get("/").headers
    assert "X-Request-Id" not in second.test_client().get("/").headers
    assert second.test_client().get("/metrics").status_code == 404


def test_proxy_fix() -> None:
    """SOCKETACT_DETAILS_NETWORKS applies to the clients' addresses."""
    app = Flask(__name__)
    app.config.update(EVERYTHING)
    SocketAct(app)
    app.add_url_rule("/", "view", lambda: f"{request.remote_addr}")
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1)  # type: ignore[method-assign]
    for address, seen in (("203.0.113.7", True), ("198.51.100.7", False)):
        response = app.test_client().get("/readyz", headers={"X-Forwarded-For": address}).json
        assert response is not None
        assert ("checks" in response) == seen
        assert app.test_client().get("/", headers={"X-Forwarded-For": address}).text == address


def test_flask_sqlalchemy() -> None:
    app = Flask(__name__)
    app.config.update(EVERYTHING, SQLALCHEMY_DATABASE_URI="sqlite://", SOCKETACT_CHECK_CACHE=0)
    socketact, db = SocketAct(app), SQLAlchemy(app)

    @socketact.check("database")
    def database() -> None:
        db.session.execute(text("select 1"))

    client = app.test_client()
    assert client.get("/readyz").status_code == 200
    with app.app_context():
        db.engine.dispose()
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:////nowhere/there.db"
    other = Flask(__name__)
    other.config.update(EVERYTHING, SQLALCHEMY_DATABASE_URI="sqlite:////nowhere/there.db")
    db.init_app(other)
    socketact.init_app(other)
    assert other.test_client().get("/readyz").status_code == 503
    assert client.get("/readyz").status_code == 200


def test_flask_caching() -> None:
    """A cached response has the ID of its own request, and is counted."""
    app = Flask(__name__)
    app.config.update(EVERYTHING, CACHE_TYPE="SimpleCache")
    socketact, cache = SocketAct(app), Cache(app)
    made: list[int] = []

    @app.get("/cached")
    @socketact.deadline(3.0)
    @cache.cached(timeout=60)
    def cached() -> str:
        made.append(1)
        return "cached"

    with app.test_client() as client:
        responses = [client.get("/cached", buffered=True) for _ in range(3)]
        metrics = client.get("/metrics").text
    assert [response.text for response in responses] == ["cached"] * 3
    assert len(made) == 1
    assert len({response.headers["X-Request-Id"] for response in responses}) == 3
    assert 'socketact_request_duration_seconds_count{endpoint="cached",status="200"} 3.0' in metrics
