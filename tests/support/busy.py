"""A service whose clients never pause, on a machine with systemd: wrk, and what becomes of old generations."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.machine import Machine, drop_in, release

#: Views of ten milliseconds, and two that work on when their last byte has been sent.
APP = """
import time

from flask import Flask, Response, request

app = Flask(__name__)


@app.get("/")
def index():
    return "x"


@app.get("/sleep")
def sleep():
    time.sleep(float(request.args["s"]))
    return "x"


@app.get("/on-close")
def on_close():
    response = Response("0123456789")
    response.call_on_close(lambda: time.sleep(0.3))
    return response


@app.get("/tail")
def tail():
    def pieces():
        yield b"0123456789"
        time.sleep(0.3)

    return Response(pieces(), headers={"Content-Length": "10"})
"""
#: How long an old worker is looked for, in seconds: longer than the drain time of these services.
DEADLINE = 20.0
DRAIN_TIME = 10


@dataclass
class Busy:
    """What wrk saw, and how long workers stayed when they were to go."""

    requests: int = 0
    lost: str = ""  #: wrk's account of errors
    stays: list[float] = field(default_factory=list)  #: seconds, from the end of an operation until the last had left


def configure(machine: Machine, arguments: str = "") -> None:
    """Let the service run the application, with gunicorn's `arguments`."""
    release(machine, APP)
    line = f"--graceful-timeout {DRAIN_TIME} {arguments}"
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={line}"\n')
    machine.systemctl("restart", "app")


@contextmanager
def wrk(machine: Machine, seconds: float, connections: int, path: str, port: int = 8000) -> Iterator[Busy]:
    """Let so many connections ask without a pause, at least for so long; the account is complete at the end."""
    busy = Busy()
    target = f"http://127.0.0.1:{port}{path}"
    command = (
        "wrk",
        "--threads=1",
        f"--connections={connections}",
        f"--duration={seconds:g}s",
        "--timeout=30s",
        target,
    )
    process = machine.start(*command)
    try:
        time.sleep(1)  # all connections are in use
        yield busy
        output, errors = process.communicate(timeout=seconds + 60)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output + errors
    busy.requests = int(found[1])
    busy.lost = "; ".join(re.findall(r"Socket errors:.*|Non-2xx.*", output))


def operate(machine: Machine, verb: str, busy: Busy) -> None:
    """Run an operation, and note how long the workers from before it stay when it has returned."""
    before = set(machine.workers("app"))
    machine.systemctl(verb, "app")
    began = time.monotonic()
    machine.wait_for(lambda: not before.intersection(machine.workers("app")), "the old workers to leave", DEADLINE)
    busy.stays.append(time.monotonic() - began)
