"""The request ID in the response and in log records."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from typing import TYPE_CHECKING, Any, Literal

import pytest
from flask import Flask

from flask_socketact import SocketAct
from flask_socketact.bridge import keys, request_context
from flask_socketact.logs import request_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def test_new_id(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (app.test_client().get("/", buffered=True) for _ in range(2))
    assert first.headers[HEADER] == first.text != second.text
    assert re.fullmatch("[0-9a-f]{16}", first.text)
    ids = [record.request_id for record in caplog.records]  # type: ignore[attr-defined]
    assert ids == [first.text, second.text]
    logging.getLogger("other").warning("between requests")
    assert caplog.records[-1].request_id == "-"  # type: ignore[attr-defined]


def test_request_that_fails(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    response = app.test_client().get("/fails")
    assert response.status_code == 500
    assert caplog.records[0].request_id == response.headers[HEADER]  # type: ignore[attr-defined]


@pytest.mark.parametrize("trusted", [True, False])
def test_from_a_proxy(app: Flask, *, trusted: bool) -> None:
    environ = {keys.TRUSTS_PEER: lambda: trusted}
    response = app.test_client().get("/", headers={HEADER: "theirs"}, environ_overrides=environ)
    assert (response.headers[HEADER] == "theirs") == trusted


def test_no_header_unless_configured() -> None:
    app = Flask(__name__)
    socketact = SocketAct(app)
    app.add_url_rule("/", "view", lambda: socketact.request_id)
    response = app.test_client().get("/")
    assert HEADER not in response.headers
    assert re.fullmatch("[0-9a-f]{16}", response.text)


FORMATS = [("%", "%(request_id)s"), ("{", "{request_id}"), ("$", "$request_id")]


@pytest.fixture(autouse=True)
def same_factory() -> Iterator[None]:
    """Restore the record factory after the test."""
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


def logged_in(environ: dict[str, Any], **extra: object) -> logging.LogRecord:
    """Return a record that was logged in a request."""
    request_context.enter(environ)
    try:
        return logging.getLogger("shop").makeRecord("shop", logging.INFO, "/shop.py", 7, "sold", (), None, extra=extra)
    finally:
        request_context.leave()


@pytest.mark.parametrize(("style", "text"), FORMATS)
def test_every_style_of_format(style: Literal["%", "{", "$"], text: str) -> None:
    request_ids.install()
    environ: dict[str, Any] = {}
    record = logged_in(environ)
    assert logging.Formatter(text, style=style, defaults={"other": 1}).format(record) == request_context.id_of(environ)


@pytest.mark.parametrize(("style", "text"), FORMATS)
def test_extra_with_the_same_name_wins(style: Literal["%", "{", "$"], text: str) -> None:
    request_ids.install()
    record = logged_in({}, request_id="mine")
    assert logging.Formatter(text, style=style).format(record) == "mine"
    assert record.request_id == "mine"  # type: ignore[attr-defined]


def test_view_that_logs_an_extra_with_the_same_name(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    @app.get("/extra")
    def extra() -> str:
        app.logger.warning("sold", extra={"request_id": "mine"})
        return "x"

    assert app.test_client().get("/extra").status_code == 200
    assert [record.request_id for record in caplog.records] == ["mine"]  # type: ignore[attr-defined]


def test_extra_cannot_replace_other_attributes() -> None:
    request_ids.install()
    with pytest.raises(KeyError, match="lineno"):
        logged_in({}, lineno=7)


def test_record_keeps_the_id() -> None:
    """In another thread (QueueHandler copies records), and in another process, which may not have this package."""
    request_ids.install()
    environ: dict[str, Any] = {}
    record = logged_in(environ)
    for copied in (copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record))):  # noqa: S301 (our own)
        assert vars(copied)["request_id"] == request_context.id_of(environ)
        assert type(vars(copied)) is dict
    assert b"flask_socketact" not in pickle.dumps(record)
    assert logging.makeLogRecord(vars(record)).request_id == request_context.id_of(environ)  # type: ignore[attr-defined]


class Special(logging.LogRecord):
    """A record class of the application."""

    def getMessage(self) -> str:  # noqa: N802 (logging's)
        return f"special: {super().getMessage()}"


def test_record_factory_set_earlier() -> None:
    logging.setLogRecordFactory(Special)
    request_ids.install()
    environ: dict[str, Any] = {}
    record = logged_in(environ)
    assert isinstance(record, Special)
    assert (
        logging.Formatter("%(request_id)s %(message)s").format(record)
        == f"{request_context.id_of(environ)} special: sold"
    )
    assert logged_in({}, request_id="mine").request_id == "mine"  # type: ignore[attr-defined]


def test_record_factory_set_later() -> None:
    request_ids.install()
    ours = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = ours(*args, **kwargs)
        record.tenant = "acme"
        return record

    logging.setLogRecordFactory(make)
    request_ids.install()  # another application in this process
    environ: dict[str, Any] = {}
    text = logging.Formatter("%(request_id)s %(tenant)s").format(logged_in(environ))
    assert text == f"{request_context.id_of(environ)} acme"
    assert logged_in({}, request_id="mine").request_id == "mine"  # type: ignore[attr-defined]


def test_record_factory_that_sets_the_attribute() -> None:
    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        record.request_id = "theirs"
        return record

    logging.setLogRecordFactory(make)
    request_ids.install()
    assert logged_in({}).request_id == "theirs"  # type: ignore[attr-defined]
