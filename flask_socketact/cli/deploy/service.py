"""The service that is deployed, as systemd and the kernel have it."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flask_socketact.addresses import host_and_port, is_unix, unix_path
from flask_socketact.cli.unit_journal import MAX_QUOTE, last_error
from flask_socketact.errors import CommandError, NotBegunError
from flask_socketact.handover import protocol
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Field, Scoreboard
from flask_socketact.systemd.manager import Manager, Unit, as_typed, call, complaint, runtime_folders
from flask_socketact.text import cut

#: Of systemctl.
RESTART, RELOAD = "restart", "reload"

_PROPERTIES = (
    "ActiveState",
    "ConditionResult",
    "ControlGroup",
    "Environment",
    "ExecStart",
    "MainPID",
    "Result",
    "RuntimeDirectory",
    "StatusText",
    "TriggeredBy",
    "Wants",
    "WorkingDirectory",
)
#: An answer to a look that has not come by then does not come. Seconds.
LOOK_TIMEOUT = 5.0
_NOT_FOUND = 404
_FAILED = 500


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

    def without(self, others: Counts) -> Counts:
        """Return what is left when some of these are not to count."""
        return Counts(max(0, self.requests - others.requests), max(0, self.errors - others.errors))


class Service:
    """One service, looked at anew whenever something is asked of it."""

    def __init__(self, name: str, manager: Manager) -> None:
        """Look at the service.

        :raises NotBegunError: it is masked, cannot be loaded, or does not run gunicorn.
        :raises ManagerError: there is no such service, or no manager that answers.
        """
        self.name = f"{name}.service"
        self.asked = Counts()  #: by us
        self._manager = manager
        unit = self._show()
        self._check(unit)
        self.addresses = [
            address
            for socket_unit in unit["TriggeredBy"].split()
            for address in manager.show(socket_unit, "Listen").listens("Stream")
        ]

    def _check(self, unit: Unit) -> None:
        state = unit["LoadState"]
        if state == "masked":
            raise NotBegunError(f"{self.name} is masked: {self.systemctl} unmask {self.name}, and deploy then")
        if state != "loaded":
            raise NotBegunError(f"{self.name} is not loaded ({state}): {self.systemctl} status {self.name} tells why")
        if not _is_ours(unit) and self._scoreboard(unit) is None:
            raise NotBegunError(
                f"{self.name} does not run gunicorn, as its ExecStart= has it, and is left alone: "
                "deploy a service that flask-socketact units has made, or one like it"
            )

    def _show(self) -> Unit:
        return self._manager.find(self.name, *_PROPERTIES)

    @property
    def main_pid(self) -> int:
        return int(self._show()["MainPID"] or 0)

    @property
    def is_active(self) -> bool:
        return self._show().is_active

    @property
    def is_stopped(self) -> bool:
        """Whether it has ended without an error, as by ``systemctl stop``, and systemd does not start it again."""
        unit = self._show()
        return (unit["ActiveState"], unit["Result"]) == ("inactive", "success") and unit["ConditionResult"] != "no"

    @property
    def is_stopping(self) -> bool:
        """Whether it ends, and has had no error until now."""
        unit = self._show()
        return (unit["ActiveState"], unit["Result"]) == ("deactivating", "success")

    @property
    def overlaps(self) -> bool:
        """Whether old and new workers may live at the same time."""
        return self._show().overlaps

    @property
    def systemctl(self) -> str:
        """The command that reaches its manager, as a person types it."""
        return as_typed(user=self._manager.user)

    @property
    def is_served(self) -> bool:
        """Whether workers answer: the service's, or old ones, from before a restart that has failed."""
        unit = self._show()
        return unit.is_active or any(protocol.scopes(unit.control_group))

    @property
    def directory(self) -> Path:
        return Path(self._show().directory or "/")

    def run(self, verb: str, seconds: float) -> None:
        """Restart or reload it, and wait until that is done.

        :raises CommandError: it has failed, or takes longer.
        :raises ManagerError: there is no systemctl.
        """
        began = int(time.time())
        try:
            done = call("systemctl", self._manager.option, verb, "--", self.name, seconds=seconds)
        except subprocess.TimeoutExpired:
            raise CommandError(f"systemctl {verb} has not ended within {seconds:.0f} s{self._status()}") from None
        if done.returncode != 0:
            said = complaint(done).removesuffix(".").removesuffix(".")  # systemd 252 has two
            why = last_error(self.name, began, user=self._manager.user)
            raise CommandError(f"systemctl {verb}: {said}{f': {why}' if why else self._status()}")

    def _status(self) -> str:
        """Return what the service says of itself, to end a sentence with."""
        text = self._show()["StatusText"]
        return f": {cut(text, MAX_QUOTE)}" if text else ""

    def counts(self) -> Counts:
        """Return what the newest generation has answered, as far as its scoreboard can be read."""
        board = self._scoreboard(self._show())
        newest = board.newest() if board else []
        return Counts(sum(slot[Field.REQUESTS] for slot in newest), sum(slot[Field.ERRORS] for slot in newest))

    def _scoreboard(self, unit: Unit) -> Scoreboard | None:
        try:
            return scoreboard.find(runtime_folders(unit, self._manager), int(unit["MainPID"] or 0))
        except PermissionError:
            return None

    def ask(self, path: str, addresses: Sequence[str] = ()) -> Answer:
        """Ask for a page at each of its listeners, or of those given; return the first answer that is not 404."""
        answers = [_ask(address, path) for address in addresses or self.addresses]
        given = [answer for answer in answers if answer.status is not None]
        failed = [answer for answer in given if not answer.is_good]
        self.asked = Counts(self.asked.requests + len(given), self.asked.errors + len(failed))
        found = [answer for answer in answers if not answer.is_missing]
        return (found or answers or [Answer(None, "it has no listener")])[0]


