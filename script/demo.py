"""The main job, to watch: restarts under load in a machine with a real systemd. Run by script/demo."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from tests.load import CLIENTS, Load
from tests.machine import Machine, MachineError, install, interrupt_on_terminate

if TYPE_CHECKING:
    from collections.abc import Callable

RESTARTS = 5
BETWEEN = 3.0  #: seconds of load before, between and after the restarts
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
    """Restart the example service under load, and return the exit status."""
    install(machine, "app")
    machine.systemctl("start", "app")
    print(machine.systemctl("status", "--lines=0", "app").stdout)
    print(f"demo: {sum(CLIENTS.values())} clients, and {RESTARTS} times: systemctl restart app", flush=True)
    failed_restarts = 0
    with Load(partial(machine.connect, ("127.0.0.1", 8000))) as load:
        watch(load, "serving", after(BETWEEN))
        for number in range(1, RESTARTS + 1):
            restart = machine.start("systemctl", "restart", "app")
            watch(load, f"restart {number}", lambda restart=restart: restart.poll() is not None)  # type: ignore[misc]
            if restart.returncode != 0:
                failed_restarts += 1
                print(f"demo: restart {number} has failed\n{machine.journal('app')}", file=sys.stderr)
            watch(load, "serving", after(BETWEEN))
    return max(account(load), min(failed_restarts, 1))


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
            f"{load.failures().total()} failed   longest wait {load.longest_wait():.1f} s"
        )
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="\n" if over else "", flush=True)
        elif over:
            print(line, flush=True)
        time.sleep(0.1)


def account(load: Load) -> int:
    """Print what became of every request, and return 1 if one failed."""
    print(f"\n  {'clients':<26}{'requests':>10}{'failed':>10}{'longest wait':>15}")
    requests = Counter(outcome.kind for outcome in load.outcomes)
    failed = Counter(outcome.kind for outcome in load.outcomes if outcome.failure is not None)
    for kind in CLIENTS:
        print(f"  {kind:<26}{requests[kind]:>10}{failed[kind]:>10}{load.longest_wait(kind):>13.1f} s")
    for failure, times in load.failures().items():
        print(f"  failed {times} times: {failure}")
    total = failed.total()
    print(
        f"\ndemo: {requests.total()} requests, {total} failed, {RESTARTS} restarts, "
        f"longest wait {load.longest_wait():.1f} s"
    )
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
