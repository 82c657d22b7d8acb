"""The real logrotate, with the example configuration, under load."""

from __future__ import annotations

import gzip
import re
import shutil
import threading
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

import pytest

from flask_socketact.errors import RequestError
from tests.support.http import Connect, ask
from tests.support.machine import EXAMPLES, Machine, drop_in, install_debs, release
from tests.support.operations import BROKEN

if TYPE_CHECKING:
    from collections.abc import Callable

LOGS = "/var/log/app"
ROTATIONS = 3
CLIENTS = 6
REOPENED = 1.5  #: seconds
#: gunicorn's access log format, with the number of a request in its query.
LINE = re.compile(r'127\.0\.0\.1 - - \[[^]]+\] "GET /\?n=([\d.]+) HTTP/1\.1" 200 \d+ "-" "-"')
PROGRAM = """
import subprocess
@app.get("/program")
def program():
    subprocess.run(["sleep", "2"], check=True)
    return "done"
"""


@pytest.fixture
def logged(machine: Machine, request: pytest.FixtureRequest) -> Machine:
    """The example configuration, installed as its comments say."""
    install_debs(machine, "/usr/sbin/logrotate")
    machine.run("sh", "-c", f"rm -rf {LOGS} /var/lib/logrotate/status")
    shutil.copy(EXAMPLES / "logrotate/app", machine.path("/etc/logrotate.d/app"))
    machine.run("chmod", "644", "/etc/logrotate.d/app")
    worker = getattr(request, "param", "thread.ThreadWorker")
    options = f"--access-logfile {LOGS}/access.log --error-logfile {LOGS}/error.log -k flask_socketact.workers.{worker}"
    drop_in(machine, "app.service", f'[Service]\nLogsDirectory=app\nEnvironment="GUNICORN_CMD_ARGS={options}"\n')
    return machine


def rotate(machine: Machine) -> None:
    done = machine.run("logrotate", "--force", "/etc/logrotate.d/app")
    assert done.stderr == ""


def lines(machine: Machine) -> list[str]:
    """Return the lines of all access logs, including rotated ones."""
    found: list[str] = []
    for path in machine.path(LOGS).glob("access.log*"):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert not text or text.endswith(b"\n")
        found += text.decode().splitlines()
    return found


class Numbered:
    """Clients whose requests are numbered, and the numbers that got a response."""

    def __init__(self, connect: Connect) -> None:
        self.answered: list[str] = []
        self.failures: list[str] = []
        self._connect = connect
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(client,)) for client in range(CLIENTS)]

    def __enter__(self) -> Numbered:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int) -> None:
        for number in count():
            if self._done.wait(0.005):
                return
            name = f"{client}.{number}"
            try:
                status, _ = ask(self._connect, f"/?n={name}")
                (self.answered if status == 200 else self.failures).append(name)
            except RequestError as error:
                self.failures.append(str(error))


@pytest.mark.parametrize("logged", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"], indirect=True)
def test_a_rotation_loses_and_cuts_no_line(logged: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    """After a restart and after a reload, while old workers still have long requests."""
    logged.systemctl("start", "app")
    with Numbered(tcp) as clients, tcp() as long:
        for number in range(ROTATIONS):
            # The next rotation compresses the file that workers have had a second to leave.
            seen, later = len(clients.answered), time.monotonic() + REOPENED
            logged.wait_for(
                lambda seen=seen, later=later: len(clients.answered) > seen + 100 and time.monotonic() > later,  # type: ignore[misc]
                "answers",
            )
            if number == 1:
                long.sendall(b"GET /sleep/3.0 HTTP/1.1\r\nHost: app\r\n\r\n")
            if number in (2, 4):
                logged.systemctl("restart" if number == 2 else "reload", "app")
            rotate(logged)
        assert b"200 OK" in long.recv(65536)
    logged.systemctl("stop", "app")
    assert not clients.failures
    logs = [line for line in lines(logged) if "/sleep/" not in line and "/readyz" not in line]
    matches = [LINE.fullmatch(line) for line in logs]
    assert [line for line, match in zip(logs, matches, strict=True) if match is None] == []
    numbers = Counter(match[1] for match in matches if match)
    assert numbers == Counter(clients.answered)
    figure(f"{ROTATIONS} rotations, {len(logs)} lines, each of an answer, {len(clients.failures)} failed requests")


def test_old_workers_without_a_master_reopen_their_log_files(logged: Machine, tcp: Connect) -> None:
    """The release on disk does not boot; the old workers serve in a scope."""
    logged.systemctl("start", "app")
    release(logged, BROKEN)
    logged.systemctl("restart", "app", check=False)
    assert ask(tcp, "/?n=before")[0] == 200
    logged.wait_for(lambda: any("before" in line for line in lines(logged)), "a line in the old log")
    rotate(logged)

    def is_reopened() -> bool:
        ask(tcp, "/?n=after")
        return "after" in logged.path(f"{LOGS}/access.log").read_text()

    logged.wait_for(is_reopened, "a line in the new log")


def test_a_child_process_of_a_request_survives(logged: Machine, tcp: Connect) -> None:
    """SIGUSR1 ends a process without a handler."""
    source = logged.path("/srv/app/app.py").read_text()
    program = (
        "import subprocess\n@app.get('/program')\ndef program():\n    subprocess.run(['sleep', '2'], check=True)\n"
    )
    release(logged, f"{source}\n{program}    return 'done'\n")
    logged.systemctl("start", "app")
    with tcp() as client:
        client.sendall(b"GET /program HTTP/1.1\r\nHost: app\r\n\r\n")
        logged.wait_for(lambda: logged.run("pgrep", "-x", "sleep", check=False).returncode == 0, "the program to run")
        logged.systemctl("restart", "app")  # so that it is in a scope
        rotate(logged)
        logged.systemctl("kill", "--kill-whom=main", "--signal=USR1", "app")
        assert b"200 OK" in client.recv(65536)


def test_scopes_that_end_meanwhile_are_no_error(logged: Machine) -> None:
    logged.systemctl("start", "app")
    command = "systemd-run --quiet --collect --scope --slice=system.slice --unit=app-drain-1-$n sleep 0.0$((n % 10))"
    logged.run("sh", "-c", f"(for n in $(seq 200); do {command}; done; touch /run/done) >/dev/null 2>&1 &")
    rotations = 0
    while not logged.path("/run/done").exists():
        rotate(logged)
        rotations += 1
    assert rotations > 5


def test_a_stopped_service_stays_stopped(logged: Machine) -> None:
    logged.systemctl("start", "app")
    logged.systemctl("stop", "app")
    rotate(logged)
    assert logged.show("app", "ActiveState") == "inactive"


def test_a_failed_rotation_is_reported(logged: Machine) -> None:
    """In the exit status of logrotate, and on stderr."""
    release(logged, "def app(environ, start_response):\n    start_response('503 No', [])\n    return []\n")
    logged.systemctl("start", "app")
    done = logged.run("logrotate", "--force", "/etc/logrotate.d/app", check=False)
    assert done.returncode != 0
    assert "503" in done.stderr
