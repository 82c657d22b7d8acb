"""A hostile application and hostile clients under load: well-behaved clients are not affected."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flask_socketact.workers.closing import CLOSE_TIMEOUT
from tests.support.hostile import Hostility, essence, unasked
from tests.support.http import ask
from tests.support.load import CLIENTS, Load
from tests.support.server import Server, dial

if TYPE_CHECKING:
    import socket

#: Duration in seconds; ``HOSTILE_SECONDS=900`` is a quarter of an hour.
SECONDS = float(os.environ.get("HOSTILE_SECONDS", "40"))
#: Worker class under test.
WORKER = os.environ.get("HOSTILE_WORKER", "flask_socketact.workers.thread.ThreadWorker")
#: As many that about half of the requests are hostile.
HOSTILE_CLIENTS = 16
#: In the first part workers are recycled and replaced; afterwards their memory is watched.
SETTINGS = """
from flask_socketact.conf import *
worker_class, workers, threads, graceful_timeout = {worker!r}, 2, 16, 8
max_requests = {max_requests}
pythonpath = {root!r}
"""
MAX_REQUESTS = 1000
#: Pause between two operations, in seconds.
PAUSE = 3.0
#: How much the memory of a worker may grow in one phase under constant load, in MB (what the allocator keeps); and how
#: many phases it may take until it stops growing.
GROWTH, PHASES = 12, 5


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.untraced  # its application breaks what the tracer needs, too
def test_well_behaved_clients_are_not_affected_by_hostile_ones(
    tmp_path: Path, http: socket.socket, box: socket.socket, figure: Callable[[str], None]
) -> None:
    seed = int(os.environ.get("HOSTILE_SEED") or random.randrange(10**6))  # noqa: S311 (no secret)
    print(f"HOSTILE_SEED={seed}")
    configure(tmp_path, MAX_REQUESTS)
    http.listen(512)
    command = ("-c", "settings.py", "tests.support.hostile_app:app")
    with Server(tmp_path, *command, listeners={"web": http, "mailbox": box}) as server:
        server.wait_for_message("BARRIER=1")  # until then the master has a pipe for it, and so have new workers
        before = census(server)
        kinds = CLIENTS | {"keep-alive, never pausing": 2}
        with Load(lambda: dial(http), kinds) as load:
            with hostility(http, seed) as first:
                operations = operate(server, SECONDS * 0.6)
                recycled = server.log.count("Served max_requests")
                configure(tmp_path, max_requests=0)
                reload(server)
                server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit", 30)
            done, grown = watch_memory(server, http, seed)
            done += first.done
        story = f"HOSTILE_SEED={seed} {dict(done)}\n{load.closures()}\n{essence(server.log)}"
        assert not load.failures(), f"{load.failures()}\n{story}"
        assert load.closed_by_server == 0, story
        assert not unasked(server.log), f"{story}\n{unasked(server.log)}"
        try:
            server.wait_for(lambda: not more(census_of_living(server, http), before), f"{before} and no more")
        except AssertionError as error:
            pytest.fail(f"{error}\n{story}\n{inventory(server)}")
        figure(
            f"{load.requests} requests, 0 failed, 0 connections closed; {done.total()} hostile ones, "
            f"{operations} reloads and the like, {recycled} workers recycled; memory {grown} MB"
        )


def watch_memory(server: Server, http: socket.socket, seed: int) -> tuple[Counter[str], list[float]]:
    """Wait until the memory of new workers stops growing; return the actions of hostile clients meanwhile, and the
    growth in the last phase."""
    done: Counter[str] = Counter()
    before = lasting_memory(server, http)
    for phase in range(1, PHASES + 1):
        with hostility(http, seed + 1000 * phase) as clients:
            time.sleep(SECONDS * 0.2)
        done += clients.done
        server.wait_for(lambda: len(server.workers()) == 2, "what views have forked to end")
        now = lasting_memory(server, http)
        grown = [round(mb - before[pid], 1) for pid, mb in now.items()]
        if phase > 1 and max(grown) < GROWTH:
            return done, grown
        before = now
    pytest.fail(f"memory grows on and on, lately by {grown} MB\n{server.log[-6000:]}")


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
    """Replace workers repeatedly; return how often."""
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
    """Return the number of processes, and the most threads and descriptors of one process."""
    workers = [Path(f"/proc/{pid}") for pid in server.workers()]
    return (
        len(workers),
        max(len(list((worker / "task").iterdir())) for worker in workers),
        max(len(list((worker / "fd").iterdir())) for worker in workers),
    )


def inventory(server: Server) -> str:
    """Return a readable list of the workers' threads and descriptors."""
    lines = []
    for worker in [Path(f"/proc/{pid}") for pid in server.workers()]:
        threads = [(task / "comm").read_text().strip() for task in (worker / "task").iterdir()]
        parent = (worker / "stat").read_text().rpartition(")")[2].split()[1]
        lines.append(f"{worker}, child of {parent}: {threads}; {sorted(map(os.readlink, (worker / 'fd').iterdir()))}")
    return "\n".join(lines)


def census_of_living(server: Server, http: socket.socket) -> tuple[int, int, int]:
    """Return the census after the workers have collected garbage."""
    for _ in range(4 * len(server.workers())):  # each worker is likely to get one
        ask(lambda: dial(http), "/collect")
    return census(server)


def more(now: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return any(here > there for here, there in zip(now, before, strict=True))


def lasting_memory(server: Server, http: socket.socket) -> dict[int, float]:
    """Return the least memory of each worker while nothing but the load runs: until they have closed the connections
    of hostile clients, they keep large responses."""
    census_of_living(server, http)
    least = memory(server)
    until = time.monotonic() + CLOSE_TIMEOUT + 1
    while time.monotonic() < until:
        time.sleep(0.2)
        least = {pid: min(mb, least[pid]) for pid, mb in memory(server).items()}
    return least


def memory(server: Server) -> dict[int, float]:
    """Return the memory of each worker in MB (proportional set size)."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    texts = {int(pid): Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in children.split()}
    return {pid: int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0]) / 1024 for pid, text in texts.items()}
