"""Outside the journal: gunicorn's logging as it is."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests.load import ask
from tests.server import CONF, Server, dial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Folder

ERROR_LINE = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[[A-Z]+\] .+"
ACCESS_LINE = r'127\.0\.0\.1 - - \[.+\] "GET / HTTP/1\.1" 500 \d+ "-" "-"'
FAILS = """
from flask import Flask
app = Flask(__name__)

@app.get("/")
def fails():
    app.logger.error("from the app")
    return "no", 500
"""


@pytest.mark.parametrize("accesslog", ["-", None])
@pytest.mark.parametrize("environ", [{}, {"JOURNAL_STREAM": "1:2"}], ids=["no journal", "another stream's"])
def test_format(
    folder: Folder, http: socket.socket, monkeypatch: pytest.MonkeyPatch, accesslog: str | None, environ: dict[str, str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    arguments = (*CONF, *(("--access-logfile", accesslog) if accesslog else ()), "app:app")
    with Server(folder(FAILS), *arguments, listeners={"http": http}, environ=environ) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http))[0] == 500
        server.process.terminate()
        server.wait_until_gone()
        lines = server.log.splitlines()
    access = [line for line in lines if re.fullmatch(ACCESS_LINE, line)]
    application = [line for line in lines if re.fullmatch(r"\[.+\] ERROR in app: from the app", line)]
    assert (len(access), len(application)) == (1 if accesslog else 0, 1)
    others = [line for line in lines if line not in access + application]
    assert others
    assert [line for line in others if not re.fullmatch(ERROR_LINE, line)] == []


def test_metrics(plain: Path, http: socket.socket) -> None:
    """gunicorn takes its own logger for them only where nobody has named one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(20)
        arguments = (*CONF, "--statsd-host", f"127.0.0.1:{statsd.getsockname()[1]}", "app:app")
        with Server(plain, *arguments, listeners={"http": http}) as server:
            server.wait_until_ready()
            assert ask(lambda: dial(http))[0] == 200
            received: list[bytes] = []
            while b"gunicorn.request.status.200:1|c|@1.0" not in received:
                received.append(statsd.recv(4096))
