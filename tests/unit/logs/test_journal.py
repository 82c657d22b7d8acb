"""Fields of journal entries, request IDs, and gunicorn's loggers."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from subprocess import PIPE, STDOUT
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from flask_socketact.bridge import keys, request_context
from flask_socketact.logs.destinations import JOURNAL_STREAM, handlers_for, is_journal
from flask_socketact.logs.handler import encode, fields_of
from flask_socketact.logs.logger import request_fields, restore, status_of
from flask_socketact.logs.root import RootHandler
from flask_socketact.systemd import message_ids
from tests.support.logs import CONFIGURATIONS

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
    request_context.leave()


def test_event_ids_are_different() -> None:
    ids = {
        value["MESSAGE_ID"] for name, value in vars(message_ids).items() if isinstance(value, dict) and name.isupper()
    }
    assert len(ids) == 8
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in ids)


def test_event_ids_are_documented() -> None:
    page = Path(__file__).parents[3].joinpath("docs/journal.md").read_text()
    for name, value in vars(message_ids).items():
        if isinstance(value, dict) and name.isupper():
            assert f"| `{name}` | `{value['MESSAGE_ID']}` |" in page


def test_stream_is_compared_with_journal_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_application_cannot_override_our_fields() -> None:
    assert fields_of(record(PRIORITY=0, CODE_FILE="/other.py"))["PRIORITY"] == 4
    assert fields_of(record(PRIORITY=0, CODE_FILE="/other.py"))["CODE_FILE"] == "/shop.py"


@pytest.mark.parametrize("value", [uuid.UUID(message_ids.READY["MESSAGE_ID"]), message_ids.READY["MESSAGE_ID"]])
def test_message_id(value: Any) -> None:
    assert fields_of(record(MESSAGE_ID=value))["MESSAGE_ID"] == message_ids.READY["MESSAGE_ID"]


def test_request_of_a_record() -> None:
    assert "REQUEST_ID" not in fields_of(record())
    environ: dict[str, Any] = {"socketact.listener": "http"}
    request_context.enter(environ)
    assert keys.REQUEST_ID not in environ  # not used yet
    fields = fields_of(record())
    assert fields["REQUEST_ID"] == request_context.request_id() == environ[keys.REQUEST_ID]
    assert fields["LISTENER"] == "http"
    request_context.leave()
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
def test_id_is_taken_from_trusted_peers(peer: Any, allow: str, is_taken: bool) -> None:
    environ = {"HTTP_X_REQUEST_ID": "theirs", keys.TRUSTS_PEER: request(peer, allow)._peer_is_trusted_proxy}
    found = request_context.id_of(environ)
    assert (found == "theirs") == is_taken


@pytest.mark.parametrize("sent", ["", " ", "a b", "a\n", "a,b", "ä", "a" * 129, '"', "%0a", "\x00"])
def test_unacceptable_id_is_replaced(sent: str) -> None:
    environ = {"HTTP_X_REQUEST_ID": sent, keys.TRUSTS_PEER: request(PROXY)._peer_is_trusted_proxy}
    found = request_context.id_of(environ)
    assert re.fullmatch("[0-9a-f]{16}", found)
    assert request_context.id_of(environ) == found


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"PATH_INFO": "/gr\xc3\xbcn"}, "/grün"),
        ({"PATH_INFO": "/\xff"}, "/\\xff"),
        ({"PATH_INFO": "/\N{EURO SIGN}"}, "/\\u20ac"),  # not a WSGI string
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


def test_code_fields_of_a_record_of_gunicorn() -> None:
    of_gunicorn = record()
    of_gunicorn.pathname = sys.modules["gunicorn.glogging"].__file__ or ""
    assert fields_of(of_gunicorn)["CODE_FILE"] == __file__
    assert fields_of(of_gunicorn)["CODE_FUNC"] == "test_code_fields_of_a_record_of_gunicorn"


def said(folder: Path, source: str) -> list[str]:
    """Run `source` in a new process, with our logger as `log`, and return its output."""
    program = f"{PROGRAM}\n{dedent(source)}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, stdout=PIPE, stderr=STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return [line.rpartition("] ")[2] for line in done.stdout.splitlines()]


PROGRAM = """
import io, logging, os, sys
from logging.config import dictConfig
from gunicorn.config import Config
from flask_socketact.logs.logger import Logger, errors_of, restore

cfg = Config()
cfg.set("accesslog", "-")
log = Logger(cfg)

def state():
    return [
        (logger.level, logger.propagate, logger.disabled, list(logger.handlers))
        for logger in (log.error_log, log.access_log)
    ]