def _is_ours(unit: Unit) -> bool:
    """Whether a unit starts gunicorn, or has a relay as a script that starts gunicorn would have."""
    if f"{unit.name.removesuffix('.service')}-relay.service" in unit["Wants"].split():
        return True
    words = " ".join(unit.lines("ExecStart")).split()
    return any(Path(word).name.startswith("gunicorn") or "flask_socketact" in word for word in words)


def _ask(address: str, path: str) -> Answer:
    """Send one request on a connection of its own; by TLS to who does not understand HTTP."""
    began = time.monotonic()
    answer = _ask_by(_connect, address, path)
    if answer.status is not None or time.monotonic() - began > LOOK_TIMEOUT / 2:
        return answer
    encrypted = _ask_by(_connect_encrypted, address, path)
    return answer if encrypted.status is None else encrypted


def _ask_by(connect: Callable[[str], socket.socket], address: str, path: str) -> Answer:
    connection = http.client.HTTPConnection("localhost", timeout=LOOK_TIMEOUT)
    watch = None
    try:
        connection.sock = connect(address)
        # One that sends "100 Continue" without end never makes a read wait.
        watch = threading.Timer(LOOK_TIMEOUT, connection.sock.shutdown, (socket.SHUT_RDWR,))
        watch.start()
        connection.request("GET", path, headers={"User-Agent": "flask-socketact-deploy", "Connection": "close"})
        answer = connection.getresponse()  # its head tells; the rest may be without an end
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, f"{path} at {address}: {cut(str(error), MAX_QUOTE) or type(error).__name__}")
    finally:
        if watch is not None:
            watch.cancel()
        connection.close()
    return Answer(answer.status, f"{path} at {address}: {answer.status} {cut(answer.reason, MAX_QUOTE)}")


def _connect_encrypted(address: str) -> socket.socket:
    """Connect by TLS; whose certificate it is does not matter, as the address is this service's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(_connect(address))


def _connect(address: str) -> socket.socket:
    if is_unix(address):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(LOOK_TIMEOUT)
        client.connect(unix_path(address))
        return client
    host, port = host_and_port(address)
    # A listener at all addresses is asked at this machine's own.
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return socket.create_connection((own, int(port)), timeout=LOOK_TIMEOUT)
