"""The promises of the README, each in a test with its name."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.support.http import Connect, ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, drop_in, release
from tests.support.operations import BROKEN
from tests.support.server import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_port_never_refuses(machine: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    done = threading.Event()
    connected, refused = 0, []

    def connect() -> None:
        nonlocal connected
        while not done.wait(0.005):
            try:
                tcp().close()
                connected += 1
            except OSError as error:
                refused.append(error)

    connecting = threading.Thread(target=connect)
    connecting.start()
    try:
        machine.systemctl("restart", "app")
        machine.systemctl("stop", "app")
        machine.systemctl("restart", "app")
        machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", "app")
        release(machine, BROKEN)
        assert machine.systemctl("restart", "app", check=False).returncode != 0
        machine.wait_for(lambda: int(machine.show("app", "NRestarts")) >= 2, "attempts to boot")
        release(machine)
        machine.systemctl("restart", "app")
    finally:
        done.set()
        connecting.join()
    assert not refused
    assert connected > 100
    figure(f"{connected} connections, {len(refused)} refused")


def test_no_accepted_request_is_lost(machine: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--max-requests 30"\n')
    machine.systemctl("start", "app")
    with Load(tcp) as load:
        for verb in ("restart", "reload", "stop", "reload-or-restart"):
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 100, "responses")  # type: ignore[misc]
            machine.systemctl(verb, "app")
    assert not load.failures()
    recycled = machine.journal("app").count("Served max_requests")
    assert recycled > 0
    figure(f"{load.requests} requests, 0 failed, 4 restarts, reloads and stops, {recycled} workers recycled")


def test_no_client_waits_for_a_restart(machine: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    """The application takes five seconds to load, and a request in flight takes eight."""
    machine.systemctl("start", "app")
    slow = (EXAMPLES / "app.py").read_text().replace("app = Flask", "time.sleep(5)\napp = Flask")
    release(machine, slow)
    with tcp() as long, Load(tcp, {"new connection": 4, "keep-alive": 4}) as load:
        long.sendall(b"GET /sleep/8.0 HTTP/1.1\r\nHost: app\r\n\r\n")
        machine.wait_for(lambda: load.requests > 50, "responses")
        machine.systemctl("restart", "app")
        assert long.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert not load.failures()
    assert load.closed_by_server == 0
    assert load.longest_wait() < 2.5
    figure(f"{load.requests} requests, 0 failed, longest wait {load.longest_wait():.2f} s")


def test_ready_means_serving(machine: Machine, tcp: Connect) -> None:
    """Each worker takes two seconds to load the application, and then writes a file."""
    note = "import os, time\ntime.sleep(2)\nopen(f'/var/lib/app/loaded-{os.getpid()}', 'w').close()\n"
    release(machine, note + "from flask import Flask\napp = Flask(__name__)\n")
    machine.systemctl("start", "--no-block", "app")
    machine.wait_for(lambda: "Loading" in machine.show("app", "StatusText"), "a status")
    assert machine.show("app", "ActiveState") == "activating"
    machine.wait_for(lambda: machine.show("app", "ActiveState") != "activating", "READY=1")
    assert machine.show("app", "ActiveState") == "active"
    loaded = {path.name.partition("-")[2] for path in machine.path("/var/lib/app").glob("loaded-*")}
    assert loaded == set(pids(machine)) - {machine.show("app", "MainPID")}
    assert "Serving with 2 of 2 workers" in machine.show("app", "StatusText")
    assert ask(tcp)[0] == 404


def test_systemctl_stop_is_final(machine: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    """One request ends within the drain time, the other never does."""
    arguments = '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--graceful-timeout 4"\nTimeoutStopSec=20\n'
    drop_in(machine, "app.service", arguments)
    machine.systemctl("start", "app")
    hanging, ending = tcp(), tcp()
    for client, seconds in ((hanging, 3600.0), (ending, 3.0)):
        client.sendall(f"GET /sleep/{seconds} HTTP/1.1\r\nHost: app\r\n\r\n".encode())
    assert ask(tcp)[0] == 200  # accepted after them
    began = time.monotonic()
    machine.systemctl("stop", "app.socket", "app.service")
    took = time.monotonic() - began
    with hanging, ending:
        assert ending.recv(4096).startswith(b"HTTP/1.1 200 OK")
        assert hanging.recv(4096) == b""
    assert took < 20
    assert machine.show("app", "Result") == "success"
    assert machine.show("app", "ActiveState") == "inactive"
    assert machine.run("pgrep", "--uid", "app", check=False).stdout == ""
    figure(f"{took:.1f} s with a drain time of 4 s and TimeoutStopSec=20")


def test_outside_systemd_nothing_changes(machine: Machine) -> None:
    command = "cd /srv/app && exec /srv/app/venv/bin/gunicorn -c python:flask_socketact.conf -b 127.0.0.1:9000 app:app"
    gunicorn = machine.start("runuser", "-u", "app", "--", "sh", "-c", command)
    try:
        machine.wait_for(lambda: responds_at_9000(machine), "a response")
    finally:
        machine.run("pkill", "--uid", "app", "--oldest", "gunicorn")
        _, log = gunicorn.communicate(timeout=DEADLINE)
    assert log.count("No listeners from systemd (LISTEN_FDS is not set)") == 1
    assert "Traceback" not in log
    assert not responds_at_9000(machine)


def responds_at_9000(machine: Machine) -> bool:
    try:
        with machine.connect(("127.0.0.1", 9000)) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return b"200 OK" in client.recv(4096)
    except ConnectionRefusedError:
        return False


def pids(machine: Machine) -> list[str]:
    """Return the processes of the service."""
    return machine.run("cat", "/sys/fs/cgroup/system.slice/app.service/cgroup.procs").stdout.split()