before = state()
"""


@pytest.mark.parametrize("configures", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_loggers_are_restored(tmp_path: Path, configures: str) -> None:
    source = "app = type('Application', (), {'logger': logging.getLogger('app')})\n" + configures
    source += "for _ in range(2):\n    restore(log)\n    assert state() == before, state()\nlog.error('said')\n"
    assert said(tmp_path, source) == ["said"]


def test_exception_is_logged_with_disabled_loggers(tmp_path: Path) -> None:
    """Also if the application fails to load."""
    lines = said(tmp_path, "dictConfig({'version': 1})\nlog.error('lost')\nlog.exception('failed')")
    assert lines == ["failed", "NoneType: None"]


def test_handlers_with_other_destinations_stay(tmp_path: Path) -> None:
    said(
        tmp_path,
        """
        logger = log.error_log
        (ours,) = logger.handlers
        file = logging.FileHandler("file")
        memory, same = logging.StreamHandler(io.StringIO()), logging.StreamHandler(sys.stderr)
        path, closed = logging.FileHandler("/proc/self/fd/2"), logging.StreamHandler(io.StringIO())
        closed.stream.close()
        logger.handlers[:] = [same, file, path, memory, closed]
        for _ in range(2):
            log.restore()
            assert logger.handlers == [ours, file, memory], logger.handlers
        """,
    )


def test_other_loggers_are_left_alone() -> None:
    restore(logging.getLogger())
    restore(None)


def test_settings_of_a_reload_are_restored(tmp_path: Path) -> None:
    source = """
    cfg.set("loglevel", "error")
    log.setup(cfg)
    log.error_log.setLevel(logging.DEBUG)
    log.restore()
    log.warning("too little")
    """
    assert said(tmp_path, source) == []


def test_repeated_setup_leaks_no_descriptors(tmp_path: Path) -> None:
    said(
        tmp_path,
        """
        before = os.listdir("/proc/self/fd")
        for _ in range(5):
            log.setup(cfg)
        assert os.listdir("/proc/self/fd") == before
        """,
    )


@pytest.mark.parametrize(
    "spoils",
    [
        "sys.stderr.close()",
        "os.close(2)",
        "os.close(2); os.open('other', os.O_WRONLY | os.O_CREAT)",
        "sys.stderr = io.StringIO()",
    ],
)
def test_stream_that_is_closed_or_replaced(tmp_path: Path, spoils: str) -> None:
    source = """
    log.error("first")
    log.setup(cfg)
    log.error("second")
    log.wsgi_errors.write("third\\n")
    print("fourth", file=log.wsgi_errors)
    """
    assert said(tmp_path, f"{spoils}\n{dedent(source)}") == ["first", "second", "third", "fourth"]
    other = tmp_path / "other"
    assert not other.exists() or other.read_text() == ""


def test_record_that_cannot_be_written(tmp_path: Path) -> None:
    said(
        tmp_path,
        """
        os.dup2(os.open("/dev/full", os.O_WRONLY), log._stderr.fileno())
        sys.stderr.close()
        log.error("nowhere")
        log.wsgi_errors.write("nowhere")
        """,
    )


def test_wsgi_errors_go_to_the_error_log(tmp_path: Path) -> None:
    said(
        tmp_path,
        """
        cfg.set("errorlog", "error.log")
        log.setup(cfg)
        dictConfig({"version": 1})  # closes files
        with errors_of(log) as errors:
            errors.writelines(["a\\n", "b\\n"])
        errors_of(log).write("c\\n")  # another request's
        """,
    )
    assert (tmp_path / "error.log").read_text() == "a\nb\nc\n"


def test_record_that_another_handler_sends_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root logger's handler skips it."""
    monkeypatch.setenv(JOURNAL_STREAM, "1:2")
    shop, sold, root = (logging.getLogger(name) for name in ("places", "places.sold", None))
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        handler = logging.StreamHandler(stream)
        ours = RootHandler()
        monkeypatch.setattr(root, "handlers", [ours])
        monkeypatch.setattr(shop, "handlers", [handler])
        record = sold.makeRecord("places.sold", logging.INFO, "", 1, "x", (), None)
        others = [sold.makeRecord(name, logging.INFO, "", 1, "x", (), None) for name in ("root", "unknown", "place")]

        def is_skipped(record: logging.LogRecord) -> bool:
            return any(ours._sends_too(each, record) for each in handlers_for(record))

        assert not is_skipped(record)  # the stream does not go to the journal
        monkeypatch.setenv(JOURNAL_STREAM, f"{status.st_dev}:{status.st_ino}")
        assert is_skipped(record)
        assert not any(is_skipped(each) for each in others)
        handler.setLevel(logging.WARNING)
        assert not is_skipped(record)
        handler.setLevel(logging.NOTSET)
        handler.addFilter(lambda record: record.msg != "x")
        assert not is_skipped(record)
        handler.filters.clear()
        sold.propagate = False
        assert not is_skipped(record)
        sold.propagate = True
        root.addHandler(logging.StreamHandler(stream))
        assert all(is_skipped(each) for each in others)
        ours.queue._socket.close()
