"""A real master whose workers are rows of its scoreboard, without processes."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn import sock
from gunicorn.app.base import BaseApplication

from flask_socketact import env
from flask_socketact.master.arbiter import Arbiter
from flask_socketact.master.load_pace import LoadPace
from flask_socketact.shared.slot import Field


class App(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """An application whose configuration file is a dictionary."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in self.settings.items():
            self.cfg.set(name, value)


class Master(Arbiter):
    """The arbiter; but a fork adds a row to the scoreboard, and a signal is noted instead of sent."""

    def __init__(self, app: App) -> None:
        self.pids = itertools.count(1001)
        self.sent: list[tuple[int, int]] = []  #: pid, signal
        self.has_processes = True  #: whether a fork succeeds
        super().__init__(app)
        self._load_pace = LoadPace(cpus=100)  # all may load at once
        self.pid = os.getpid()  # as start() does
        self.WORKERS: dict[int, Any] = {}

    def spawn_worker(self) -> int:
        if not self.has_processes:
            return 0
        pid = next(self.pids)
        self.worker_age += 1
        slot = self.board.take(self.generation, 4)
        slot[Field.PID] = pid
        temporary = SimpleNamespace(close=lambda: None, last_update=lambda: 0.0)
        self.WORKERS[pid] = SimpleNamespace(slot=slot, age=self.worker_age, tmp=temporary, cfg=self.cfg, aborted=False)
        return pid

    def kill_worker(self, pid: int, sig: int) -> None:
        if sig == signal.SIGTERM:
            self.WORKERS[pid].slot.begin_drain()
        self.sent.append((pid, sig))

    def accept(self, *pids: int) -> None:
        """Let workers accept, all without `pids`; and bring a reload forward, as a turn of the loop does."""
        self.reports.accepting.update(pids or self.WORKERS)
        self.booted = True
        self.reloads.advance()

    def lose(self, pid: int) -> Any:
        """Let a worker exit, and return it."""
        self.reports.accepting.discard(pid)
        return self.WORKERS.pop(pid)


@pytest.fixture
def messages(systemd: socket.socket) -> Callable[[], list[str]]:
    """Return the notifications since the last call, each up to its first line break."""

    def read() -> list[str]:
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(systemd.recv(4096).decode().partition("\n")[0])
        return found

    return read


@pytest.fixture
def master(tmp_path: Path, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Master]:
    """A master that is ready, with two workers of generation 1 that serve."""
    for name in ("LISTEN_PID", "LISTEN_FDS", "WATCHDOG_USEC", "RUNTIME_DIRECTORY", env.OVERLAP):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    before = dict(os.environ)
    folder = Path.cwd()
    master = Master(App(workers=2, bind=["127.0.0.1:0"], chdir=str(tmp_path)))
    master.LISTENERS = sock.create_sockets(master.cfg, master.log)
    for _ in range(2):
        master.spawn_worker()
    master.accept()
    master.report_state()
    yield master
    sock.close_sockets(master.LISTENERS)
    for end in (master.reports._read, master.reports._write):
        end.close()
    os.environ.clear()
    os.environ.update(before)
    os.chdir(folder)
