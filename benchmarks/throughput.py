"""Compare the throughput of WSGI servers: ``python -m benchmarks.throughput --help``.

Every round starts each server once, one after the other, so changes in the machine's speed affect all of them. Needs
wrk; uWSGI and granian take part if they are installed next to this Python.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
WORKERS = 2
DEADLINE = 20.0  #: seconds
REFERENCE = "gthread"

#: How each server is started; {threads} and {port} are filled in.
GUNICORN = (
    "gunicorn --workers 2 --threads {threads} --bind 127.0.0.1:{port} --worker-connections 10000 --log-level error"
)
SERVERS = {
    "flask_socketact": f"{GUNICORN} -c python:flask_socketact.conf app:app",
    "gthread": f"{GUNICORN} -k gthread --keep-alive 75 app:app",
    "sync": f"{GUNICORN} -k sync --threads 1 app:app",  # with more gunicorn takes gthread instead
    "gevent": f"{GUNICORN} -k gevent --keep-alive 75 app:app",
    "uwsgi": "uwsgi --http11-socket 127.0.0.1:{port} --master --processes 2 --threads {threads} --listen 1024 "
    "--wsgi app:app --disable-logging --die-on-term",
    "granian": "granian --interface wsgi --host 127.0.0.1 --port {port} --workers 2 --blocking-threads {threads} "
    "--no-access-log --log-level error app:app",
}


@dataclass(frozen=True)
class Run:
    """What wrk measured in one start of a server."""

    rate: float  #: requests per second
    p50: float  #: milliseconds
    p99: float
    memory: float  #: MB of all processes; shared pages are divided among them
    errors: str


def installed() -> list[str]:
    return [name for name, command in SERVERS.items() if (BIN / command.split()[0]).exists()]


@contextmanager
def serving(name: str, threads: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a server and wait until it responds; yield its process and port."""
    port = free_port()
    command, *arguments = SERVERS[name].format(threads=threads, port=port).split()
    with started([str(BIN / command), *arguments], port) as process:
        yield process, port


@contextmanager
def started(
    command: list[str], port: int, environ: Mapping[str, str] | None = None, deadline: float = DEADLINE
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server at `port`, with `environ` added to the environment, and wait until it responds (seconds)."""
    process = subprocess.Popen(
        command, cwd=HERE, env=os.environ | (environ or {}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + deadline
        for _ in range(8 * WORKERS):  # so every worker has loaded the application
            while not responds(port):
                if time.monotonic() > until or process.poll() is not None:
                    raise click.ClickException(f"no response: try {' '.join(command)}")
                time.sleep(0.05)
        time.sleep(0.5)  # the other processes finish booting
        yield process
    finally:
        stop(process)


def free_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server, and let it drain."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def responds(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 OK" in client.recv(4096)
    except OSError:
        return False


def measure(name: str, threads: int, connections: int, seconds: float, path: str) -> Run:
    with serving(name, threads) as (process, port):
        output = wrk(port, path, connections, seconds)
        memory = proportional_memory(process.pid)
    errors = re.search(r"Socket errors:.*|Non-2xx.*", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert rate is not None, output
    return Run(float(rate[1]), latency(output, 50), latency(output, 99), memory, errors[0] if errors else "")


def wrk(port: int, path: str, connections: int, seconds: float) -> str:
    """Run wrk against a server, and return its output."""
    arguments = [f"--connections={connections}", f"--duration={seconds:g}s", f"http://127.0.0.1:{port}{path}"]
    command = ["wrk", "--threads=1", "--latency", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def latency(output: str, percent: int) -> float:
    """Return a percentile of the latency from wrk's output, in milliseconds."""
    found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\s*\n", output)
    assert found is not None, output
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}[found[2]]


def proportional_memory(pid: int) -> float:
    """Return the memory of a process and its descendants, in MB."""
    texts = [(process / "smaps_rollup").read_text() for process in processes(pid)]
    return sum(int(kb) for text in texts for kb in re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)) / 1024


def processes(pid: int) -> Iterator[Path]:
    """Yield a process and its descendants, as folders of /proc."""
    process = Path(f"/proc/{pid}")
    yield process
    for task in (process / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from processes(int(child))


def report(runs: dict[str, list[Run]]) -> None:
    """Print a table; the ratios are to the medians of gthread."""
    print(
        "| server | req/s: median (worst to best start) | p50 ms | p99 ms | memory MB | req/s, p99, memory to gthread |"
    )
    print("|---|---|---|---|---|---|")
    medians = {name: [statistics.median(column) for column in columns(starts)] for name, starts in runs.items()}
    reference = medians.get(REFERENCE)
    for name, starts in runs.items():
        rates = [run.rate for run in starts]
        rate, p50, p99, memory = medians[name]
        ratios = ""
        if reference:
            ratios = f"{rate / reference[0]:.2f}, {p99 / reference[2]:.2f}, {memory / reference[3]:.2f}"
        errors = "; ".join({run.errors for run in starts if run.errors})
        print(
            f"| {name} | {rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {p50:.2f} | {p99:.2f} | {memory:.0f} "
            f"| {ratios} {errors}|",
            flush=True,
        )


def columns(starts: list[Run]) -> list[list[float]]:
    return [
        [run.rate for run in starts],
        *([getattr(run, name) for run in starts] for name in ("p50", "p99", "memory")),
    ]


@click.command()
@click.option("--threads", multiple=True, type=int, default=(1, 4, 16), help="Threads of each of the two workers.")
@click.option("--connections", multiple=True, type=int, default=(16, 256, 2000), help="wrk's keep-alive connections.")
@click.option("--starts", default=3, help="Starts of each server.")
@click.option("--seconds", default=3.0, help="Duration of the load on each start.")
@click.option("--path", type=click.Choice(["/", "/wait"]), default="/", help="/wait sleeps 50 ms.")
@click.option("--server", "servers", multiple=True, type=click.Choice(list(SERVERS)), help="Default: all installed.")
def main(
    threads: tuple[int, ...],
    connections: tuple[int, ...],
    starts: int,
    seconds: float,
    path: str,
    servers: tuple[str, ...],
) -> None:
    """Measure servers with two workers on this machine."""
    for thread_count in threads:
        for connection_count in connections:
            print(
                f"\n{thread_count} threads, {connection_count} connections, {path}, {starts} starts of {seconds:g} s\n"
            )
            runs: dict[str, list[Run]] = defaultdict(list)
            for _ in range(starts):
                for name in servers or installed():
                    runs[name].append(measure(name, thread_count, connection_count, seconds, path))
            report(runs)


if __name__ == "__main__":
    main()
