"""A machine whose service is a build for tests, set up for a schedule, and looked at afterwards."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from tests.chaos import clock
from tests.chaos.halts import FOLDER
from tests.chaos.operations import RELAY, install_release, source
from tests.chaos.processes import LOADERS, MAILBOX, NAME, PORT, UNIX_SOCKET, Processes
from tests.chaos.schedule import Schedule, Setup
from tests.support.http import ask
from tests.support.machine import EXAMPLES, Machine, drop_in, install

STEPS = Path(__file__).parent / "steps.py"
EXECUTED = "/var/lib/app/executed"
CLASSES = {"thread": "thread.ThreadWorker", "sync": "sync.SyncWorker", "gevent": "gevent.GeventWorker"}
WORKERS, THREADS, DRAIN_TIME = 3, 8, 10
#: The line in the relay, and what it is in a build for tests.
REACHED = "reached() { :; }"
REACHED_FOR_TESTS = (
    'reached() { if mv "/run/chaos/$1" "/run/chaos/$1.$$" 2>/dev/null; then kill -STOP $$; fi; } # a build for tests'
)
#: Until nothing of a schedule is left, in seconds: the drain time, another one before a scope is killed, and a start.
SETTLING = 3 * DRAIN_TIME
QUICK = 1.0
#: /run is in memory, and a fault fills it; so does another one with the journal's file system.
RUN_SIZE, JOURNAL_SIZE = "48M", "64M"
JOURNAL = "/var/log/journal"


def build_for_tests(machine: Machine) -> None:
    """Install the example service as a build for tests, with all steps."""
    install(machine, NAME)
    (steps,) = machine.path("/srv/app/venv/lib").glob("python3*/site-packages/flask_socketact/handover/steps.py")
    steps.write_text(steps.read_text() + STEPS.read_text())
    relay = machine.path(RELAY)
    text = relay.read_text()
    if text.count(f"\n{REACHED}\n") != 1:
        raise RuntimeError(f"no line {REACHED} in the relay")
    relay.write_text(text.replace(REACHED, REACHED_FOR_TESTS))
    for unit in (EXAMPLES / "chaos").glob("*.service"):
        shutil.copy(unit, machine.path("/etc/systemd/system"))
    machine.run("mount", "-o", f"remount,size={RUN_SIZE}", "/run")
    machine.run("journalctl", "--relinquish-var")
    machine.run("mount", "-t", "tmpfs", "-o", f"size={JOURNAL_SIZE}", "journal", JOURNAL)
    machine.run("journalctl", "--flush")
    # The relay is root without capabilities, and workers are another user: both rename files in this folder.
    machine.run("install", "--directory", "--mode=0777", FOLDER, LOADERS)
    clock.install(machine)
    machine.systemctl("daemon-reload")


def prepare(machine: Machine, schedule: Schedule) -> None:
    """Start the service, set up as the schedule says, with nothing left of an earlier one."""
    setup = schedule.setup
    machine.systemctl("stop", f"{NAME}.socket", f"{NAME}.service")
    machine.systemctl("reset-failed")
    arguments = [f"--worker-class flask_socketact.workers.{CLASSES[setup.worker]}", f"--workers {WORKERS}"]
    arguments += [f"--threads {THREADS}", f"--graceful-timeout {DRAIN_TIME}", *(["--preload"] if setup.preload else [])]
    text = f'[Service]\nReadWritePaths={FOLDER} {LOADERS}\nEnvironment="GUNICORN_CMD_ARGS={" ".join(arguments)}"\n'
    has_jumps = any(event.what == "clock" for event in schedule.events)
    clock.set_wrong(clock.file_in(machine), 0)
    drop_in(machine, f"{NAME}.socket", f"[Socket]\n{_listeners(setup)}")
    drop_in(machine, f"{NAME}.service", text + (clock.SETTINGS if has_jumps else ""))
    install_release(machine, source("0", hostile=setup.hostile))
    # A hostile application changes its umask: the file that it writes is there already.
    machine.path(EXECUTED).unlink(missing_ok=True)
    machine.run("install", "--directory", "--owner=app", str(Path(EXECUTED).parent))
    machine.run("install", "--owner=app", "--mode=0600", "/dev/null", EXECUTED)
    for folder in (FOLDER, LOADERS):
        for file in machine.path(folder).iterdir():
            file.unlink()
    machine.systemctl("start", f"{NAME}.socket", f"{NAME}.service")


def _listeners(setup: Setup) -> str:
    """Return what the socket unit has in addition."""
    if setup.unix:
        return f"ListenStream={UNIX_SOCKET}\n"
    if setup.distance:
        return f"ListenStream=\nListenStream=0.0.0.0:{PORT}\nListenSequentialPacket={MAILBOX}\n"
    return ""


def executed(machine: Machine) -> list[tuple[str, int]]:
    """Return what the application has noted: name of the request, and PID."""
    lines = machine.path(EXECUTED).read_text().splitlines()
    return [(name, int(pid)) for name, pid in map(str.split, lines)]


def leftovers(machine: Machine, processes: Processes) -> list[str]:
    """Wait until the service is as after a start, and return what is not."""
    deadline = time.monotonic() + SETTLING
    while found := _odd(machine, processes):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)
    began = time.monotonic()
    status, content = ask(lambda: machine.connect(("127.0.0.1", PORT)), "/c/last")
    seconds = time.monotonic() - began
    return [] if status == 200 and seconds < QUICK else [f"{status} {content!r} after {seconds:.2f} s"]


def _odd(machine: Machine, processes: Processes) -> list[str]:
    """Return what is not as it is some time after a start."""
    state = processes.state()
    found = []
    if state.active != "active":
        found.append(f"the service is {state.active}")
    if machine.show(f"{NAME}.socket", "ActiveState") != "active":
        found.append("the socket unit is not active")
    if scopes := machine.scopes(NAME):
        found.append(f"{', '.join(scopes)}, with processes {state.old}")
    if len(state.workers) != WORKERS:
        found.append(f"{len(state.workers)} workers {state.workers}")
    known = {state.master, *state.loaders, *state.workers, *state.old}
    listed = machine.run("ps", "-o", "pid=", "-u", "app", check=False).stdout.split()
    if strangers := {int(pid) for pid in listed} - known:
        found.append(f"other processes of the user: {strangers}")
    if (messages := _messages(machine)) != 0:
        found.append(f"{messages} messages in the mailbox")
    return found


def _messages(machine: Machine) -> int:
    """Return how many messages wait in the mailbox."""
    shown = machine.run("ss", "--no-header", "--listening", "--unix", "src", MAILBOX).stdout
    numbers = re.findall(r"LISTEN\s+(\d+)\s", shown)
    return int(numbers[0]) if numbers else 0
