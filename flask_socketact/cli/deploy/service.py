"""The service to deploy: its state in systemd, its counters, and requests to it."""

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

from flask_socketact import env
from flask_socketact.addresses import host_and_port, is_unix, unix_path
from flask_socketact.cli import unit_journal
from flask_socketact.cli.unit_journal import MAX_QUOTE, last_error
from flask_socketact.errors import CommandError, NotBegunError
from flask_socketact.handover import protocol
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import DEPLOY_AGENT
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import Manager, as_typed, call, complaint, runtime_folders
from flask_socketact.systemd.unit import Unit
from flask_socketact.text import cut

#: Verbs of systemctl.
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
#: Timeout of a request, in seconds.
REQUEST_TIMEOUT = 5.0
_NOT_FOUND = 404
_FAILED = 500


@dataclass(frozen=True)
class Response:
    """The result of a request. The status is None if there was no response."""

    status: int | None
    text: str  #: path, address and result

    @property
    def is_good(self) -> bool:
        return self.status is not None and self.status < _FAILED

    @property
    def is_missing(self) -> bool:
        return self.status == _NOT_FOUND


@dataclass(frozen=True)
class Counts:
    """Requests of a generation."""

    requests: int = 0
    errors: int = 0  #: with a 5xx response

    @property
    def rate(self) -> float:
        """Share of requests with a 5xx response."""
        return self.errors / self.requests if self.requests else 0.0

    def without(self, others: Counts) -> Counts:
        """Return these requests without others."""
        return Counts(max(0, self.requests - others.requests), max(0, self.errors - others.errors))


