"""The service that is deployed, as systemd and the kernel have it."""

from __future__ import annotations

import http.client
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flask_socketact import cgroup, scoreboard
from flask_socketact.errors import SocketActError, printable
from flask_socketact.scoreboard import Field
from flask_socketact.systemctl import Manager, Unit, runtime_folders

_PROPERTIES = (
    "ActiveState",
    "MainPID",
    "Result",
    "StatusText",
    "TriggeredBy",
    "WorkingDirectory",
    "RuntimeDirectory",
    "ControlGroup",
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
        return self._show()["ActiveState"] in ("active", "reloading")

    @property
    def directory(self) -> Path:
        """``WorkingDirectory=``, which systemctl prints with ``!`` if it may be missing."""
        return Path(self._show()["WorkingDirectory"].removeprefix("!") or "/")

    def command(self, verb: str) -> subprocess.Popen[str]:
        """Begin to restart or reload it."""
        words = ("systemctl", self._manager.option, verb, "--", self.name)
        return subprocess.Popen(  # noqa: S603 (words, not a shell's line)
            words,
            env=self._manager.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def run(self, verb: str, seconds: float) -> None:
        """Restart or reload it, and wait until that is done.

        :raises CommandError: it has failed, or takes longer.
        """
        process = self.command(verb)
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise CommandError(f"systemctl {verb} has not ended within {seconds:.0f} s") from None
        finally:
            if process.returncode is None:  # the manager goes on with it
                process.kill()
                process.communicate()
        if process.returncode != 0:
            lines = said.strip().splitlines() or [f"exit status {process.returncode}"]
            raise CommandError(f"systemctl {verb}: {lines[0]}")

    def counts(self) -> Counts:
        """Return what the newest generation has answered, as far as its scoreboard can be read."""
        unit = self._show()
        pid = int(unit["MainPID"] or 0)
        for folder in runtime_folders(unit, self._manager) if pid else ():
            try:
                board = scoreboard.read(folder, pid)
            except PermissionError:
                continue
            if board is not None:
                newest = [
                    slot
                    for slot in board.taken()
                    if slot[Field.GENERATION] == board.ready and cgroup.of(slot[Field.PID]) == unit["ControlGroup"]
                ]
                return Counts(sum(slot[Field.REQUESTS] for slot in newest), sum(slot[Field.ERRORS] for slot in newest))
        return Counts()

    def ask(self, path: str, addresses: Sequence[str] = ()) -> Answer:
        """Ask for a page at each of its listeners, or of those given; return the first answer that is not 404."""
        answers = [_ask(address, path) for address in addresses or self.addresses]
        found = [answer for answer in answers if not answer.is_missing]
        return (found or answers or [Answer(None, "it has no listener")])[0]


def _ask(address: str, path: str) -> Answer:
    """Send one request on a connection of its own."""
    connection = http.client.HTTPConnection("localhost", timeout=LOOK_TIMEOUT)
    try:
        connection.sock = _connect(address)
        connection.request("GET", path, headers={"User-Agent": "flask-socketact-deploy", "Connection": "close"})
        answer = connection.getresponse()  # its head tells; the rest may be without an end
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, f"{path} at {address}: {error or type(error).__name__}")
    finally:
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
