"""Compare the throughput of WSGI servers: ``python -m benchmarks.throughput --help``.

Every round starts each server once, one after the other, so changes in the machine's speed affect all of them. Needs
wrk; uWSGI and granian take part if they are installed next to this Python.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import nginx
from benchmarks.picture import Bar, draw

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
WORKERS = 2
DEADLINE = 20.0  #: seconds
REFERENCE = "gthread"

#: How each server is started; {threads} and the address are filled in.
GUNICORN = "gunicorn --workers 2 --threads {threads} --bind {bind} --worker-connections 10000 --log-level error"
SERVERS = {
    "flask_socketact": f"{GUNICORN} -c python:flask_socketact.conf app:app",
    "gthread": f"{GUNICORN} -k gthread --keep-alive 75 app:app",
    "sync": f"{GUNICORN} -k sync --threads 1 app:app",  # with more gunicorn takes gthread instead
    "gevent": f"{GUNICORN} -k gevent --keep-alive 75 app:app",
    "uwsgi": "uwsgi --http11-socket {address} --master --processes 2 --threads {threads} --listen 1024 "
    "--wsgi app:app --disable-logging --die-on-term",
    "granian": "granian --interface wsgi {listen} --workers 2 --blocking-threads {threads} "
    "--no-access-log --log-level error app:app",
}


#: The headers of a browser, and what nginx adds, for wrk.
BEHIND_NGINX = """
wrk.headers["Host"] = "www.example.org"
wrk.headers["X-Real-IP"] = "203.0.113.9"
wrk.headers["X-Forwarded-For"] = "203.0.113.9"
wrk.headers["X-Forwarded-Proto"] = "https"
wrk.headers["X-Request-Id"] = "7f3c9a2b5d1e4f60"
wrk.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0"
wrk.headers["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
wrk.headers["Accept-Encoding"] = "gzip, deflate, br, zstd"
wrk.headers["Accept-Language"] = "de-DE,de;q=0.9,en;q=0.8"
wrk.headers["Sec-Fetch-Site"] = "same-origin"
wrk.headers["Sec-Fetch-Mode"] = "navigate"
wrk.headers["Cookie"] = "session=eyJ1c2VyIjoxfQ.aSrVQQ.Q2lhbyBhIHR1dHRp; theme=dark"
"""


@dataclass(frozen=True)
class Kind:
    """What wrk requests."""

    path: str
    script: str = ""  #: in Lua


KINDS = {
    "trivial": Kind("/"),
    "api": Kind("/api/items/42?page=3&q=%C3%A4", BEHIND_NGINX),
    "upload": Kind("/upload", 'wrk.method = "POST" wrk.body = string.rep("x", 10240)'),
    "page": Kind("/page", BEHIND_NGINX),
    "wait": Kind("/wait"),  # for 50 ms
}


@dataclass(frozen=True)
class Run:
    """What wrk measured in one start of a server."""

    rate: float  #: requests per second
    p50: float  #: milliseconds
    p99: float
    cpu: float  #: microseconds of all processes for a request
    memory: float  #: MB of all processes; shared pages are divided among them
    errors: str


def installed() -> list[str]:
    return [name for name, command in SERVERS.items() if (BIN / command.split()[0]).exists()]


@contextmanager
def serving(name: str, threads: int, *, behind_nginx: bool = False) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a server and wait until it responds; yield its process and port. Behind nginx, the port is nginx's."""
    port = free_port()
    with ExitStack() as stack:
        address, bind, listen = f"127.0.0.1:{port}", f"127.0.0.1:{port}", f"--host 127.0.0.1 --port {port}"
        if behind_nginx:
            address = stack.enter_context(nginx.proxying(port))
            bind, listen = f"unix:{address}", f"--uds {address}"
        text = SERVERS[name].format(threads=threads, address=address, bind=bind, listen=listen)
        command, *arguments = text.split()
        yield stack.enter_context(started([str(BIN / command), *arguments], port)), port


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


def measure(name: str, threads: int, connections: int, seconds: float, kind: str, *, behind_nginx: bool) -> Run:
    with serving(name, threads, behind_nginx=behind_nginx) as (process, port):
        before = cpu_seconds(process.pid)
        output = wrk(port, KINDS[kind].path, connections, seconds, KINDS[kind].script)
        used = cpu_seconds(process.pid) - before
        memory = proportional_memory(process.pid)
    errors = re.search(r"Socket errors:.*|Non-2xx.*", output)
    rate, number = re.search(r"Requests/sec:\s+([\d.]+)", output), re.search(r"(\d+) requests in", output)
    assert rate is not None, output
    assert number is not None, output
    cpu = 1e6 * used / int(number[1])
    return Run(float(rate[1]), latency(output, 50), latency(output, 99), cpu, memory, errors[0] if errors else "")


def wrk(port: int, path: str, connections: int, seconds: float, script: str = "") -> str:
    """Run wrk against a server, and return its output."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        arguments = [f"--connections={connections}", f"--duration={seconds:g}s", f"--script={file.name}"]
        command = ["wrk", "--threads=1", "--latency", *arguments, f"http://127.0.0.1:{port}{path}"]
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


def cpu_seconds(pid: int) -> float:
    """Return how long a process and its descendants have run, in seconds (proc_pid_stat(5), utime and stime)."""
    fields = [(process / "stat").read_text().rpartition(")")[2].split() for process in processes(pid)]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def processes(pid: int) -> Iterator[Path]:
    """Yield a process and its descendants, as folders of /proc."""
    process = Path(f"/proc/{pid}")
    yield process
    for task in (process / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from processes(int(child))


def report(runs: dict[str, list[Run]]) -> None:
    """Print a table; the ratios are to the medians of gthread."""
    print("| server | req/s: median (worst to best start) | p50 ms | p99 ms | CPU µs | memory MB | to gthread |")
    print("|---|---|---|---|---|---|---|")
    medians = {name: [statistics.median(column) for column in columns(starts)] for name, starts in runs.items()}
    reference = medians.get(REFERENCE)
    for name, starts in runs.items():
        rates = [run.rate for run in starts]
        rate, p50, p99, cpu, memory = medians[name]
        ratio = f"{rate / reference[0]:.2f}" if reference else ""
        errors = "; ".join({run.errors for run in starts if run.errors})
        print(
            f"| {name} | {rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {p50:.2f} | {p99:.2f} | {cpu:.0f} "
            f"| {memory:.0f} | {ratio} {errors}|",
            flush=True,
        )


def columns(starts: list[Run]) -> list[list[float]]:
    return [
        [run.rate for run in starts],
        *([getattr(run, name) for run in starts] for name in ("p50", "p99", "cpu", "memory")),
    ]


@click.command()
@click.option("--threads", multiple=True, type=int, default=(4,), help="Threads of each of the two workers.")
@click.option("--connections", multiple=True, type=int, default=(16, 64, 256), help="wrk's keep-alive connections.")
@click.option("--starts", default=7, help="Starts of each server.")
@click.option("--seconds", default=3.0, help="Duration of the load on each start.")
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), default=("trivial",), help="Of requests."
)
@click.option("--nginx", "behind_nginx", is_flag=True, help="Let nginx ask the servers, at Unix sockets.")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the first table there.")
@click.option("--server", "servers", multiple=True, type=click.Choice(list(SERVERS)), help="Default: all installed.")
def main(
    threads: tuple[int, ...],
    connections: tuple[int, ...],
    starts: int,
    seconds: float,
    kinds: tuple[str, ...],
    behind_nginx: bool,
    svg: Path | None,
    servers: tuple[str, ...],
) -> None:
    """Measure servers with two workers on this machine."""
    for kind, thread_count, connection_count in itertools.product(kinds, threads, connections):
        where = ", behind nginx at a Unix socket" if behind_nginx else ""
        load = f"{thread_count} threads, {connection_count} connections{where}, {starts} starts of {seconds:g} s"
        print(f"\n{kind}: {load}\n")
        runs: dict[str, list[Run]] = defaultdict(list)
        for _ in range(starts):
            for name in servers or installed():
                run = measure(name, thread_count, connection_count, seconds, kind, behind_nginx=behind_nginx)
                runs[name].append(run)
        report(runs)
        if svg is not None:
            svg.write_text(picture(kind, thread_count, connection_count, runs))
            svg = None


def picture(kind: str, threads: int, connections: int, runs: dict[str, list[Run]]) -> str:
    starts = len(next(iter(runs.values())))
    rates = {name: [run.rate for run in each] for name, each in runs.items()}
    bars = [Bar(name, statistics.median(each), min(each), max(each)) for name, each in rates.items()]
    return draw(
        f"Requests per second: Flask, {kind} view, {connections} keep-alive connections",
        f"{WORKERS} workers of {threads} threads on {os.cpu_count()} cores, shared with wrk. "
        f"Median of {starts} starts; the line: worst to best.",
        bars,
        ours=next(iter(SERVERS)),
    )


if __name__ == "__main__":
    main()
