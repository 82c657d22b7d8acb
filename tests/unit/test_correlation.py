"""The request's id in the answer and in log records."""

from __future__ import annotations

import logging
import re

import pytest
from flask import Flask

from flask_socketact import SocketAct, current

HEADER = "X-Request-Id"


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.config["SOCKETACT_REQUEST_ID"] = HEADER
    socketact = SocketAct(app)

    @app.get("/")
    def seen() -> str:
        app.logger.warning("in the view")
        return socketact.request_id

    @app.get("/fails")
    def fails() -> str:
        raise RuntimeError("a slip")

    return app


def test_made_here(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (app.test_client().get("/", buffered=True) for _ in range(2))
    assert first.headers[HEADER] == first.text != second.text
    assert re.fullmatch("[0-9a-f]{16}", first.text)
    ids = [record.request_id for record in caplog.records]  # type: ignore[attr-defined]
    assert ids == [first.text, second.text]
    logging.getLogger("other").warning("between requests")
    assert caplog.records[-1].request_id == "-"  # type: ignore[attr-defined]


def test_of_a_request_that_fails(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    answer = app.test_client().get("/fails")
    assert answer.status_code == 500
    assert caplog.records[0].request_id == answer.headers[HEADER]  # type: ignore[attr-defined]


@pytest.mark.parametrize("trusted", [True, False])
def test_from_a_proxy(app: Flask, *, trusted: bool) -> None:
    environ = {current.TRUSTS_PEER: lambda: trusted}
    answer = app.test_client().get("/", headers={HEADER: "theirs"}, environ_overrides=environ)
    assert (answer.headers[HEADER] == "theirs") == trusted


def test_not_sent_unless_asked_for() -> None:
    app = Flask(__name__)
    socketact = SocketAct(app)
    app.add_url_rule("/", "view", lambda: socketact.request_id)
    answer = app.test_client().get("/")
    assert HEADER not in answer.headers
    assert re.fullmatch("[0-9a-f]{16}", answer.text)
