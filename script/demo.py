"""Rehearse restarts of plain gunicorn and of flask_socketact, in a machine with a real systemd. Run by script/demo."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.support.machine import Machine, MachineError, drop_in, install, install_plain, interrupt_on_terminate

REPORT = Path(__file__).parent.parent / "demo.html"
#: Enough threads that clients wait for a restart only, never for a thread.
THREADS = 8
LOAD = ("--every", "3", "--idle-think", "4", "--long-path", "/sleep/3.0", "--upload-path", "/upload")
CANNOT_BOOT = 3  #: exit status


def main() -> int:
    interrupt_on_terminate()
    print(
        "demo: booting a systemd in a container; its files, as the reports in /root, are removed afterwards", flush=True
    )
    with ExitStack() as stack:
        try:
            machine = stack.enter_context(Machine())
        except MachineError as error:
            print(f"demo: {error}", file=sys.stderr)
            return CANNOT_BOOT
        return demonstrate(machine)


def demonstrate(machine: Machine) -> int:
    """Rehearse restarts of both services in turn; return the exit status for flask_socketact."""
    install(machine, "app")
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS=--threads {THREADS}"\n')
    install_plain(machine, THREADS)
    machine.systemctl("start", "app", "plain")
    run(machine, "status", "app")
    print("\ndemo: plain gunicorn, for comparison", flush=True)
    run(
        machine,
        "rehearse",
        *LOAD,
        "--url=http://127.0.0.1:8001/",
        "--title=plain gunicorn",
        "--report=/root/plain.html",
    )
    print("\ndemo: flask_socketact", flush=True)
    inside = machine.path(str(REPORT))  # the same path, as it is printed
    inside.parent.mkdir(parents=True, exist_ok=True)
    report = ("--title=flask_socketact", f"--report={REPORT}", "--compare=/root/plain.html")
    status = run(machine, "rehearse", *LOAD, *report)
    shutil.copyfile(inside, REPORT)
    print(f"\ndemo: open {REPORT} in a browser to see every request of both services")
    return status


def run(machine: Machine, *arguments: str) -> int:
    """Run the command flask-socketact in the machine, with its output on this terminal."""
    with machine.start("/srv/app/venv/bin/flask-socketact", *arguments, output=None) as process:
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
