"""A trivial view: without the extension, with its defaults, and with all of its features."""

from __future__ import annotations

from flask import Flask

from flask_socketact import SocketAct


def without() -> Flask:
    """Return an application of Flask alone."""
    app = Flask(__name__)
    app.add_url_rule("/", "hello", lambda: "Hello\n")
    return app


def nothing() -> Flask:
    """Return one with the extension and its defaults."""
    app = without()
    SocketAct(app)
    return app


def everything() -> Flask:
    """Return one with everything switched on."""
    app = without()
    app.config.update(
        SOCKETACT_METRICS="/metrics",
        SOCKETACT_METRICS_LISTENER="admin",
        SOCKETACT_HEALTH_LISTENER="admin",
        SOCKETACT_DEADLINE=10.0,
        SOCKETACT_REQUEST_ID="X-Request-Id",
    )
    socketact = SocketAct(app)
    app.add_url_rule("/admin", "admin", socketact.only("admin")(lambda: "admin\n"))
    socketact.check("database")(lambda: None)
    socketact.breaker("inventory")
    return app
