"""Restarts in all circumstances: old workers are relayed, keep serving, hand over and exit."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from flask_socketact.handover.old_generations import GRACE, LAST_GRACE
from tests.support.http import Client, Connect, ask
from tests.support.load import Load
from tests.support.machine import Machine, drop_in, release
from tests.support.operations import (
    BROKEN,
    LONGEST_WAIT,
    answer,
    begin_upload,
    end_upload,
    held_release,
    in_flight,
    restarting,
    wait_for_old,
)
from tests.support.server import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLI = "/srv/app/venv/bin/flask-socketact"
ONE_REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"
MULTIPART = """
import hashlib, os, time
from flask import Flask, request
app = Flask(__name__)

@app.get("/")
def short():
    return str(os.getpid())

@app.post("/upload")
def upload():
    file = request.files["file"]
    return hashlib.sha256(file.stream.read()).hexdigest() + " " + str(os.getpid())
"""


#: Added to the example: each worker starts programs all the time, and a moment later they have gone.
PROGRAMS = """
import subprocess, threading
def start_programs():
    while True:
        subprocess.run(["sleep", "0.01"])
for _ in range(6):
    threading.Thread(target=start_programs, daemon=True).start()
"""


#: Added to the example: a request sends its worker SIGURG, as a library may do.
URGENT = """
import os, signal
@app.get("/urgent")
def urgent():
    os.kill(os.getpid(), signal.SIGURG)
    return "sent"