class Service:
    """One service. Each property asks systemd for its current value."""

    def __init__(self, name: str, manager: Manager) -> None:
        """Check that the service can be deployed.

        :raises NotBegunError: it is masked, cannot be loaded, or does not run gunicorn.
        :raises ManagerError: there is no such service, or the manager does not respond.
        """
        self.name = f"{name}.service"
        self.own_requests = Counts()  #: sent by this deploy
        self.manager = manager
        unit = self._show()
        self._check(unit)
        found = [manager.show(other, "Listen", "FileDescriptorName") for other in unit.names("TriggeredBy")]
        self.sockets = [other for other in found if other.listens("Stream")]
        self.addresses = [address for unit in self.sockets for address in unit.listens("Stream")]

    def _check(self, unit: Unit) -> None:
        state = unit["LoadState"]
        if state == "masked":
            raise NotBegunError(f"{self.name} is masked: run {self.systemctl} unmask {self.name}, then deploy again")
        if state != "loaded":
            raise NotBegunError(f"{self.name} is not loaded ({state}): see {self.systemctl} status {self.name}")
        if not _is_ours(unit) and self._scoreboard(unit) is None:
            raise NotBegunError(
                f"{self.name} does not run gunicorn in its ExecStart=, and was not changed: "
                "deploy a service that flask-socketact units made, or one like it"
            )

    def _show(self) -> Unit:
        return self.manager.find(self.name, *_PROPERTIES)

    @property
    def main_pid(self) -> int:
        return int(self._show()["MainPID"] or 0)

    @property
    def is_active(self) -> bool:
        return self._show().is_active

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped, as by ``systemctl stop``, and systemd does not start it again."""
        unit = self._show()
        return (unit["ActiveState"], unit["Result"]) == ("inactive", "success") and unit["ConditionResult"] != "no"

    @property
    def is_stopping(self) -> bool:
        """Whether it stops, and has had no error so far."""
        unit = self._show()
        return (unit["ActiveState"], unit["Result"]) == ("deactivating", "success")

    @property
    def overlaps(self) -> bool:
        """Whether old and new workers may run at the same time."""
        return self._show().overlaps

    @property
    def exits_when_idle(self) -> bool:
        return env.IDLE_EXIT in self._show().environment

    @property
    def systemctl(self) -> str:
        """The command that reaches its manager, as the administrator types it."""
        return as_typed(user=self.manager.user)

    @property
    def journalctl(self) -> str:
        """The command that shows its journal, as the administrator types it."""
        return unit_journal.as_typed(self.name, user=self.manager.user)

    @property
    def is_served(self) -> bool:
        """Whether workers serve: those of the service, or old ones from before a failed restart."""
        unit = self._show()
        return unit.is_active or any(protocol.scopes(unit.control_group))

    @property
    def directory(self) -> Path:
        return Path(self._show().directory or "/")

    def run(self, verb: str, seconds: float) -> None:
        """Restart or reload the service, and wait until that is done.

        :raises CommandError: it failed, or takes longer than `seconds`.
        :raises ManagerError: there is no systemctl.
        """
        began = int(time.time())
        try:
            done = call("systemctl", self.manager.option, verb, "--", self.name, seconds=seconds)
        except subprocess.TimeoutExpired:
            raise CommandError(f"systemctl {verb} did not finish within {seconds:.0f} s{self._status()}") from None
        if done.returncode != 0:
            said = complaint(done).removesuffix(".").removesuffix(".")  # systemd 252 writes two
            why = last_error(self.name, began, user=self.manager.user)
            raise CommandError(f"systemctl {verb}: {said}{f': {why}' if why else self._status()}")

    def _status(self) -> str:
        """Return ``STATUS=`` of the service, to end a sentence with."""
        text = self._show()["StatusText"]
        return f": {cut(text, MAX_QUOTE)}" if text else ""

    def counts(self) -> Counts:
        """Return the requests of the newest generation; none if its scoreboard is not readable."""
        board = self._scoreboard(self._show())
        return Counts(*board.counts()) if board else Counts()

    @property
    def is_counted(self) -> bool:
        """Whether the counts of its requests can be read."""
        return self._scoreboard(self._show()) is not None

    def _scoreboard(self, unit: Unit) -> Scoreboard | None:
        try:
            return scoreboard.find(runtime_folders(unit, self.manager), int(unit["MainPID"] or 0))
        except PermissionError:
            return None

    def request(self, path: str, addresses: Sequence[str] = ()) -> Response:
        """Request a page at all listeners, or at `addresses`; return the first response that is not 404."""
        responses = [_request(address, path) for address in addresses or self.addresses]
        received = [response for response in responses if response.status is not None]
        failed = [response for response in received if not response.is_good]
        self.own_requests = Counts(self.own_requests.requests + len(received), self.own_requests.errors + len(failed))
        found = [response for response in responses if not response.is_missing]
        return (found or responses or [Response(None, "the service has no listener")])[0]


def _is_ours(unit: Unit) -> bool:
    """Return whether a unit starts gunicorn, or has a relay, as for a script that starts gunicorn."""
    if unit_names.alongside(unit.name.removesuffix(".service"), "relay.service") in unit.names("Wants"):
        return True
    words = " ".join(unit.lines("ExecStart")).split()
    return any(Path(word).name.startswith("gunicorn") or "flask_socketact" in word for word in words)


def _request(address: str, path: str) -> Response:
    """Send a request on a new connection, first without TLS, then with TLS."""
    began = time.monotonic()
    response = _request_by(_connect, address, path)
    if response.status is not None or time.monotonic() - began > REQUEST_TIMEOUT / 2:
        return response
    encrypted = _request_by(_connect_encrypted, address, path)
    return response if encrypted.status is None else encrypted


def _request_by(connect: Callable[[str], socket.socket], address: str, path: str) -> Response:
    connection = http.client.HTTPConnection("localhost", timeout=REQUEST_TIMEOUT)
    watch = None
    try:
        connection.sock = connect(address)
        # A server that sends "100 Continue" forever would not trigger the timeout of a read.
        watch = threading.Timer(REQUEST_TIMEOUT, connection.sock.shutdown, (socket.SHUT_RDWR,))
        watch.start()
        connection.request("GET", path, headers={"User-Agent": DEPLOY_AGENT, "Connection": "close"})
        response = connection.getresponse()  # the body is not read: it may be endless
    except (OSError, http.client.HTTPException) as error:
        return Response(None, f"{path} at {address}: {cut(str(error), MAX_QUOTE) or type(error).__name__}")
    finally:
        if watch is not None:
            watch.cancel()
        connection.close()
    return Response(response.status, f"{path} at {address}: {response.status} {cut(response.reason, MAX_QUOTE)}")


def _connect_encrypted(address: str) -> socket.socket:
    """Connect with TLS. The certificate is not verified: the address belongs to the service."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(_connect(address))


def _connect(address: str) -> socket.socket:
    if is_unix(address):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(REQUEST_TIMEOUT)
        client.connect(unix_path(address))
        return client
    host, port = host_and_port(address)
    # A listener at all addresses is reached by the loopback address.
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return socket.create_connection((own, int(port)), timeout=REQUEST_TIMEOUT)
