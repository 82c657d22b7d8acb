"""Control groups in a folder, as systemd and the kernel show them in /sys/fs/cgroup and /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.linux import proc
from flask_socketact.systemd import cgroup

if TYPE_CHECKING:
    import pytest

NO_PROCESS = 2**22 + 1  #: no pid is so high
SLICE = "/system.slice"
SERVICE = f"{SLICE}/app.service"


class ControlGroups:
    """The control groups that our code finds for the length of a test, and the processes in them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._proc = folder / "cgroup", folder / "proc"
        self.root.mkdir()
        self._proc.mkdir()
        ours = self._proc / str(os.getpid())
        ours.mkdir()
        (ours / "cgroup").write_text(f"0::{SERVICE}\n")
        (ours / "stat").write_text(Path("/proc/self/stat").read_text())
        monkeypatch.setattr(cgroup, "ROOTS", (folder / "not-mounted", self.root))
        monkeypatch.setattr(proc, "PROC", self._proc)

    def fill(self, group: str, pids: Iterable[int]) -> str:
        """Let a control group have these processes, and return its name."""
        pids = list(pids)
        path = self.root / group.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        for pid in pids:
            if pid != os.getpid():
                self.add_process(pid, group)
        return group

    def remove(self, group: str) -> None:
        path = self.root / group.lstrip("/")
        (path / "cgroup.procs").unlink()
        path.rmdir()

    def add_process(self, pid: int, group: str, parent: int = 1) -> None:
        """Let /proc have a process in a control group; its name is hard to parse."""
        folder = self._proc / str(pid)
        folder.mkdir(exist_ok=True)
        for name in ("comm", "status"):
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"/proc/{pid}/{name}")  # of a real process, if there is one
        (folder / "cgroup").write_text(f"1:name=systemd:/\n0::{group}\n")
        (folder / "stat").write_text(f"{pid} (a) b (c) S {parent} " + " ".join(map(str, range(5, 53))) + "\n")