"""


def serving_pid(connect: Connect) -> str:
    return ask(connect)[1].split()[3].decode().rstrip(",")


def start_time(machine: Machine, pid: str) -> str:
    """Return when a process was started: proc(5), field 22 of its line."""
    return machine.run("cat", f"/proc/{pid}/stat").stdout.rpartition(")")[2].split()[19]


def configure(machine: Machine, text: str, *options: str) -> None:
    """Let the service read its own configuration file."""
    machine.path("/srv/app/conf.py").write_text(f"from flask_socketact.conf import *\n{text}")
    command = f"/srv/app/venv/bin/gunicorn -c conf.py {' '.join(options)} app:app"
    drop_in(machine, "app.service", f"[Service]\nExecStart=\nExecStart={command}\n")


def test_old_workers_keep_serving_in_a_scope(machine: Machine, tcp: Connect, hold: Path) -> None:
    """While a restart does not end, the old workers serve all requests."""
    held_release(machine, hold)
    master = machine.show("app", "MainPID")
    began = start_time(machine, master)
    before = set(machine.processes("app")) - {master}
    long = in_flight(tcp, 2.0)
    with restarting(machine, hold) as restart:
        (scope,) = machine.scopes("app")
        assert scope == f"app-drain-{master}-{began}.scope"
        assert set(machine.processes(scope)) == before
        assert {serving_pid(tcp) for _ in range(20)} <= before
        assert answer(long).startswith(b"HTTP/1.1 200 OK")
        assert {serving_pid(tcp) for _ in range(20)} <= before
        assert machine.show(scope, "TimeoutStopUSec") == machine.show("app", "TimeoutStopUSec")
        assert restart.poll() is None
    wait_for_old(machine)
    assert serving_pid(tcp) not in before


def test_status_counts_the_old_workers(machine: Machine, tcp: Connect) -> None:
    machine.systemctl("start", "app")
    upload = begin_upload(tcp)
    machine.systemctl("restart", "app")
    machine.wait_for(
        lambda: "; old workers from before a restart: 1" in machine.show("app", "StatusText"), "one old worker"
    )
    assert end_upload(upload).startswith(b"HTTP/1.1 200 OK")
    machine.wait_for(lambda: "old" not in machine.show("app", "StatusText"), "no old worker")


def test_a_connection_survives_several_restarts(machine: Machine, tcp: Connect) -> None:
    """Its request ends in a worker of the first generation, while the third starts."""
    machine.systemctl("start", "app")
    with Load(tcp, {"long request": 4}) as load:
        for _ in range(4):
            machine.wait_for(lambda: load.requests >= 4, "answers")
            machine.systemctl("restart", "app")
    assert not load.failures()
    assert load.closed_by_server == 0
    wait_for_old(machine)


def test_a_hanging_request_ends_with_the_drain_time(machine: Machine, tcp: Connect) -> None:
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--graceful-timeout 3"\n')
    for worker in ("thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"):
        command = f"--graceful-timeout 3 -k flask_socketact.workers.{worker}"
        drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={command}"\n')
        machine.systemctl("start", "app")
        client = in_flight(tcp, 3600.0)
        machine.systemctl("restart", "app")
        began = time.monotonic()
        wait_for_old(machine)
        assert time.monotonic() - began < 10
        with client:
            assert client.recv(4096) == b""
        machine.systemctl("stop", "app")


def test_a_restart_while_the_next_generation_boots_loses_nothing(machine: Machine, tcp: Connect, hold: Path) -> None:
    held_release(machine, hold)
    before = set(machine.processes("app"))
    with (
        machine.start("systemctl", "restart", "app") as first,
        Load(tcp, {"new connection": 3, "keep-alive": 3}) as load,
    ):
        machine.wait_for(lambda: "Loading" in machine.show("app", "StatusText"), "the second generation to load")
        booting = machine.show("app", "MainPID")
        with machine.start("systemctl", "restart", "app") as second:
            machine.wait_for(lambda: machine.show("app", "MainPID") not in ("0", booting), "the third generation")
            assert serving_pid(tcp) in before
            hold.unlink()
            assert second.wait(DEADLINE) == 0
        first.wait(DEADLINE)
        wait_for_old(machine)
        assert serving_pid(tcp) not in before
    assert not load.failures()
    assert load.closed_by_server == 0


def test_a_stop_ends_old_workers_that_drain(machine: Machine, tcp: Connect) -> None:
    """Requests in flight are finished, and nothing starts the service again."""
    machine.systemctl("start", "app")
    old, idle = in_flight(tcp, 5.0), Client(tcp)
    idle.exchange("GET", "/")
    machine.systemctl("restart", "app")
    new = in_flight(tcp, 2.0)
    machine.systemctl("stop", "app")
    assert answer(old).startswith(b"HTTP/1.1 200 OK")
    assert answer(new).startswith(b"HTTP/1.1 200 OK")
    assert machine.scopes("app") == []
    assert machine.run("pgrep", "--uid", "app", check=False).stdout == ""
    idle.close()
    assert machine.show("app", "ActiveState") == "inactive"
    assert machine.show("app", "Result") == "success"


def test_a_stop_while_the_next_generation_boots_ends_all_workers(machine: Machine, tcp: Connect, hold: Path) -> None:
    held_release(machine, hold)
    with machine.start("systemctl", "restart", "app"):
        machine.wait_for(lambda: "Loading" in machine.show("app", "StatusText"), "the next generation to load")
        long, idle = in_flight(tcp, 3.0), Client(tcp)
        idle.exchange("GET", "/")
        machine.systemctl("stop", "app")
    assert answer(long).startswith(b"HTTP/1.1 200 OK")
    assert machine.run("pgrep", "--uid", "app", check=False).stdout == ""
    assert machine.show("app", "ActiveState") == "inactive"
    idle.close()


def test_a_stop_of_service_and_socket_during_a_relay_ends_all_workers(machine: Machine, tcp: Connect) -> None:
    arguments = '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--graceful-timeout 4"\nTimeoutStopSec=20\n'
    drop_in(machine, "app.service", arguments)
    machine.systemctl("start", "app")
    clients = [in_flight(tcp, 3600.0)]
    machine.systemctl("restart", "app")
    clients.append(in_flight(tcp, 3600.0))
    began = time.monotonic()
    machine.systemctl("stop", "app.socket", "app.service")
    assert time.monotonic() - began < 20
    assert machine.scopes("app") == []
    assert machine.run("pgrep", "--uid", "app", check=False).stdout == ""
    assert machine.show("app", "Result") == "success"
    for client in clients:
        client.close()


def test_a_stop_after_a_release_that_does_not_boot_ends_the_old_workers(machine: Machine, tcp: Connect) -> None:
    """They hand over no connection, which would start the service again."""
    machine.systemctl("start", "app")
    idle = Client(tcp)
    idle.exchange("GET", "/")
    release(machine, BROKEN)
    assert machine.systemctl("restart", "app", check=False).returncode != 0
    assert idle.exchange("GET", "/")[0] == 200
    long = in_flight(tcp, 3.0)
    machine.systemctl("stop", "app.service")
    assert answer(long).startswith(b"HTTP/1.1 200 OK")
    wait_for_old(machine)
    assert machine.run("pgrep", "--uid", "app", check=False).stdout == ""
    assert machine.show("app", "ActiveState") == "inactive"
    idle.close()


@pytest.mark.parametrize(
    "commands",
    [
        [["try-restart", "app"]],
        [["restart", "upper.target"]],
        [["daemon-reload"], ["restart", "app"], ["daemon-reload"], ["restart", "app"], ["daemon-reload"]],
        [["daemon-reexec"], ["restart", "app"], ["daemon-reexec"], ["restart", "app"], ["daemon-reexec"]],
    ],
    ids=lambda commands: "+".join(commands[0]),
)
def test_nothing_is_lost_by_a_restart_however_it_is_made(
    machine: Machine, tcp: Connect, commands: list[list[str]]
) -> None:
    upper = "[Unit]\nRequires=app.service\n"
    machine.path("/etc/systemd/system/upper.target").write_text(upper)
    drop_in(machine, "app.service", "[Unit]\nPartOf=upper.target\n")
    machine.systemctl("start", "upper.target")
    master = machine.show("app", "MainPID")
    with Load(tcp, {"new connection": 2, "keep-alive": 2, "keep-alive, mostly idle": 20, "long request": 2}) as load:
        machine.wait_for(lambda: load.requests > 50, "responses")
        for command in commands:
            machine.systemctl(*command)
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 10, "responses")  # type: ignore[misc]
        wait_for_old(machine)
    assert not load.failures()
    assert load.closed_by_server == 0
    assert machine.show("app", "MainPID") not in ("0", master)
    assert machine.show("app", "ActiveState") == "active"


def test_a_restart_of_the_socket_unit_frees_the_port(machine: Machine, tcp: Connect) -> None:
    """All workers exit, those that were relayed, too."""
    machine.systemctl("start", "app")
    machine.systemctl("restart", "app.socket")
    assert ask(tcp)[0] == 200
    machine.systemctl("start", "app")  # ... has ended
    release(machine, BROKEN)
    assert machine.systemctl("restart", "app", check=False).returncode != 0
    assert ask(tcp)[0] == 200
    release(machine)
    machine.systemctl("restart", "app.socket")
    assert ask(tcp)[0] == 200
    assert machine.show("app.socket", "ActiveState") == "active"
    wait_for_old(machine)


@pytest.mark.parametrize("worker", ["sync.SyncWorker", "gevent.GeventWorker"])
def test_no_worker_class_loses_a_request_in_restarts(
    machine: Machine, tcp: Connect, worker: str, figure: Callable[[str], None]
) -> None:
    arguments = f"-k flask_socketact.workers.{worker} --workers 6 --max-requests 300"
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={arguments}"\n')
    machine.systemctl("start", "app")
    clients = {"new connection": 4, "long request": 1, "streamed response": 1}
    with Load(tcp, clients) as load:
        for _ in range(3):
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 50, "responses")  # type: ignore[misc]
            machine.systemctl("restart", "app")
    assert not load.failures()
    wait_for_old(machine)
    figure(f"3 restarts, {load.requests} requests, 0 failed, longest wait {load.longest_wait():.2f} s")


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
def test_a_relayed_worker_is_not_recycled(machine: Machine, tcp: Connect, worker: str, hold: Path) -> None:
    """No master would replace it."""
    arguments = f"-k flask_socketact.workers.{worker} --max-requests 40"
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={arguments}"\n')
    held_release(machine, hold)
    with restarting(machine, hold):
        for _ in range(200):
            assert ask(tcp)[0] == 200
        (scope,) = machine.scopes("app")
        assert len(machine.processes(scope)) == 2


def test_programs_that_come_and_go_do_not_hinder_a_relay(machine: Machine, tcp: Connect) -> None:
    release(machine, machine.path("/srv/app/app.py").read_text() + PROGRAMS)
    machine.systemctl("start", "app")
    before = machine.journal("app").count("the old workers keep serving in")
    with Load(tcp, {"keep-alive": 6}) as load:
        for number in range(1, 4):
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 20, "responses")  # type: ignore[misc]
            machine.systemctl("restart", "app")
            assert machine.journal("app").count("the old workers keep serving in") == before + number
    assert not load.failures()
    assert load.closed_by_server == 0


def test_a_worker_that_exits_before_it_is_moved_hinders_no_relay(machine: Machine, tcp: Connect) -> None:
    """As the last one of a reload may: the relay looks again, and reports no error."""
    relay = machine.path("/usr/local/lib/flask-socketact/relay")
    original = relay.read_text()
    wait = 'say "about to move ${workers%% *}"; while [ -e "/proc/${workers%% *}" ]; do sleep 0.01; done'
    changed = original.replace("reached() { :; }", f'reached() {{ [ "$1" != relay-moves ] || {{ {wait}; }}; }}')
    assert changed != original
    machine.systemctl("start", "app")
    errors = ("journalctl", "--quiet", "--output=cat", "--identifier=busctl")
    before = machine.run(*errors).stdout
    relay.write_text(changed)
    try:
        with machine.start("systemctl", "restart", "app") as restart:
            machine.wait_for(lambda: "about to move" in machine.journal("app"), "the relay")
            machine.run("kill", "-KILL", machine.journal("app").rpartition("about to move ")[2].split()[0])
            assert restart.wait(DEADLINE) == 0
    finally:
        relay.write_text(original)
    assert ask(tcp)[0] == 200
    assert machine.journal("app").rpartition("about to move")[2].count("the old workers keep serving in") == 1
    assert machine.run(*errors).stdout == before


#: Added to the example: the exit of a worker takes a while, as the kernel frees each page of its memory.
LARGE = """
import mmap
memory = mmap.mmap(-1, 1_000_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(0, len(memory), mmap.PAGESIZE):
    memory[page] = 1
"""
#: A relay that waits until its workers exit.
AWAITS_EXIT = """reached() {
    case $1 in
        relay-moves) say "about to move $workers"; until [ -e /run/exiting ]; do sleep 0.01; done ;;
        relay-has-moved) say "has moved them" ;;
    esac
}"""


def restart_as_workers_exit(machine: Machine) -> None:
    """Restart the service while its workers exit; its master does not notice that, and so starts no others."""
    machine.run("rm", "-f", "/run/exiting")
    seen = len(machine.journal("app"))
    with machine.start("systemctl", "restart", "app") as restart:
        machine.wait_for(lambda: "about to move" in machine.journal("app")[seen:], "the relay")
        workers = machine.journal("app")[seen:].partition("about to move ")[2].splitlines()[0]
        master = machine.show("app", "MainPID")
        machine.run("sh", "-c", f"kill -s STOP {master}; kill -s KILL {workers}; touch /run/exiting")
        try:
            moved = ("has moved them", "the restart waits")
            machine.wait_for(lambda: any(text in machine.journal("app")[seen:] for text in moved), "the relay's end")
        finally:
            machine.run("kill", "-s", "CONT", master)
        assert restart.wait(DEADLINE) == 0


def test_no_scope_is_left_of_workers_that_exit_as_they_are_moved(machine: Machine, tcp: Connect) -> None:
    """systemd moves no process that is exiting, and does not end a scope that never had another one."""
    relay = machine.path("/usr/local/lib/flask-socketact/relay")
    original = relay.read_text()
    changed = original.replace("reached() { :; }", AWAITS_EXIT)
    assert changed != original
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--workers 1"\n')
    release(machine, machine.path("/srv/app/app.py").read_text() + LARGE)
    machine.systemctl("start", "app")
    relay.write_text(changed)
    try:
        for _ in range(5):  # a worker may have exited too soon
            restart_as_workers_exit(machine)
            wait_for_old(machine)
            if "the old workers have exited" in machine.journal("app"):
                break
        else:
            pytest.fail(machine.journal("app"))
    finally:
        relay.write_text(original)
    assert ask(tcp)[0] == 200


def test_a_multipart_upload_survives_a_restart(machine: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    """After the service has stopped, it outgrows memory and is written to a file in /tmp."""
    release(machine, MULTIPART)
    machine.systemctl("start", "app")
    assert machine.show("app", "PrivateTmp") == "yes"
    content = os.urandom(20_000_000)
    boundary = b"--xxx\r\n"
    head = b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    body = boundary + head + content + b"\r\n--xxx--\r\n"
    request = (
        "POST /upload HTTP/1.1\r\nHost: app\r\nContent-Type: multipart/form-data; boundary=xxx\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    clients = [tcp() for _ in range(4)]
    for client in clients:
        client.sendall(request.encode() + body[:10_000])
    assert ask(tcp)[0] == 200
    before = set(machine.processes("app"))
    machine.systemctl("restart", "app")
    for client in clients:
        client.sendall(body[10_000:])
    for client in clients:
        digest, pid = answer(client).rpartition(b"\r\n\r\n")[2].decode().split()
        assert digest == hashlib.sha256(content).hexdigest()
        assert pid in before
    wait_for_old(machine)
    figure(f"4 uploads of {len(content):,} bytes, intact")


def test_without_dbus_a_restart_is_a_drain(machine: Machine, tcp: Connect) -> None:
    machine.systemctl("start", "app")
    machine.systemctl("stop", "dbus.socket", "dbus.service")
    machine.systemctl("mask", "--runtime", "dbus.service", "dbus.socket")
    try:
        long = in_flight(tcp, 2.0)
        machine.systemctl("restart", "app")
        assert answer(long).startswith(b"HTTP/1.1 200 OK")
        assert "the restart waits for the requests in flight" in machine.journal("app")
        assert machine.show("app", "ActiveState") == "active"
    finally:
        machine.systemctl("unmask", "--runtime", "dbus.service", "dbus.socket")
        machine.systemctl("start", "dbus.socket")


def test_without_the_relay_a_restart_is_a_drain(machine: Machine, tcp: Connect) -> None:
    relay = machine.path("/usr/local/lib/flask-socketact/relay")
    machine.systemctl("start", "app")
    relay.rename(relay.with_name("away"))
    try:
        long = in_flight(tcp, 2.0)
        machine.systemctl("restart", "app")
        assert answer(long).startswith(b"HTTP/1.1 200 OK")
        assert machine.show("app", "ActiveState") == "active"
    finally:
        relay.with_name("away").rename(relay)


def test_a_restart_in_a_reload_that_has_overtaken_the_start_of_the_relay(
    machine: Machine, tcp: Connect, hold: Path
) -> None:
    """A reload right after a start: systemd starts the relay only after the reload, unless that asks for it."""
    held_release(machine, hold)
    with Load(tcp, {"new connection": 4, "keep-alive": 4}) as load:
        machine.systemctl("stop", "app-relay.service")
        machine.systemctl("reload", "--no-block", "app")
        machine.systemctl("start", "--no-block", "app-relay.service")
        machine.wait_for(lambda: machine.show("app-relay", "ActiveState") == "active", "the relay to start")
        assert machine.show("app", "ActiveState") == "reloading"
        with restarting(machine, hold):
            pass
    assert not load.failures()
    assert load.closed_by_server == 0
    assert load.longest_wait() < LONGEST_WAIT
    assert "the old workers keep serving in" in machine.run("journalctl", "--no-pager", "--unit=app").stdout


def test_a_restart_in_a_reload_before_the_relay_has_started(machine: Machine, tcp: Connect, hold: Path) -> None:
    """It runs no ExecStop=. No client loses anything, and the next generation does not wait for requests in flight."""
    held_release(machine, hold)
    machine.systemctl("stop", "app-relay.service")
    machine.systemctl("mask", "--runtime", "app-relay.service")
    try:
        with Load(tcp, {"new connection": 4, "keep-alive": 4, "keep-alive, mostly idle": 4}) as load:
            upload = begin_upload(tcp)
            machine.systemctl("reload", "--no-block", "app")
            machine.wait_for(lambda: machine.show("app", "StatusText").startswith("Reloading"), "the reload")
            with restarting(machine, hold):
                pass
            assert end_upload(upload).startswith(b"HTTP/1.1 200 OK")
        assert not load.failures()
        assert load.closed_by_server == 0
    finally:
        machine.systemctl("unmask", "--runtime", "app-relay.service")


def test_workers_that_are_recycled_during_a_relay_lose_nothing(
    machine: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    """Every few requests a worker is replaced, next to child processes of requests."""
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--max-requests 5 --workers 4"\n')
    machine.systemctl("start", "app")
    before = machine.journal("app")
    with Load(tcp, {"new connection": 6, "keep-alive": 4}) as load:
        for _ in range(5):
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 20, "responses")  # type: ignore[misc]
            machine.systemctl("restart", "app")
    assert not load.failures()
    wait_for_old(machine)
    journal = machine.journal("app").removeprefix(before)
    relayed, drained = journal.count("the old workers keep serving in"), journal.count("the restart waits for")
    figure(f"5 restarts, {relayed} relayed, {drained} drained in place, {load.requests} requests, 0 failed")


#: A process chooses its name (prctl(2)), which precedes the numbers in /proc/PID/stat.
NAMED = """
def on_starting(server):
    import ctypes
    ctypes.CDLL(None).prctl(15, b"a) S 1 2 (b 7")
