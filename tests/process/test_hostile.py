"""A hostile application, and hostile clients, under load: those that behave see nothing of it."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hostile import Hostility
from tests.load import CLIENTS, Load, ask
from tests.process.test_carry import box as box  # noqa: PLC0414 (a fixture)
from tests.server import Server, dial

if TYPE_CHECKING:
    import socket

#: For how long, in seconds: ``HOSTILE_SECONDS=900`` for a quarter of an hour.
SECONDS = float(os.environ.get("HOSTILE_SECONDS", "60"))
#: Of the worker class.
WORKER = os.environ.get("HOSTILE_WORKER", "flask_socketact.workers.thread.ThreadWorker")
#: So that about half of the requests are theirs.
HOSTILE_CLIENTS = 16
#: Workers are recycled in the first part, while they are replaced otherwise, too; their memory is watched afterwards.
SETTINGS = """
from flask_socketact.conf import *
worker_class, workers, threads, graceful_timeout = {worker!r}, 2, 16, 8
max_requests = {max_requests}
pythonpath = {root!r}
"""
MAX_REQUESTS = 1000
#: What a worker that has ended unasked leaves in the log, and what the worker's own code never says.
UNASKED = re.compile(
    "exited with code|was sent SIG|WORKER TIMEOUT|has not left|no sign of life|Unexpected error|cannot go on"
)
#: Between two operations, in seconds.
PAUSE = 3.0
#: How much the memory of a worker may grow from the middle to the end, in MB: what the allocator keeps.
GROWTH = 12


@pytest.mark.timeout(SECONDS + 120)
def test_those_who_behave_see_nothing_of_those_who_do_not(
    tmp_path: Path, http: socket.socket, box: socket.socket, figure: Callable[[str], None]
) -> None:
    seed = int(os.environ.get("HOSTILE_SEED") or random.randrange(10**6))  # noqa: S311 (no secret)
    print(f"HOSTILE_SEED={seed}")
    configure(tmp_path, MAX_REQUESTS)
    http.listen(512)
    command = ("-c", "settings.py", "tests.hostile_app:app")
    with Server(tmp_path, *command, listeners={"web": http, "mailbox": box}) as server:
        server.wait_until_ready()
        before = census(server)
        kinds = CLIENTS | {"keep-alive, never pausing": 2}
        with Load(lambda: dial(http), kinds) as load:
            with hostility(http, seed) as first:
                operations = operate(server, SECONDS * 0.6)
                recycled = server.log.count("max_requests answered")
                configure(tmp_path, max_requests=0)
                reload(server)
                server.wait_for(lambda: len(server.workers()) == 2, "the old workers to leave", 30)
            with hostility(http, seed + 1000) as second:  # the memory of new workers grows to what they need
                time.sleep(SECONDS * 0.2)
            middle = memory(server)
            with hostility(http, seed + 2000) as third:
                time.sleep(SECONDS * 0.2)
            server.wait_for(lambda: max(growth(server, middle)) < GROWTH, f"memory to be as before, {middle} MB")
            grown = growth(server, middle)
        done = first.done + second.done + third.done
        story = f"HOSTILE_SEED={seed} {dict(done)}\n{server.log[-6000:]}"
        assert not load.failures(), f"{load.failures()}\n{story}"
        assert load.closed_by_server == 0, story
        assert not UNASKED.search(server.log), f"{UNASKED.findall(server.log)}\n{story}"
        server.wait_for(lambda: not more(census_of_living(server, http), before), f"no more than {before} to be left")
        figure(
            f"{len(load.outcomes)} requests, 0 failed, 0 connections closed; {done.total()} hostile ones, "
            f"{operations} reloads and the like, {recycled} workers recycled; memory {grown} MB"
        )


def configure(folder: Path, max_requests: int) -> None:
    root = str(Path(__file__).parent.parent.parent)
    (folder / "settings.py").write_text(SETTINGS.format(worker=WORKER, max_requests=max_requests, root=root))


def reload(server: Server) -> None:
    reloaded = server.log.count("Reloaded: ") + 1
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: server.log.count("Reloaded: ") >= reloaded, "a reload")


def hostility(http: socket.socket, seed: int) -> Hostility:
    return Hostility(lambda: dial(http), HOSTILE_CLIENTS, seed)


def operate(server: Server, seconds: float) -> int:
    """Replace workers again and again; return how often."""
    deadline = time.monotonic() + seconds
    operations = 0
    while time.monotonic() < deadline:
        time.sleep(PAUSE)
        reload(server)
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            time.sleep(PAUSE)
            server.signal(number)
        operations += 3
    return operations


def census(server: Server) -> tuple[int, int, int]:
    """Return how many processes there are, and the most threads and descriptors that one of them has."""
    workers = [Path(f"/proc/{pid}") for pid in server.workers()]
    return (
        len(workers),
        max(len(list((worker / "task").iterdir())) for worker in workers),
        max(len(list((worker / "fd").iterdir())) for worker in workers),
    )


def census_of_living(server: Server, http: socket.socket) -> tuple[int, int, int]:
    """Return the same when the workers have collected garbage."""
    for _ in range(4 * len(server.workers())):  # each is likely to get one
        ask(lambda: dial(http), "/collect")
    return census(server)


def more(now: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return any(here > there for here, there in zip(now, before, strict=True))


def memory(server: Server) -> dict[int, float]:
    """Return the memory of each worker in MB, shared pages shared out."""
    return {
        pid: int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[0]) / 1024
        for pid in server.workers()
    }


def growth(server: Server, before: dict[int, float]) -> list[float]:
    """Return by how many MB each worker has grown: all of them were there `before`."""
    return [round(mb - before[pid], 1) for pid, mb in memory(server).items()]
