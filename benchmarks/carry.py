"""Hand over many idle connections from one worker to the next: ``python -m benchmarks.carry``.

One worker with a mailbox has the connections; SIGHUP replaces it. Prints the time from the signal until the new worker
has all connections, and until each client has a response from it, on the same connection.
"""

from __future__ import annotations

import re
import resource
import signal
import socket
import tempfile
import time
from pathlib import Path

import click

from tests.support.server import CONF, Server

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: Each loopback address of clients has its own range of ports.
CLIENTS_PER_ADDRESS = 20_000
APP = """
import os

def app(environ, start_response):
    pid = b"%8d" % os.getpid()
    start_response("200 OK", [("Content-Length", "8")])
    return [pid]
"""


def ask(client: socket.socket) -> int:
    """Send a request, and return the PID of the worker that responds."""
    client.sendall(REQUEST)
    received = b""
    while not (found := re.search(rb"\r\n\r\n([ \d]{8})$", received)):
        data = client.recv(4096)
        if not data:
            raise click.ClickException("the server closed a connection")
        received += data
    return int(found[1])


@click.command()
@click.option("--connections", default=10_000, help="Idle keep-alive connections.")
def main(connections: int) -> None:
    """Hand over idle connections in a reload, and check that every client keeps its connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as name, socket.socket() as http, mailbox(Path(name) / "mailbox") as box:
        folder = Path(name)
        (folder / "app.py").write_text(APP)
        http.bind(("127.0.0.1", 0))
        http.listen(4096)
        arguments = (*CONF, "--workers", "1", "--worker-connections", str(2 * connections), "app:app")
        with Server(folder, *arguments, listeners={"http": http, "mailbox": box}) as server:
            server.wait_until_ready()
            (before,) = server.workers()
            empty = memory(before)
            clients = []
            for number in range(connections):
                client = socket.socket()
                client.bind((f"127.0.0.{2 + number // CLIENTS_PER_ADDRESS}", 0))
                client.connect(http.getsockname())
                assert ask(client) == before
                clients.append(client)
            each = (memory(before) - empty) / connections
            threads = len(list(Path(f"/proc/{before}/task").iterdir()))
            began = time.monotonic()
            server.signal(signal.SIGHUP)
            server.wait_for(lambda: before not in server.workers(), "the old worker to exit", 60)
            carried = time.monotonic() - began
            (after,) = server.workers()
            for client in clients:
                assert ask(client) == after
            served = time.monotonic() - began
            for client in clients:
                client.close()
    print(
        f"{connections} idle connections: {each:.1f} kB of memory each, {threads} threads in the worker that has them"
    )
    print(f"handed over, and the old worker exited, {carried:.2f} s after SIGHUP (with the boot of the new one)")
    print(f"all {connections} clients have a response of the new worker, on the same connection, after {served:.2f} s")


def mailbox(path: Path) -> socket.socket:
    box = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    box.bind(str(path))
    box.listen(4096)
    return box


def memory(pid: int) -> float:
    """Return a process's own memory in kB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return float(sum(int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE)))


if __name__ == "__main__":
    main()