"""


def test_the_process_name_of_the_master_does_not_affect_the_relay(machine: Machine, tcp: Connect) -> None:
    """The name of the scope is made of numbers of the kernel, not of names that the service chooses."""
    configure(machine, NAMED)
    machine.systemctl("start", "app")
    master = machine.show("app", "MainPID")
    assert "(a) S 1 2 (b 7)" in machine.run("cat", f"/proc/{master}/stat").stdout
    began = start_time(machine, master)
    upload = begin_upload(tcp)
    machine.systemctl("restart", "app")
    assert machine.scopes("app") == [f"app-drain-{master}-{began}.scope"], machine.journal("app")
    assert end_upload(upload).startswith(b"HTTP/1.1 200 OK")
    wait_for_old(machine)


def test_a_scope_named_by_version_0_1_0_is_recognized(machine: Machine, tcp: Connect) -> None:
    """In an upgrade, the relay may be replaced before or after the restart."""
    relay = machine.path("/usr/local/lib/flask-socketact/relay")
    text = relay.read_text()
    machine.systemctl("start", "app")
    master = machine.show("app", "MainPID")
    try:
        relay.write_text(text.replace("scope=$stem-drain-$pid-$start.scope", "scope=$stem-drain-$pid.scope"))
        upload = begin_upload(tcp)
        machine.systemctl("restart", "app")
        assert machine.scopes("app") == [f"app-drain-{master}.scope"]
        machine.wait_for(
            lambda: "old workers from before a restart: 1" in machine.show("app", "StatusText"),
            "the idle one of two to leave",
        )
        assert f"generation 1 of main process {master} drains" in machine.run(CLI, "status", "app").stdout
        relay.write_text(text)
        assert end_upload(upload).startswith(b"HTTP/1.1 200 OK")
        wait_for_old(machine)
        relay.write_text(text.replace("scope=$stem-drain-$pid-$start.scope", "scope=$stem-drain-$pid.scope"))
        long = in_flight(tcp, 8.0)
        machine.systemctl("restart", "app")
        relay.write_text(text)
        machine.systemctl("stop", "app")
        assert answer(long).startswith(b"HTTP/1.1 200 OK")
        assert machine.scopes("app") == []
    finally:
        relay.write_text(text)


#: Handles signals in C, as a library written in Go does: Python does not know of it. Also leaves a child process.
DEAF = """
import ctypes, os, signal, subprocess
from flask import Flask
for name in {names}:
    ctypes.CDLL(None).signal(getattr(signal, name), ctypes.c_void_p(1))  # SIG_IGN
