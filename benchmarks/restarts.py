"""Measure how long clients wait in a restart, without one, and with plain gunicorn: ``python -m benchmarks.restarts``.

With ``--reload`` it measures reloads, also of a release that does not load. Boots a systemd of its own, and needs root.
The application takes 1.5 s to import; 30 clients of all kinds send requests, some of which take twelve seconds. Plain
gunicorn runs gthread, with the same units without the relay and the mailbox.
"""

from __future__ import annotations

import json
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

import click

from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, drop_in, install, install_plain, interrupt_on_terminate, release

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = {
    "new connection": 8,
    "keep-alive": 8,
    "keep-alive, mostly idle": 6,
    "long request": 2,
    "longer request": 2,
    "streamed response": 2,
    "slow upload": 2,
}
SHORT = ("new connection", "keep-alive", "keep-alive, mostly idle")
PORTS = {"app": 8000, "plain": 8001}
SLEEP = "time.sleep(1.5)"
COMPUTE = "end = time.process_time() + 1.5\nwhile time.process_time() < end: pass"
SETTLE = 4.0  #: seconds between a restart's end and the next


def measure(machine: Machine, service: str, title: str, restarts: int, verb: str = "restart") -> None:
    """Print a row: what the clients saw in `restarts` restarts or reloads, or in a similar time without any."""
    with Load(partial(machine.connect, ("127.0.0.1", PORTS[service])), CLIENTS) as load:
        time.sleep(SETTLE)
        began, longest = time.monotonic(), 0.0
        for _ in range(restarts):
            since = time.monotonic()
            machine.systemctl(verb, service, check=False)
            longest = max(longest, time.monotonic() - since)
            time.sleep(SETTLE)
        if not restarts:
            time.sleep(10 * SETTLE)
        seconds = time.monotonic() - began
    waits = sorted(load.waits(*SHORT))
    p99 = waits[int(len(waits) * 0.99)]
    print(
        f"| {title} | {seconds:.0f} s | {longest:.1f} s | {load.requests:,} | {load.failures().total()} "
        f"| {load.closed_by_server} | {p99:.3f} s | {waits[-1]:.3f} s |",
        flush=True,
    )
    for failure, times in load.failures().items():
        print(f"failed {times} times: {failure}")


@click.command()
@click.option("--restarts", default=10, help="Number of restarts; plain gunicorn gets three.")
@click.option("--compute", is_flag=True, help="The import computes for 1.5 s in each worker, instead of waiting.")
@click.option("--reload", is_flag=True, help="Measure reloads instead.")
@click.option("--tree", default="/", help="Another Debian, made by script/tree.")
def main(restarts: int, compute: bool, reload: bool, tree: str) -> None:
    """Measure restarts on this machine."""
    interrupt_on_terminate()
    importing = COMPUTE if compute else SLEEP
    with Machine(tree) as machine:
        prepare(machine, importing)
        print(machine.run("systemctl", "--version").stdout.splitlines()[0], "\n")
        print("| | load | longest restart | requests | failed | closed | p99 wait | longest wait of a short request |")
        print("|---|---|---|---|---|---|---|---|")
        run: Callable[..., None] = partial(measure, machine)
        run("app", "no restart", 0)
        if reload:
            run("app", f"{restarts} reloads", restarts, "reload")
            run("plain", "plain gunicorn, 3 reloads", 3, "reload")
            publish(machine, f"{importing}\nraise RuntimeError('no database')")
            run("app", f"{restarts} reloads of a release that does not load", restarts, "reload")
            run("plain", "plain gunicorn, one such reload", 1, "reload")
            return
        run("app", f"{restarts} restarts", restarts)
        run("plain", "plain gunicorn, 3 restarts", 3)
        times = relay_times(machine)
        print(f"\nThe relay took {min(times):.0f} to {max(times):.0f} ms, median {statistics.median(times):.0f}.")


def relay_times(machine: Machine) -> list[float]:
    """Return how long the relay took in each restart, in milliseconds."""
    times, stopping = [], 0
    for line in machine.run("journalctl", "--no-pager", "--output=json", "--unit=app.service").stdout.splitlines():
        entry = json.loads(line)
        if entry["MESSAGE"].startswith("Stopping app.service"):
            stopping = int(entry["__MONOTONIC_TIMESTAMP"])
        elif "the old workers keep serving in" in entry["MESSAGE"] and entry["SYSLOG_IDENTIFIER"] == "relay":
            times.append((int(entry["__MONOTONIC_TIMESTAMP"]) - stopping) / 1000)
    return times


def prepare(machine: Machine, importing: str) -> None:
    """Install both services, with enough threads for all slow requests."""
    install(machine, "app")
    install_plain(machine, threads=16)
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--threads 16"\n')
    publish(machine, importing)
    machine.systemctl("start", "app", "plain")


def publish(machine: Machine, importing: str) -> None:
    """Install a release that runs `importing` during its import."""
    release(machine, (EXAMPLES / "app.py").read_text().replace("app = Flask", f"{importing}\napp = Flask"))


if __name__ == "__main__":
    main()
