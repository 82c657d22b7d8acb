"""Measure what it costs to load the application in many workers: ``python -m benchmarks.loading``.

Eight workers restart and reload an application that computes for 2 s while it is imported, and holds 100 MB; meanwhile
clients send 200 requests a second, of 4 ms each. The workers load it themselves, or ``preload_app`` does it once. Boots
a systemd of its own, and needs root.
"""

from __future__ import annotations

import statistics
import threading
import time
from functools import partial

import click

from benchmarks.balance import SPACING, short_requests
from tests.support.machine import Machine, drop_in, install, interrupt_on_terminate, release
from tests.support.operations import wait_for_old

IMPORT = 2.0  #: seconds of computing
WORK = 0.004  #: seconds of computing, of a request
RATE = 200  #: requests per second
WORKERS = 8
APPLICATION = f"""
import time
from flask import Flask

def compute(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until: pass

rows = [dict(number=number, name=f"row {{number}}") for number in range(330_000)]  # 100 MB
compute({IMPORT} - time.thread_time())
app = Flask(__name__)

@app.get("/")
def work():
    compute({WORK})
    return rows[time.monotonic_ns() % len(rows)]["name"]
"""


def memory(machine: Machine) -> float:
    """Return the proportional set size of the service's processes without the master, in MB."""
    master = machine.show("app", "MainPID")
    kilobytes = 0
    for pid in machine.processes("app.service"):
        rollup = machine.path(f"/proc/{pid}/smaps_rollup").read_text() if pid != master else "Pss: 0"
        kilobytes += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return kilobytes / 1000


def operate(machine: Machine, verb: str | None) -> tuple[float, list[float]]:
    """Restart or reload the service, or let ten seconds pass; return how long that took, and how long each request
    waited meanwhile, in seconds."""
    ended = threading.Event()
    took = 0.0

    def act() -> None:
        nonlocal took
        time.sleep(1.0)
        began = time.monotonic()
        machine.systemctl(verb, "app") if verb else time.sleep(10.0)
        took = time.monotonic() - began
        ended.set()

    thread = threading.Thread(target=act)
    thread.start()
    connect = partial(machine.connect, ("127.0.0.1", 8000))
    times = short_requests(connect, int(RATE * SPACING), ended.is_set)
    thread.join()
    wait_for_old(machine)
    most = 2 + WORKERS  # with the master, and a loader
    machine.wait_for(lambda: len(machine.processes("app.service")) <= most, "the old workers to exit")
    return took, sorted(end - begin for begin, end in times)


def measure(machine: Machine, title: str, arguments: str, times: int) -> None:
    """Print a row for no operation, restarts and reloads with these arguments of gunicorn."""
    options = f"--workers {WORKERS} --threads 4 {arguments}"
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={options}"\n')
    machine.systemctl("restart", "app")
    wait_for_old(machine)
    for verb in (None, "restart", "reload"):
        runs = [operate(machine, verb) for _ in range(times if verb else 1)]
        waits = sorted(wait for _, waits in runs for wait in waits)
        took = f"{statistics.median(took for took, _ in runs):.1f} s" if verb else ""
        print(
            f"| {title} | {verb or 'nothing'} | {took} | {1000 * waits[len(waits) // 2]:.1f} "
            f"| {1000 * waits[len(waits) * 99 // 100]:.1f} | {1000 * waits[-1]:.1f} | {memory(machine):.0f} |",
            flush=True,
        )


@click.command()
@click.option("--times", default=3, help="Number of restarts, and of reloads.")
@click.option("--tree", default="/", help="Another Debian, made by script/tree.")
def main(times: int, tree: str) -> None:
    """Measure restarts and reloads on this machine."""
    interrupt_on_terminate()
    with Machine(tree) as machine:
        install(machine, "app")
        release(machine, APPLICATION)
        print("| who loads | operation | takes (median) | p50 ms | p99 ms | longest ms | memory of the workers, MB |")
        print("|---|---|---|---|---|---|---|")
        measure(machine, "each worker", "", times)
        measure(machine, "`preload_app`", "--preload", times)


if __name__ == "__main__":
    main()
