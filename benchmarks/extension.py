"""Measure the cost of the Flask extension: ``python -m benchmarks.extension``.

The trivial view, in an application without the extension, with its defaults, and with everything: metrics, deadlines,
request IDs, a view for one listener. All run at the same time, and get load in turns. The speed differs between starts
of the same process, so there are several. ``--instructions`` counts instructions with valgrind, which differ less.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from benchmarks.throughput import BIN, DEADLINE, free_port, processes, started, wrk

TICKS = os.sysconf("SC_CLK_TCK")
#: Functions of benchmarks/extension_apps.py.
APPLICATIONS = ("without", "nothing", "everything")
_SERVED = "--bind 127.0.0.1:{port} -c python:flask_socketact.conf extension_apps:{application}()"


@contextmanager
def serving(application: str) -> Iterator[tuple[int, int]]:
    """Start an application with our worker; yield the PID of the master, and the port."""
    port = free_port()
    options = f"--workers 2 --threads 4 --log-level critical {_SERVED.format(port=port, application=application)}"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as counters:
        command = [str(BIN / "gunicorn"), *options.split()]
        with started(command, port, {"PROMETHEUS_MULTIPROC_DIR": counters}) as process:
            yield process.pid, port


def load(pid: int, port: int, seconds: float) -> tuple[float, float]:
    """Return requests per second, and the CPU microseconds of each request."""
    before = processor_time(pid)
    output = wrk(port, "/", 16, seconds)
    used = processor_time(pid) - before
    rate, count = (re.search(pattern, output) for pattern in (r"Requests/sec:\s+([\d.]+)", r"(\d+) requests in"))
    assert rate is not None, output
    assert count is not None, output
    assert "Non-2xx" not in output, output
    return float(rate[1]), 1e6 * used / int(count[1])


def processor_time(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants."""
    fields = ((process / "stat").read_text().rpartition(")")[2].split() for process in processes(pid))
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS


def instructions(application: str, requests: int) -> int:
    """Return the number of instructions of a worker that starts, serves `requests`, and exits."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        valgrind = f"valgrind --tool=callgrind --trace-children=yes --callgrind-out-file={folder}/%p"
        options = f"--workers 1 --threads 1 --timeout 0 {_SERVED.format(port=port, application=application)}"
        command = [*valgrind.split(), str(BIN / "gunicorn"), *options.split()]
        environ = {"PROMETHEUS_MULTIPROC_DIR": f"{folder}/counters", "PYTHONHASHSEED": "0"}
        with (
            started(command, port, environ, deadline=10 * DEADLINE),
            socket.create_connection(("127.0.0.1", port), timeout=60) as client,
        ):
            for _ in range(requests):
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while b"Hello\n" not in client.recv(65536):
                    pass
        counts = (re.search(r"^totals: (\d+)", path.read_text(), re.MULTILINE) for path in Path(folder).glob("[0-9]*"))
        return max(int(count[1]) for count in counts if count)  # the worker's; the master did less


def count_instructions() -> None:
    print("| application | instructions a request | to without |")
    print("|---|---|---|")
    few, many = 200, 800
    reference = None
    for name in APPLICATIONS:
        each = (instructions(name, many) - instructions(name, few)) / (many - few)
        reference = reference or each
        print(f"| {name} | {each:,.0f} | {each / reference:.3f} |", flush=True)


@click.command()
@click.option("--instructions", "counting", is_flag=True, help="Count instructions instead, with valgrind.")
@click.option("--starts", default=8, help="Starts of each application.")
@click.option("--rounds", default=3, help="Loads for each start, in turns.")
@click.option("--seconds", default=2.0, help="Duration of each load.")
def main(*, counting: bool, starts: int, rounds: int, seconds: float) -> None:
    """Compare applications with and without the extension, with wrk and 16 connections."""
    if counting:
        count_instructions()
        return
    found: dict[str, list[tuple[float, float]]] = {application: [] for application in APPLICATIONS}
    for start in range(starts):
        with ExitStack() as stack:
            servers = {application: stack.enter_context(serving(application)) for application in APPLICATIONS}
            for server in servers.values():
                load(*server, 1.0)
            for turn in range(rounds):
                shift = (start + turn) % len(APPLICATIONS)
                for application in (*APPLICATIONS[shift:], *APPLICATIONS[:shift]):
                    found[application].append(load(*servers[application], seconds))
    print("| application | req/s (median) | to without | CPU µs a request (median) | to without |")
    print("|---|---|---|---|---|")
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    reference = medians["without"]
    for name, (rate, cost) in medians.items():
        print(f"| {name} | {rate:,.0f} | {rate / reference[0]:.3f} | {cost:.1f} | {cost / reference[1]:.3f} |")


if __name__ == "__main__":
    main()
