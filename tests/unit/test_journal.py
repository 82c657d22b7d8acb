"""Fields of an entry, and ids of requests."""

from __future__ import annotations

import logging
import os
import re
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from flask_socketact import current, events
from flask_socketact.journal import JOURNAL_STREAM, encode, fields_of, is_journal, request_fields, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PROXY = ("127.0.0.1", 4711)


def request(peer: Any, allow: str = "127.0.0.1") -> Any:
    cfg = Config()
    cfg.set("forwarded_allow_ips", allow)
    return next(RequestParser(cfg, [b"GET / HTTP/1.1\r\n\r\n"], peer))


def record(**extra: Any) -> logging.LogRecord:
    return logging.getLogger("shop").makeRecord(
        "shop", logging.WARNING, "/shop.py", 7, "%s sold", ("lamp",), None, "sell", extra
    )


@pytest.fixture(autouse=True)
def between_requests() -> Iterator[None]:
    yield
    current.leave()


def test_event_ids_are_different() -> None:
    ids = {value["MESSAGE_ID"] for name, value in vars(events).items() if isinstance(value, dict) and name.isupper()}
    assert len(ids) == 8
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in ids)


def test_event_ids_are_documented() -> None:
    page = Path(__file__).parents[2].joinpath("docs/journal.md").read_text()
    for name, value in vars(events).items():
        if isinstance(value, dict) and name.isupper():
            assert f"| `{name}` | `{value['MESSAGE_ID']}` |" in page


def test_stream_is_compared_with_what_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a").open("w") as first, (tmp_path / "b").open("w") as second:
        monkeypatch.delenv(JOURNAL_STREAM, raising=False)
        assert not is_journal(first)
        status = os.stat(first.fileno())
        monkeypatch.setenv(JOURNAL_STREAM, f"{status.st_dev}:{status.st_ino}")
        assert is_journal(first)
        assert not is_journal(second)
    assert not is_journal(first)  # closed
    assert not is_journal(None)  # sys.stderr of a process without one


def test_attributes_become_fields_by_their_names() -> None:
    fields = fields_of(record(ORDER_ID=7, lower=1, _PID=1, **{"A=B": 1, "A\nB": 1, "Ä": 1, "A" * 65: 1}))
    assert fields["ORDER_ID"] == 7
    assert fields.keys() - {"ORDER_ID"} == {
        *("GENERATION", "PRIORITY", "LOGGER", "THREAD_NAME", "CODE_FILE", "CODE_LINE", "CODE_FUNC")
    }
    assert (fields["PRIORITY"], fields["LOGGER"]) == (4, "shop")
    assert (fields["CODE_FILE"], fields["CODE_LINE"], fields["CODE_FUNC"]) == ("/shop.py", 7, "sell")


def test_application_cannot_fake_what_we_know() -> None:
    assert fields_of(record(PRIORITY=0, CODE_FILE="/other.py"))["PRIORITY"] == 4
    assert fields_of(record(PRIORITY=0, CODE_FILE="/other.py"))["CODE_FILE"] == "/shop.py"


@pytest.mark.parametrize("value", [uuid.UUID(events.READY["MESSAGE_ID"]), events.READY["MESSAGE_ID"]])
def test_message_id(value: Any) -> None:
    assert fields_of(record(MESSAGE_ID=value))["MESSAGE_ID"] == events.READY["MESSAGE_ID"]


def test_request_of_a_record() -> None:
    assert "REQUEST_ID" not in fields_of(record())
    environ: dict[str, Any] = {"socketact.listener": "http"}
    current.enter(environ)
    assert current.REQUEST_ID not in environ  # nobody has asked
    fields = fields_of(record())
    assert fields["REQUEST_ID"] == current.request_id() == environ[current.REQUEST_ID]
    assert fields["LISTENER"] == "http"
    current.leave()
    assert "REQUEST_ID" not in fields_of(record())


def test_encoding_keeps_a_value_in_its_field() -> None:
    lines = encode({"MESSAGE": "a\nSTATUS=1", "NONE": None, "RAW": b"\xff\n", "HALF": "\udcff", "NUMBER": 7})
    assert lines == [b"MESSAGE=a\nSTATUS=1", b"RAW=\xff\n", b"HALF=\\udcff", b"NUMBER=7"]


@pytest.mark.parametrize(
    ("peer", "allow", "is_taken"),
    [
        (PROXY, "127.0.0.1", True),
        (PROXY, "10.0.0.0/8", False),
        (("10.1.2.3", 1), "10.0.0.0/8", True),
        (("10.1.2.3", 1), "*", True),
        (("2001:db8::1", 1, 0, 0), "127.0.0.1", False),
        ("", "127.0.0.1", True),  # a Unix socket
    ],
)
def test_id_is_taken_from_those_whom_gunicorn_trusts(peer: Any, allow: str, is_taken: bool) -> None:
    environ = {"HTTP_X_REQUEST_ID": "theirs", current.TRUSTS_PEER: request(peer, allow)._peer_is_trusted_proxy}
    found = current.id_of(environ)
    assert (found == "theirs") == is_taken


@pytest.mark.parametrize("sent", ["", " ", "a b", "a\n", "a,b", "ä", "a" * 129, '"', "%0a", "\x00"])
def test_id_that_is_not_taken(sent: str) -> None:
    environ = {"HTTP_X_REQUEST_ID": sent, current.TRUSTS_PEER: request(PROXY)._peer_is_trusted_proxy}
    found = current.id_of(environ)
    assert re.fullmatch("[0-9a-f]{16}", found)
    assert current.id_of(environ) == found


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"PATH_INFO": "/gr\xc3\xbcn"}, "/grün"),
        ({"PATH_INFO": "/\xff"}, "/\\xff"),
        ({"PATH_INFO": "/\N{EURO SIGN}"}, "/\\u20ac"),  # no WSGI string
        ({"RAW_URI": "/a%0A?b"}, "/a%0A"),
        ({"RAW_URI": None}, ""),
        ({}, ""),
    ],
)
def test_path(environ: dict[str, Any], path: str) -> None:
    assert request_fields(environ)["PATH"] == path


@pytest.mark.parametrize(("status", "number"), [("200 OK", 200), ("599", 599), (404, 404), (None, 0), ("", 0)])
def test_status(status: Any, number: int) -> None:
    response = type("Response", (), {"status": status})
    assert status_of(response) == number


def test_place_of_a_record_of_gunicorn() -> None:
    of_gunicorn = record()
    of_gunicorn.pathname = sys.modules["gunicorn.glogging"].__file__ or ""
    assert fields_of(of_gunicorn)["CODE_FILE"] == __file__
    assert fields_of(of_gunicorn)["CODE_FUNC"] == "test_place_of_a_record_of_gunicorn"