app = Flask(__name__)

@app.get("/")
def short():
    return str(os.getpid())

@app.get("/program")
def program():
    return str(subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM URG; while :; do sleep 1; done"]).pid)
"""


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
def test_workers_whose_application_handles_sigurg_get_sigterm(machine: Machine, tcp: Connect, worker: str) -> None:
    release(machine, DEAF.format(names=["SIGURG"]))
    arguments = f"--graceful-timeout 20 -k flask_socketact.workers.{worker}"
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={arguments}"\n')
    machine.systemctl("start", "app")
    before = {ask(tcp)[1] for _ in range(20)}
    release(machine)
    machine.systemctl("restart", "app")
    began = time.monotonic()
    wait_for_old(machine)
    assert time.monotonic() - began < 10
    assert "do not drain 2 s after SIGURG" in machine.journal("app")
    assert before.isdisjoint(serving_pid(tcp).encode() for _ in range(20))


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
def test_an_application_that_sends_sigurg_drains_no_worker(
    machine: Machine, tcp: Connect, worker: str, hold: Path
) -> None:
    """The old workers serve until the next master tells them to drain: this signal alone does not."""
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS=-k flask_socketact.workers.{worker}"\n')
    release(machine, machine.path("/srv/app/app.py").read_text() + URGENT)
    held_release(machine, hold)
    reminders = machine.journal("app").count("do not drain")
    with restarting(machine, hold):
        (scope,) = machine.scopes("app")
        before = set(machine.processes(scope))
        for _ in range(20):
            assert ask(tcp, "/urgent") == (200, b"sent")
        assert {serving_pid(tcp) for _ in range(20)} <= before
        assert set(machine.processes(scope)) == before
    wait_for_old(machine)
    assert machine.journal("app").count("do not drain") == reminders


def test_processes_that_do_not_exit_are_killed(machine: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    """Workers that handle each signal, and child processes of requests."""
    release(machine, DEAF.format(names=["SIGURG", "SIGTERM", "SIGALRM"]))
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--graceful-timeout 2"\n')
    machine.systemctl("start", "app")
    program = ask(tcp, "/program")[1].decode()
    release(machine)
    machine.systemctl("restart", "app")
    (scope,) = machine.scopes("app")
    assert program in machine.processes(scope)
    began = time.monotonic()
    wait_for_old(machine)
    seconds = time.monotonic() - began
    assert seconds < 2 + GRACE + LAST_GRACE + 5
    journal = machine.journal("app")
    assert journal.count("SIGTERM to processes") == journal.count("SIGKILL to processes") == 1
    figure(f"gone {seconds:.1f} s after the restart")


EXITS = """
def child_exit(server, worker):
    with open("/var/lib/app/exits", "a") as file:
        print(worker.pid, worker.age, file=file)
    raise RuntimeError("a slip")
"""


def test_child_exit_is_called_for_relayed_workers(machine: Machine, tcp: Connect) -> None:
    """By the next master, for each that exits; not for child processes of requests."""
    exits = machine.path("/var/lib/app/exits")
    exits.unlink(missing_ok=True)
    configure(machine, EXITS, "--workers", "3")
    machine.systemctl("start", "app")
    before = set(machine.processes("app")) - {machine.show("app", "MainPID")}
    upload = begin_upload(tcp)
    machine.systemctl("restart", "app")
    machine.wait_for(
        lambda: exits.exists() and len(exits.read_text().splitlines()) == 2, "the hook for two of three workers"
    )
    assert end_upload(upload).startswith(b"HTTP/1.1 200 OK")
    machine.wait_for(lambda: len(exits.read_text().splitlines()) == 3, "the hook for the last worker")
    pids, ages = zip(*(line.split() for line in exits.read_text().splitlines()), strict=True)
    assert (set(pids), sorted(ages)) == (before, ["1", "2", "3"])
    assert machine.show("app", "ActiveState") == "active"
    assert machine.journal("app").count("The hook child_exit failed for worker") >= 3
    machine.path("/srv/app/conf.py").write_text("from flask_socketact.conf import *\n")
    machine.systemctl("restart", "app")
