"""Measure operations under clients that never pause: ``python -m benchmarks.busy --help``. Needs root, and wrk.

For each configuration wrk sends requests without a pause while the service restarts, reloads, and recycles workers. The
table shows the requests that failed, and how long old workers lived after an operation had returned.
"""

from __future__ import annotations

import time

import click

from tests.support.busy import Busy, configure, operate, wrk
from tests.support.machine import Machine, install

SYNC = "-k flask_socketact.workers.sync.SyncWorker"
GEVENT = "-k flask_socketact.workers.gevent.GeventWorker"
CONFIGURATIONS = {
    "1 thread": "--threads 1",
    "4 threads": "--threads 4",
    "16 threads": "--threads 16",
    "access log": "--threads 4 --access-logfile -",
    "sync": SYNC,
    "gevent": GEVENT,
}
PATH = "/sleep?s=0.01"
#: Seconds of load for each operation, which takes less.
EACH = 2.0


@click.command()
@click.option("--operations", default=10, help="Operations of each kind: restart, reload, recycling.")
@click.option("--connections", multiple=True, type=int, default=(6, 64), help="wrk's keep-alive connections.")
@click.option("--configuration", "names", multiple=True, type=click.Choice(list(CONFIGURATIONS)), help="Default: all.")
def main(operations: int, connections: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Measure how many requests of clients that never pause fail."""
    print("| workers | connections | operation | requests | failed | old workers exited after, at most |")
    print("|---|---|---|---|---|---|")
    with Machine() as machine:
        install(machine, "app")
        for name in names or CONFIGURATIONS:
            for count in connections:
                for verb in ("restart", "reload"):
                    configure(machine, CONFIGURATIONS[name])
                    with wrk(machine, operations * EACH + 2, count, PATH) as busy:
                        for _ in range(operations):
                            operate(machine, verb, busy)
                    report(name, count, f"{verb} x {operations}", busy)
                recycle(machine, name, count, operations)


def recycle(machine: Machine, name: str, connections: int, operations: int) -> None:
    """Let workers reach ``max_requests``, and be replaced, again and again."""
    configure(machine, f"{CONFIGURATIONS[name]} --max-requests 150")
    with wrk(machine, operations * EACH + 2, connections, PATH) as busy:
        deadline = time.monotonic() + operations * EACH
        while time.monotonic() < deadline:
            time.sleep(1)
    recycled = machine.journal("app").count("Served max_requests")
    report(name, connections, f"max_requests x {recycled}", busy)
    machine.run("journalctl", "--rotate")
    machine.run("journalctl", "--vacuum-time=1s", "--unit=app", check=False)


def report(name: str, connections: int, operation: str, busy: Busy) -> None:
    stay = f"{max(busy.stays):.2f} s" if busy.stays else ""
    print(f"| {name} | {connections} | {operation} | {busy.requests} | {busy.lost or 0} | {stay} |", flush=True)


if __name__ == "__main__":
    main()
