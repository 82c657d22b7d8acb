"""``WatchdogSec=``: processes that hang are killed and replaced; healthy ones lose nothing."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect, ask
from tests.support.load import Load
from tests.support.machine import Machine, drop_in, release
from tests.support.operations import LONGEST_WAIT, WATCHDOG, kill, wait_for_old, wait_until_restarted

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 2
CLIENTS = {"new connection": 4, "keep-alive": 4, "long request": 1}
#: The worker that gets the first request for a deadlock has it, in one thread for each such request.
DEADLOCK = """
import os, threading
lock = threading.Lock()
lock.acquire()

@app.get("/deadlock")
def deadlock():
    try:
        os.close(os.open("/var/lib/app/deadlock", os.O_CREAT | os.O_EXCL))
        open("/var/lib/app/stuck", "w").write(str(os.getpid()))
    except FileExistsError:
        pass
    if open("/var/lib/app/stuck").read() == str(os.getpid()) or os.path.exists("/var/lib/app/all"):
        lock.acquire()
    return str(os.getpid())
"""


@pytest.fixture
def watched(machine: Machine) -> Machine:
    source = (machine.path("/srv/app/app.py")).read_text()
    release(machine, source + DEADLOCK)
    options = f"--threads {THREADS} --graceful-timeout 10"
    drop_in(machine, "app.service", f'[Service]\nWatchdogSec={WATCHDOG}\nEnvironment="GUNICORN_CMD_ARGS={options}"\n')
    machine.run("sh", "-c", "rm -f /var/lib/app/*")
    machine.systemctl("start", "app")
    return machine


def test_the_watchdog_leaves_a_healthy_service_alone(watched: Machine, tcp: Connect) -> None:
    """With requests of half its time in all threads, and without requests."""
    clients = [tcp() for _ in range(2 * THREADS)]
    for client in clients:
        client.sendall(f"GET /sleep/{WATCHDOG / 2 - 1} HTTP/1.1\r\nHost: app\r\n\r\n".encode())
    for client in clients:
        with client:
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
    before = watched.workers("app")
    deadline = time.monotonic() + 2 * WATCHDOG
    watched.wait_for(lambda: time.monotonic() > deadline, "two watchdog times to pass")
    assert watched.show("app", "NRestarts") == "0"
    assert watched.workers("app") == before


def test_a_master_that_hangs_is_killed_and_its_workers_keep_serving(
    watched: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    """They serve in a scope until the new ones accept."""
    with Load(tcp, CLIENTS) as load:
        kill(watched, signal.SIGSTOP, int(watched.show("app", "MainPID")))
        seconds = wait_until_restarted(watched)
        seen = load.requests
        watched.wait_for(lambda: load.requests > seen + 50, "answers of the next workers")
    assert seconds < 2.5 * WATCHDOG
    assert not load.failures()
    assert load.closed_by_server == 0
    watched.wait_for(lambda: not watched.scopes("app"), "the old workers to leave")
    figure(
        f"WatchdogSec={WATCHDOG:g}, up again after {seconds:.1f} s, {load.requests} requests, "
        f"{load.failures().total()} failed, longest wait {load.longest_wait():.2f} s"
    )


@pytest.mark.parametrize("moment", ["stop-post", "auto-restart"])
def test_a_restart_while_the_watchdog_acts_loses_nothing(
    watched: Machine, tcp: Connect, figure: Callable[[str], None], moment: str
) -> None:
    """While systemd kills a master that hangs, or waits for ``RestartSec=``."""
    states = ("stop-watchdog", "stop-post", "final-watchdog") if moment == "stop-post" else (moment,)
    if moment == "stop-post":  # otherwise the state is too short to be seen
        drop_in(watched, "app.service", "[Service]\nExecStopPost=/bin/sleep 1\n", "slow.conf")
    with Load(tcp, CLIENTS) as load:
        kill(watched, signal.SIGSTOP, int(watched.show("app", "MainPID")))
        watched.wait_for(lambda: watched.show("app", "SubState") in states, moment, 3 * WATCHDOG)
        watched.systemctl("restart", "app")
        wait_for_old(watched)
    assert not load.failures(), watched.journal("app")[-3000:]
    assert load.closed_by_server == 0
    longest = load.longest_wait("new connection", "keep-alive")
    assert longest < LONGEST_WAIT
    figure(f"{moment}: {load.requests} requests, 0 failed, 0 closed, longest wait {longest:.3f} s")


def test_a_service_whose_workers_all_hang_is_restarted(
    watched: Machine, tcp: Connect, figure: Callable[[str], None]
) -> None:
    """Every thread of every worker waits for a lock that is never released."""
    watched.path("/var/lib/app/all").touch()
    clients = [deadlock(tcp) for _ in range(8 * THREADS)]
    began = time.monotonic()
    wait_until_restarted(watched)
    seconds = time.monotonic() - began
    assert ask(tcp)[0] == 200
    assert seconds < 2.5 * WATCHDOG
    assert "All workers are stuck" in watched.journal("app")
    for client in clients:
        client.close()
    figure(f"WatchdogSec={WATCHDOG:g}, up again after {seconds:.1f} s")


def test_a_worker_in_a_deadlock_is_replaced(watched: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    """By the master; the requests of the other worker are served."""
    with Load(tcp, {"long request": 1, "keep-alive": 2}) as load:
        clients: list[socket.socket] = []
        while len(clients) < THREADS:  # each that hangs does so in the one worker
            client = deadlock(tcp)
            client.settimeout(0.5)
            try:
                client.recv(65536)
                client.close()
            except TimeoutError:
                clients.append(client)
        began = time.monotonic()
        stuck = watched.path("/var/lib/app/stuck").read_text()
        watched.wait_for(
            lambda: (
                f"Worker {stuck} replaced: no progress in any of its requests" in watched.journal("app")
                and watched.show("app", "StatusText").startswith("Serving with 2 of 2")
            ),
            "another worker in its place",
        )
        seconds = time.monotonic() - began
        watched.wait_for(lambda: stuck not in watched.workers("app"), "the stuck one to be gone")
    assert seconds < 2.5 * WATCHDOG
    assert watched.show("app", "NRestarts") == "0"
    assert not load.failures()
    for client in clients:
        client.close()
    figure(
        f"WatchdogSec={WATCHDOG:g}, replaced after {seconds:.1f} s, {load.requests} requests, "
        f"{load.failures().total()} failed"
    )


def test_a_worker_without_heartbeats_is_killed(watched: Machine, tcp: Connect, figure: Callable[[str], None]) -> None:
    """One that computes in C and never releases the interpreter's lock."""
    stopped, healthy = map(int, watched.workers("app"))
    long = tcp()
    while True:  # a request in flight on the other
        long.sendall(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
        if f"process {healthy}," in long.recv(65536).decode():
            break
        long.close()
        long = tcp()
    long.sendall(f"GET /sleep/{2 * WATCHDOG} HTTP/1.1\r\nHost: app\r\n\r\n".encode())
    kill(watched, signal.SIGSTOP, stopped)
    began = time.monotonic()
    watched.wait_for(
        lambda: (
            str(stopped) not in watched.workers("app")
            and watched.show("app", "StatusText").startswith("Serving with 2 of 2")
        ),
        "another worker in its place",
    )
    seconds = time.monotonic() - began
    with long:
        assert long.recv(65536).startswith(b"HTTP/1.1 200")
    assert seconds < 2.5 * WATCHDOG
    assert watched.show("app", "NRestarts") == "0"
    figure(f"WatchdogSec={WATCHDOG:g}, replaced after {seconds:.1f} s")


def deadlock(connect: Connect) -> socket.socket:
    client = connect()
    client.sendall(b"GET /deadlock HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
    return client
