"""Clients that never pause, and operations meanwhile: ``python -m benchmarks.busy --help``. Takes root, and wrk.

For each configuration wrk asks without a pause while the service is restarted, reloaded, and recycles its workers; the
table tells what it lost, and how long old workers stayed when an operation had returned.
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
#: So much longer than the operations wrk asks, in seconds: a restart and what is waited for take less.
EACH = 2.0


@click.command()
@click.option("--operations", default=10, help="Operations of each kind: restart, reload, recycling.")
@click.option("--connections", multiple=True, type=int, default=(6, 64), help="wrk's keep-alive connections.")
@click.option("--configuration", "names", multiple=True, type=click.Choice(list(CONFIGURATIONS)), help="Default: all.")
def main(operations: int, connections: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Measure what clients that never pause lose."""
    print("| workers | connections | operation | requests | lost | old workers gone after, at most |")
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
    """Let workers reach ``max_requests`` until so many have been replaced."""
    configure(machine, f"{CONFIGURATIONS[name]} --max-requests 150")
    with wrk(machine, operations * EACH + 2, connections, PATH) as busy:
        deadline = time.monotonic() + operations * EACH
        while time.monotonic() < deadline:
            time.sleep(1)
    recycled = machine.journal("app").count("max_requests answered")
    report(name, connections, f"max_requests x {recycled}", busy)
    machine.run("journalctl", "--rotate")
    machine.run("journalctl", "--vacuum-time=1s", "--unit=app", check=False)


def report(name: str, connections: int, operation: str, busy: Busy) -> None:
    stay = f"{max(busy.stays):.2f} s" if busy.stays else ""
    print(f"| {name} | {connections} | {operation} | {busy.requests} | {busy.lost or 0} | {stay} |", flush=True)


if __name__ == "__main__":
    main()
