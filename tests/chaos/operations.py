"""What an administrator does to the service, and what came of each command."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.evidence import Cause, Expected, Operation
from tests.chaos.windows import Windows
from tests.support.machine import Machine
from tests.support.operations import BROKEN

APP = Path(__file__).parent / "app.py"
HOSTILE_APP = Path(__file__).parents[1] / "support/hostile_app.py"
_FUTURE = "from __future__ import annotations"
RELAY = "/usr/local/lib/flask-socketact/relay"
#: How long a release that does not boot stays, in seconds: systemd tries twice.
OUTAGE = 3.0
#: Exit status of a command that does not end, as timeout(1) has it.
OVERDUE = 124
#: Most characters of a command's output that are kept.
OUTPUT = 2000


def source(number: str, *, hostile: bool) -> str:
    """Return the application as the release of this number, with hostile views or without."""
    text = APP.read_text().replace('RELEASE = "0"', f'RELEASE = "{number}"')
    if not hostile:
        return text
    views = HOSTILE_APP.read_text().replace("from examples.app import app", "").replace(_FUTURE, "")
    return f"{text}\n\n{views}"


def install_release(machine: Machine, text: str) -> None:
    """Rename the application into place: a worker that boots reads one release or the other."""
    following = machine.path("/srv/app/next.py")
    following.write_text(text)
    following.replace(machine.path("/srv/app/app.py"))


class Operations:
    """Runs operations one after the other, and notes each command."""

    def __init__(self, machine: Machine, windows: Windows, *, hostile: bool) -> None:
        """`hostile`: so is the application."""
        self.operations: list[Operation] = []
        self._machine, self._windows, self._hostile = machine, windows, hostile
        self._releases: Iterator[int] = itertools.count(1)
        self._known: dict[str, Callable[[], None]] = {
            "restart": lambda: self._systemctl("restart"),
            "reload": lambda: self._systemctl("reload"),
            "restart-twice": lambda: self._together("restart", "restart"),
            "restart-in-reload": lambda: self._together("reload", "restart"),
            "stop-start": self._stop_start,
            "stop-start-socket": self._stop_start_socket,
            "deploy": self._deploy,
            "deploy-bad": lambda: self._bad("restart"),
            "reload-bad": lambda: self._bad("reload"),
            "daemon-reload": lambda: self._run(Expected.SUCCESS, "systemctl", "daemon-reload"),
            "reopen": lambda: self._run(Expected.SUCCESS, RELAY, "reopen", "app.service"),
        }

    def run(self, name: str) -> None:
        self._known[name]()

    def _run(self, expected: Expected, *command: str, release: str = "") -> None:
        began = time.monotonic()
        try:
            done = self._machine.run(*command, check=False)
            status, text = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as overdue:
            status, text = OVERDUE, f"not done within {overdue.timeout:.0f} s: {self._what_runs()}"
        output = " ".join(text.split())[:OUTPUT]
        self.operations.append(Operation(" ".join(command), began, time.monotonic(), status, expected, release, output))

    def _what_runs(self) -> str:
        """Return systemd's jobs, and what the processes of the service do, for a command that does not end."""
        commands = (("systemctl", "list-jobs", "--no-legend"), ("ps", "-eo", "pid,stat,wchan:20,args"))
        found = [self._machine.run(*command, check=False).stdout.splitlines() for command in commands]
        return "; ".join(found[0] + [line for line in found[1] if "gunicorn" in line or "systemctl" in line])

    def _systemctl(self, verb: str, expected: Expected = Expected.SUCCESS, release: str = "") -> None:
        self._run(expected, "systemctl", verb, "app", release=release)

    def _together(self, first: str, second: str) -> None:
        """Give the second command while the first one runs, which may be canceled."""
        began = time.monotonic()
        with self._machine.start("systemctl", first, "app") as process:
            time.sleep(0.4)
            self._systemctl(second)
            output, errors = process.communicate()
        text = " ".join((output + errors).split())[:OUTPUT]
        command = f"systemctl {first} app"
        self.operations.append(Operation(command, began, time.monotonic(), process.returncode, Expected.ANY, "", text))

    def _stop_start(self) -> None:
        """Clients start the service again, unless we are quicker; a stop may so be canceled by a start."""
        with self._windows.open(Cause.STOP):
            self._systemctl("stop", Expected.ANY)
            self._systemctl("start")
        self._after_stop()

    def _stop_start_socket(self) -> None:
        with self._windows.open(Cause.STOP, Cause.PORT_CLOSED):
            self._run(Expected.SUCCESS, "systemctl", "stop", "app.socket", "app.service")
            self._run(Expected.SUCCESS, "systemctl", "start", "app.socket", "app.service")
        self._after_stop()

    def _after_stop(self) -> None:
        """No old worker serves until the next start: clients wait for that, if a fault has made this one fail."""
        if self.operations[-1].status != 0:
            self._windows.open_until_active(Cause.STOP)

    def _deploy(self) -> None:
        number = str(next(self._releases))
        install_release(self._machine, source(number, hostile=self._hostile))
        self._systemctl("restart", release=number)

    def _bad(self, verb: str) -> None:
        install_release(self._machine, BROKEN)
        try:
            self._systemctl(verb, Expected.FAILURE)
            time.sleep(OUTAGE)
        finally:
            number = str(next(self._releases))
            install_release(self._machine, source(number, hostile=self._hostile))
        self._systemctl("restart", release=number)
