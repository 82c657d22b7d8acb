"""The main job, to watch: restarts under load in a machine with a real systemd, ours beside plain gunicorn's.
Run by script/demo."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from tests.load import CLIENTS, Load
from tests.machine import Machine, MachineError, drop_in, install, install_plain, interrupt_on_terminate

if TYPE_CHECKING:
    from collections.abc import Callable

RESTARTS = 5
BETWEEN = 3.0  #: seconds of load before, between and after the restarts
THREADS = 8  #: of each of the two workers
PORTS = {"app": 8000, "plain": 8001}
CANNOT_BOOT = 3  #: exit status


def main() -> int:
    interrupt_on_terminate()
    print("demo: booting a systemd of its own, in a container", flush=True)
    with ExitStack() as stack:
        try:
            machine = stack.enter_context(Machine())
        except MachineError as error:
            print(f"demo: {error}", file=sys.stderr)
            return CANNOT_BOOT
        return demonstrate(machine)


def demonstrate(machine: Machine) -> int:
    """Restart both services under load, one after the other, and return the exit status."""
    install(machine, "app")
    # Enough that clients wait for a restart, and not for a thread.
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS=--threads {THREADS}"\n')
    install_plain(machine, THREADS)
    machine.systemctl("start", "app", "plain")
    print(machine.systemctl("status", "--lines=0", "app").stdout)
    ours, failed_restarts = restart_under_load(machine, "app")
    print("\ndemo: the same with plain gunicorn, for comparison", flush=True)
    plain, _ = restart_under_load(machine, "plain")
    return max(account(ours, plain), min(failed_restarts, 1))


def restart_under_load(machine: Machine, service: str) -> tuple[Load, int]:
    """Restart a service, again and again; return what the clients saw, and how many restarts failed."""
    print(f"demo: {sum(CLIENTS.values())} clients, and {RESTARTS} times: systemctl restart {service}", flush=True)
    failed_restarts = 0
    with Load(partial(machine.connect, ("127.0.0.1", PORTS[service]))) as load:
        watch(load, "serving", after(BETWEEN))
        for number in range(1, RESTARTS + 1):
            with machine.start("systemctl", "restart", service) as restart:
                watch(load, f"restart {number}", lambda restart=restart: restart.poll() is not None)  # type: ignore[misc]
            if restart.returncode != 0:
                failed_restarts += 1
                print(f"demo: restart {number} has failed\n{machine.journal(service)}", file=sys.stderr)
            watch(load, "serving", after(BETWEEN))
    return load, failed_restarts


def after(seconds: float) -> Callable[[], bool]:
    """Return a condition that holds when so much time has passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def watch(load: Load, doing: str, ended: Callable[[], bool]) -> None:
    """Show what the clients have seen so far, until `ended`; off a terminal, only at the end."""
    began, over = time.monotonic(), False
    while not over:
        over = ended()
        line = (
            f"  {doing:<10} {time.monotonic() - began:4.1f} s   {len(load.outcomes):>6} requests   "
            f"{load.failures().total()} failed   longest wait {load.longest_wait():.2f} s"
        )
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="\n" if over else "", flush=True)
        elif over:
            print(line, flush=True)
        time.sleep(0.1)


def account(ours: Load, plain: Load) -> int:
    """Print what became of every request, and return 1 if one of ours failed."""
    print(f"\n  {'':<26}{'flask_socketact':>33}   {'plain gunicorn':>33}")
    print(f"  {'clients':<26}" + "   ".join([f"{'requests':>10}{'failed':>10}{'longest wait':>13}"] * 2))
    for kind in CLIENTS:
        print(f"  {kind:<26}{cells(ours, kind)}   {cells(plain, kind)}")
    print(f"  {'connections closed':<26}{ours.closed_by_server:>33}   {plain.closed_by_server:>33}")
    for name, load in (("flask_socketact", ours), ("plain gunicorn", plain)):
        for failure, times in load.failures().items():
            print(f"  {name}: failed {times} times: {failure}")
    total = ours.failures().total()
    print(
        f"\ndemo: {len(ours.outcomes)} requests, {total} failed, {RESTARTS} restarts, "
        f"longest wait {ours.longest_wait():.2f} s (plain gunicorn: {plain.longest_wait():.2f} s)"
    )
    return 1 if total else 0


def cells(load: Load, kind: str) -> str:
    requests = Counter(outcome.kind for outcome in load.outcomes)
    failed = Counter(outcome.kind for outcome in load.outcomes if outcome.failure is not None)
    return f"{requests[kind]:>10}{failed[kind]:>10}{load.longest_wait(kind):>11.2f} s"


if __name__ == "__main__":
    sys.exit(main())
