"""Deadlines, and how long a request waited."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.test import TestResponse

from flask_socketact import SocketAct
from flask_socketact.application.queue_time import waited
from flask_socketact.bridge import keys

TRUSTED: dict[str, object] = {keys.TRUSTS_PEER: lambda: True}


def sent(seconds_ago: float, *, trusted: bool = True) -> dict[str, Any]:
    """Return the header of a proxy."""
    environ: dict[str, Any] = {"HTTP_X_REQUEST_START": f"t={time.time() - seconds_ago:.3f}"}
    return environ | (TRUSTED if trusted else {})


class Site:
    def __init__(self, **config: object) -> None:
        self.app = Flask(__name__)
        self.app.config.update(config)
        self.socketact = SocketAct(self.app)
        self.ran: list[str] = []

    def view(self, name: str) -> Callable[[], dict[str, object]]:
        def view() -> dict[str, object]:
            self.ran.append(name)
            return {"remaining": self.socketact.remaining()}

        return view

    def ask(self, path: str, environ: dict[str, Any] | None = None) -> TestResponse:
        return self.app.test_client().get(path, environ_overrides=environ or {})


@pytest.fixture
def site() -> Site:
    site = Site(SOCKETACT_DEADLINE=8)
    app, socketact = site.app, site.socketact
    app.before_request(lambda: site.ran.append("before"))
    blueprint = socketact.deadline(4.0)(Blueprint("slow", __name__))
    blueprint.add_url_rule("/blueprint", "blueprint", site.view("blueprint"))
    blueprint.add_url_rule("/none", "none", socketact.deadline(None)(site.view("none")))
    app.add_url_rule("/default", "default", site.view("default"))
    app.add_url_rule("/view", "view", socketact.deadline(2.0)(site.view("view")))
    app.register_blueprint(blueprint)
    return site


@pytest.mark.parametrize(("path", "seconds"), [("/default", 8), ("/blueprint", 4), ("/view", 2)])
def test_deadlines_of_view_blueprint_and_application(site: Site, path: str, seconds: float) -> None:
    for waiting in (0.0, 1.0):
        response = site.ask(path, sent(waiting)).json
        assert response is not None
        assert seconds - waiting - 1 < response["remaining"] < seconds - waiting + 0.01
    late = site.ask(path, sent(seconds + 0.5))
    assert late.status_code == 503
    assert late.headers["Retry-After"] == "1"
    assert site.ran == ["before", path[1:]] * 2  # no function of the application ran for late requests


def test_view_without_a_deadline(site: Site) -> None:
    assert site.ask("/none", sent(3000)).json == {"remaining": None}


def test_health_endpoints_have_no_deadline(site: Site) -> None:
    assert site.ask("/healthz", sent(3000)).status_code == 200


def test_error_handler_responds_to_late_requests(site: Site) -> None:
    @site.app.errorhandler(ServiceUnavailable)
    def late(error: ServiceUnavailable) -> tuple[str, int]:
        return f"late: {error.description}", 503

    text = site.ask("/view", sent(30)).text
    found = re.fullmatch(
        r"late: This request waited for (\d+\.\d) s before the server could read it, longer than its deadline\.", text
    )
    assert found, text
    assert 30 <= float(found[1]) < 40  # as long as this machine takes


def test_next_request_is_not_late(site: Site) -> None:
    with pytest.raises(ServiceUnavailable):
        with site.app.test_request_context("/view", environ_overrides=sent(30)):
            site.app.preprocess_request()
    with site.app.test_request_context("/view", environ_overrides=sent(30)):
        pass  # no request is dispatched
    assert site.ask("/view").status_code == 200


def test_header_of_an_untrusted_peer_is_ignored(site: Site) -> None:
    assert site.ask("/view", sent(30, trusted=False)).status_code == 200


def test_deadline_that_passes_during_the_request(site: Site) -> None:
    @site.app.get("/short")
    @site.socketact.deadline(0.001)
    def short() -> str:
        time.sleep(0.01)
        return str(site.socketact.remaining())

    assert site.ask("/short").status_code == 503


def test_no_deadlines() -> None:
    site = Site()
    site.app.add_url_rule("/", "view", site.view("view"))
    assert site.ask("/", sent(3000)).json == {"remaining": None}
    assert "preprocess_request" not in vars(site.app)


def test_decorated_after_the_first_context() -> None:
    site = Site()
    with site.app.test_request_context():
        pass
    site.app.add_url_rule("/", "view", site.socketact.deadline(2)(site.view("view")))
    assert site.ask("/", sent(3)).status_code == 503


@pytest.mark.parametrize("scale", [1, 1e3, 1e6])
@pytest.mark.parametrize("prefix", ["", "t=", " t="])
def test_units_of_the_header(scale: float, prefix: str) -> None:
    environ = {"HTTP_X_REQUEST_START": f"{prefix}{(time.time() - 5) * scale:.0f}", **TRUSTED}
    assert 4 <= waited(environ) <= 6.5


@pytest.mark.parametrize(
    "text",
    ["", "now", "-5", "t=", "1e9", "\u0661" * 10, "9" * 400, "t=12345678901234567", "0", "nan"],
)
def test_malformed_header(text: str) -> None:
    assert waited({"HTTP_X_REQUEST_START": text, **TRUSTED}) == 0.0


@pytest.mark.parametrize("error", [-86400, 30])
def test_wrong_clock_of_the_proxy(error: float) -> None:
    assert waited({"HTTP_X_REQUEST_START": f"t={time.time() + error}", **TRUSTED}) == 0.0


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        accepted, _ = listener.accept()
        with accepted:
            yield accepted


def test_wait_in_the_kernel(connection: socket.socket) -> None:
    """Without a proxy, the kernel knows how long a request waited."""
    deadline = time.monotonic() + 10
    while waited({"gunicorn.socket": connection}) < 0.2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kernel_is_not_asked_right_after_a_response(connection: socket.socket) -> None:
    site = Site(SOCKETACT_DEADLINE=0.05)
    site.app.add_url_rule("/", "view", site.view("view"))
    time.sleep(0.1)
    environ: dict[str, object] = {"gunicorn.socket": connection}
    assert site.ask("/", environ).status_code == 503
    assert site.ask("/", environ | {"socketact.free_since": time.monotonic()}).status_code == 200
    assert site.ask("/", environ | {"socketact.free_since": 1.0}).status_code == 503
