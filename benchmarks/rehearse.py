"""Compare the speed of ``rehearse`` with that of wrk: ``python -m benchmarks.rehearse``.

The service has one core, the clients have the other. In turns: wrk with 200 connections; rehearse with 200 busy clients
and 2,000 mostly idle ones. The side that is the bottleneck uses its core fully. Then Debian's chromium opens a report
of 200,000 requests.
"""

from __future__ import annotations

import json
import re
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import click

from benchmarks.extension import processor_time
from benchmarks.throughput import BIN, free_port, started
from flask_socketact import files
from flask_socketact.cli.rehearse import report
from tests.support.browser import open_browser, run

SERVED = "--workers 1 --threads 4 --log-level critical -c python:flask_socketact.conf app:app"
BUSY, IDLE = 200, 2000


def used() -> float:
    """Return the CPU seconds of the commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def wrk(port: int, seconds: float) -> float:
    """Return requests per second."""
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{BUSY}", f"-d{seconds:.0f}s", f"http://127.0.0.1:{port}/"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found, output
    return float(found[1])


def rehearse(port: int, seconds: float) -> tuple[float, float, float]:
    """Return requests per second, the share of a core that the clients used, and their maximum lateness in seconds."""
    counts = (
        f"--clients 0 --silent 0 --slow 0 --keep-alive {BUSY} --idle {IDLE} --think 0 --restarts 0 --every {seconds}"
    )
    options = f"{counts} --fail-on failed>0,closed>0 --json --url http://127.0.0.1:{port}/"
    command = ["taskset", "-c", "1", str(BIN / "flask-socketact"), "rehearse", *options.split()]
    before = used()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    together = result["accounts"][-1]
    assert together["failed"] == together["closed"] == 0, result["sentence"]
    # Not until the last has ended: a connection that finds the queue full is retried by the kernel after seconds.
    return together["requests"] / seconds, (used() - before) / seconds, result["lateness"]


def opening(path: Path, times: int) -> list[float]:
    """Return the seconds until a report is drawn completely, several times."""
    with open_browser() as browser:
        found = []
        for _ in range(times):
            browser.get(path.as_uri())
            found.append(float(browser.execute_script("return document.documentElement.dataset.drawn")) / 1000)
        return found


@click.command()
@click.option("--rounds", default=3)
@click.option("--seconds", default=10.0)
def main(rounds: int, seconds: float) -> None:
    """Measure on this machine."""
    print("| | req/s | to wrk | core used by the service | by the clients | clients late by at most |")
    print("|---|---|---|---|---|---|")
    port = free_port()
    command = ["taskset", "-c", "0", str(BIN / "gunicorn"), *SERVED.split(), "--bind", f"127.0.0.1:{port}"]
    with started(command, port) as service:
        for _ in range(rounds):
            before = processor_time(service.pid)
            fastest = wrk(port, seconds)
            between = processor_time(service.pid)
            print(f"| wrk, {BUSY} connections | {fastest:,.0f} | 1 | {(between - before) / seconds:.2f} | | |")
            rate, own, late = rehearse(port, seconds)
            its = (processor_time(service.pid) - between) / seconds
            title = f"rehearse, {BUSY} busy and {IDLE:,} idle"
            print(f"| {title} | {rate:,.0f} | {rate / fastest:.2f} | {its:.2f} | {own:.2f} | {late * 1000:.0f} ms |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        began = time.monotonic()
        files.write(path, report.render([run("200,000 requests", failures=0, requests=200_000)]))
        written = time.monotonic() - began
        times = opening(path, 5)
        print(f"\nA report of 200,000 requests ({path.stat().st_size / 1e6:.1f} MB) is written in {written:.1f} s,")
        print(f"and drawn after {statistics.median(times):.2f} s (longest of 5: {max(times):.2f} s).")


if __name__ == "__main__":
    main()
