"""Logging outside the journal is gunicorn's own."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.http import ask
from tests.support.logs import CONFIGURATIONS
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
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
    """gunicorn uses its logger for statsd only if no logger class is set."""
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


ACCESS = '"GET / HTTP/1.1" 500'


def once(server: Server, *texts: str) -> None:
    """Assert that each text is in exactly one line of the log."""
    counts = {text: sum(text in line for line in server.log.splitlines()) for text in texts}
    assert counts == dict.fromkeys(texts, 1), server.log


@pytest.mark.parametrize("configures", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_application_that_configures_logging(folder: Folder, http: socket.socket, configures: str) -> None:
    """The worker's messages and the access log still arrive, once."""
    arguments = (*CONF, "--access-logfile", "-", "--workers", "1", "app:app")
    source = FAILS.replace("\n@app", f"\n{configures}\n@app")
    with Server(folder(source), *arguments, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http))[0] == 500
        server.process.terminate()
        server.wait_until_gone()
        once(server, ACCESS, "Drained: no connection is left")


LATE = """
import logging.config
@app.get("/configure")
def configure():
    logging.config.dictConfig({"version": 1})
    return "x"
"""


def test_view_that_configures_logging(folder: Folder, http: socket.socket) -> None:
    arguments = (*CONF, "--access-logfile", "-", "--workers", "1", "app:app")
    with Server(folder(FAILS + LATE), *arguments, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http), "/configure")[0] == 200

        def is_logged() -> bool:
            assert ask(lambda: dial(http))[0] == 500
            return ACCESS in server.log

        server.wait_for(is_logged, "the access log")


def test_application_that_configures_logging_and_fails_to_load(folder: Folder, http: socket.socket) -> None:
    source = CONFIGURATIONS["dictConfig"] + "raise ValueError('a slip')\n"
    with Server(folder(source), *CONF, "--workers", "1", "app:app", listeners={"http": http}) as server:
        server.wait_until_gone()
        assert "Traceback (most recent call last)" in server.log


STREAMS = {
    "closed": "sys.stdout.close(); sys.stderr.close()",
    "descriptors closed": "os.close(1); os.close(2)",
    "descriptors of something else": "os.close(1); os.close(2); files = [open('other', 'a') for _ in range(2)]",
    "replaced": "sys.stdout = sys.stderr = open('other', 'a')",
    "none": "sys.stdout = sys.stderr = None",
}
WRITES = """
import os, sys
from flask import Flask, request
app = Flask(__name__)
{}

@app.get("/")
def fails():
    request.environ["wsgi.errors"].write("to wsgi.errors\\n")
    raise RuntimeError("a slip")
"""


@pytest.mark.parametrize("spoils", STREAMS.values(), ids=STREAMS)
def test_application_that_closes_streams(folder: Folder, http: socket.socket, spoils: str) -> None:
    arguments = (*CONF, "--access-logfile", "-", "--workers", "1", "app:app")
    with Server(folder(WRITES.format(spoils)), *arguments, listeners={"http": http}) as server:
        server.wait_until_ready()
        for _ in range(2):
            assert ask(lambda: dial(http))[0] == 500
        server.process.terminate()
        assert server.wait_until_gone() == 0
        once(server, "Drained: no connection is left")
        assert server.log.count(ACCESS) == 2
        other = folder(WRITES).joinpath("other")
        assert not other.exists() or ACCESS not in other.read_text()


PRINTS = """
import sys
from flask import Flask
app = Flask(__name__)

@app.get("/")
def prints():
    print("to stdout", flush=True)
    return "no", 500

@app.get("/close")
def close():
    sys.stdout.close()
    sys.stderr.close()
    return "x"
"""


@pytest.mark.parametrize("closes", [False, True])
def test_captured_output(folder: Folder, http: socket.socket, closes: bool) -> None:
    """All output goes to the file, and after a rotation to the new file."""
    place = folder(PRINTS)
    log = place / "error.log"
    arguments = (*CONF, "--capture-output", "--error-logfile", str(log), "--access-logfile", "-", "--workers", "1")
    with Server(place, *arguments, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http))[0] == 500
        server.wait_for(lambda: ACCESS in log.read_text(), "the access log")
        assert "to stdout\n" in log.read_text()
        if closes:
            assert ask(lambda: dial(http), "/close")[0] == 200
        log.rename(place / "error.log.1")
        server.signal(signal.SIGUSR1)

        def is_reopened() -> bool:
            ask(lambda: dial(http))
            return log.exists() and ACCESS in log.read_text()

        server.wait_for(is_reopened, "the new file")
        before = (place / "error.log.1").read_text()
        assert ask(lambda: dial(http))[0] == 500
        assert (place / "error.log.1").read_text() == before
        assert "to stdout\n" in log.read_text()
        server.process.terminate()
        assert server.wait_until_gone() == 0
        assert "Drained: no connection is left" in log.read_text()


def test_reload_leaks_no_descriptors(folder: Folder, http: socket.socket) -> None:
    arguments = (*CONF, "--access-logfile", "-", "--workers", "1", "app:app")
    with Server(folder(FAILS), *arguments, listeners={"http": http}) as server:
        server.wait_for_message("BARRIER=1")  # the master has a pipe for each boot, until it has read its result
        descriptors = Path(f"/proc/{server.process.pid}/fd")

        before = len(list(descriptors.iterdir()))
        for reloads in (1, 2, 3):
            server.signal(signal.SIGHUP)
            server.wait_until_ready()
            server.wait_for(lambda gone=reloads: server.log.count("Worker exiting") == gone, "the old worker to exit")  # type: ignore[misc]
            # The master closes a worker's descriptors when it has reaped it.
            server.wait_for(lambda: len(list(descriptors.iterdir())) <= before, f"{before} descriptors")
