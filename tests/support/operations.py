"""Operations on the machine's service, and what they are measured by."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.http import Connect, ask
from tests.support.machine import EXAMPLES, Machine, release
from tests.support.server import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


BROKEN = "raise RuntimeError('no database')\n"


#: Does not load while /var/lib/app/hold is there.
LOADS_WHEN_TOLD = """
import os, time
while os.path.exists("/var/lib/app/hold"):
    time.sleep(0.02)
"""


def in_flight(connect: Connect, seconds: float) -> socket.socket:
    """Begin a request that takes so long, and see it accepted."""
    client = connect()
    client.sendall(f"GET /sleep/{seconds} HTTP/1.1\r\nHost: app\r\n\r\n".encode())
    assert ask(connect)[0] == 200
    return client


def begin_upload(connect: Connect) -> socket.socket:
    """Begin a request that takes until `end_upload`."""
    client = connect()
    client.sendall(b"POST /upload HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\n\r\na")
    assert ask(connect)[0] == 200
    return client


def end_upload(client: socket.socket) -> bytes:
    client.sendall(b"b")
    return answer(client)


def answer(client: socket.socket) -> bytes:
    with client:
        return client.recv(65536)


def wait_for_old(machine: Machine, name: str = "app") -> None:
    """Wait until no worker of an earlier generation is left."""
    machine.wait_for(lambda: not machine.scopes(name), "the old workers to leave")


def held_release(machine: Machine, hold: Path) -> None:
    """Start a generation of the example, and put a release in place that loads when it may."""
    machine.systemctl("start", "app")
    hold.touch()
    example = machine.path("/srv/app/app.py").read_text()
    future = "from __future__ import annotations\n"
    release(machine, future + LOADS_WHEN_TOLD + example.replace(future, ""))


@contextmanager
def restarting(machine: Machine, hold: Path) -> Iterator[subprocess.Popen[str]]:
    """A restart of the service that ends only after the block."""
    with machine.start("systemctl", "restart", "app") as restart:
        machine.wait_for(lambda: "Loading" in machine.show("app", "StatusText"), "the next generation to load")
        try:
            yield restart
        finally:  # the restart ends, and with it a test that has failed
            hold.unlink()
        assert restart.wait(DEADLINE) == 0


#: What a request may wait, reloads or not, on a machine that other tests use as well. Less than `SLOW` takes to load.
LONGEST_WAIT = 1.0
SHORT = ("new connection", "keep-alive", "keep-alive, mostly idle")
CLIENTS = {"new connection": 6, "keep-alive": 6, "keep-alive, mostly idle": 4, "long request": 2, "slow upload": 2}
SLOW = (EXAMPLES / "app.py").read_text().replace("app = Flask", "time.sleep(1.5)\napp = Flask")
WATCHDOG = 6.0  #: seconds


def kill(machine: Machine, number: signal.Signals, *inside: int) -> None:
    machine.run("kill", f"-{number.name.removeprefix('SIG')}", *map(str, inside))


def wait_until_restarted(machine: Machine) -> float:
    """Return after how many seconds the service is up again."""
    began = time.monotonic()
    machine.wait_for(lambda: machine.show("app", "NRestarts") == "1", "a restart", 3 * WATCHDOG)
    machine.wait_for(lambda: machine.show("app", "ActiveState") == "active", "the service to be up", 3 * WATCHDOG)
    return time.monotonic() - began
