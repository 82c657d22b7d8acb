"""The service that is deployed, as systemd and the kernel have it."""

from __future__ import annotations

import http.client
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flask_socketact import scoreboard
from flask_socketact.errors import SocketActError, printable
from flask_socketact.scoreboard import Field
from flask_socketact.systemctl import Manager, Unit, call, complaint, runtime_folders

_PROPERTIES = (
    "ActiveState",
    "MainPID",
    "TriggeredBy",
    "WorkingDirectory",
    "RuntimeDirectory",
)
#: An answer to a look that has not come by then does not come. Seconds.
LOOK_TIMEOUT = 5.0
_NOT_FOUND = 404
_FAILED = 500


class CommandError(SocketActError):
    """systemctl has not done what it was told; the text is its own."""


@dataclass(frozen=True)
class Answer:
    """What came of asking for a page. The status is None when no answer came."""

    status: int | None
    text: str

    @property
    def is_good(self) -> bool:
        return self.status is not None and self.status < _FAILED

    @property
    def is_missing(self) -> bool:
        return self.status == _NOT_FOUND


@dataclass(frozen=True)
class Counts:
    """What the workers of a generation have answered."""

    requests: int = 0
    errors: int = 0

    @property
    def rate(self) -> float:
        """The part of requests that were answered with 500 or above."""
        return self.errors / self.requests if self.requests else 0.0


class Service:
    """One service, looked at anew whenever something is asked of it."""

    def __init__(self, name: str, manager: Manager) -> None:
        """:raises ManagerError: there is no such service, or no manager that answers."""
        self.name = f"{name}.service"
        self._manager = manager
        self.addresses = [
            address
            for socket_unit in self._show()["TriggeredBy"].split()
            for address in manager.show(socket_unit, "Listen").listens("Stream")
        ]

    def _show(self) -> Unit:
        return self._manager.find(self.name, *_PROPERTIES)

    @property
    def main_pid(self) -> int:
        return int(self._show()["MainPID"] or 0)

    @property
    def is_active(self) -> bool:
        return self._show().is_active

    @property
    def directory(self) -> Path:
        return Path(self._show().directory or "/")

    def run(self, verb: str, seconds: float) -> None:
        """Restart or reload it, and wait until that is done.

        :raises CommandError: it has failed, or takes longer.
        :raises ManagerError: there is no systemctl.
        """
        try:
            done = call("systemctl", self._manager.option, verb, "--", self.name, seconds=seconds)
        except subprocess.TimeoutExpired:
            raise CommandError(f"systemctl {verb} has not ended within {seconds:.0f} s") from None
        if done.returncode != 0:
            raise CommandError(f"systemctl {verb}: {complaint(done)}")

    def counts(self) -> Counts:
        """Return what the newest generation has answered, as far as its scoreboard can be read."""
        unit = self._show()
        try:
            board = scoreboard.find(runtime_folders(unit, self._manager), int(unit["MainPID"] or 0))
        except PermissionError:
            board = None
        newest = board.newest() if board else []
        return Counts(sum(slot[Field.REQUESTS] for slot in newest), sum(slot[Field.ERRORS] for slot in newest))

    def ask(self, path: str, addresses: Sequence[str] = ()) -> Answer:
        """Ask for a page at each of its listeners, or of those given; return the first answer that is not 404."""
        answers = [_ask(address, path) for address in addresses or self.addresses]
        found = [answer for answer in answers if not answer.is_missing]
        return (found or answers or [Answer(None, "it has no listener")])[0]


def _ask(address: str, path: str) -> Answer:
    """Send one request on a connection of its own."""
    connection = http.client.HTTPConnection("localhost", timeout=LOOK_TIMEOUT)
    watch = None
    try:
        connection.sock = _connect(address)
        # One that sends "100 Continue" without end never makes a read wait.
        watch = threading.Timer(LOOK_TIMEOUT, connection.sock.shutdown, (socket.SHUT_RDWR,))
        watch.start()
        connection.request("GET", path, headers={"User-Agent": "flask-socketact-deploy", "Connection": "close"})
        answer = connection.getresponse()  # its head tells; the rest may be without an end
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, f"{path} at {address}: {error or type(error).__name__}")
    finally:
        if watch is not None:
            watch.cancel()
        connection.close()
    return Answer(answer.status, f"{path} at {address}: {answer.status} {printable(answer.reason)}")


def _connect(address: str) -> socket.socket:
    if address.startswith(("/", "@")):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(LOOK_TIMEOUT)
        client.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        return client
    host, _, port = address.rpartition(":")
    # A listener at all addresses is asked at this machine's own.
    own = {"0.0.0.0": "127.0.0.1", "[::]": "::1", "": "::1"}.get(host, host.strip("[]"))  # noqa: S104
    return socket.create_connection((own, int(port)), timeout=LOOK_TIMEOUT)
