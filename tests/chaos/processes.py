"""The processes of the service, by role, and the connections that each holds: from systemd and /proc."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from tests.support.machine import Machine

NAME = "app"
PORT = 8000
MAILBOX = "/run/app/mailbox"
UNIX_SOCKET = "/run/app/http.sock"
#: Each loader makes a file here: tests/chaos/steps.py.
LOADERS = "/run/chaos-loaders"
#: States of connections in /proc/net/tcp that have a process: established, and closed by the client (CLOSE_WAIT).
_OPEN = ("01", "08")
_INODE = re.compile(r"socket:\[(\d+)\]")
#: A line of ss --unix: state, queues, address and inode of the socket and of its peer.
_UNIX = re.compile(rf"ESTAB +\d+ +\d+ +{UNIX_SOCKET} +(\d+) +\* +(\d+)")


@dataclass(frozen=True)
class State:
    """The service at a moment: pids by role, and what systemd says of it."""

    active: str
    master: int
    workers: tuple[int, ...]
    old: tuple[int, ...]
    loaders: tuple[int, ...]  #: the newest one last

    def of(self, role: str) -> tuple[int, ...]:
        known = {"master": (self.master,), "worker": self.workers, "old": self.old, "loader": self.loaders[-1:]}
        return tuple(pid for pid in known.get(role, ()) if pid)

    def role(self, pid: int) -> str:
        if pid in self.loaders:
            return "loader"
        return next((role for role in ("master", "worker", "old") if pid in self.of(role)), "relay")

    def others(self, pid: int) -> tuple[int, ...]:
        """Return the other workers, of all generations."""
        return tuple(other for other in self.workers + self.old if other != pid)


class Processes:
    """Looks at the processes of the service, and stops them."""

    def __init__(self, machine: Machine, *, unix: bool = False) -> None:
        """`unix`: clients use the Unix socket."""
        self._machine, self._unix = machine, unix

    def state(self) -> State:
        machine = self._machine
        shown = machine.systemctl("show", "-p", "ActiveState,MainPID", NAME).stdout
        properties = dict(line.split("=", 1) for line in shown.splitlines())
        master = int(properties["MainPID"])
        loaders = self._loaders()
        inside = [int(pid) for pid in machine.processes(f"{NAME}.service")]
        workers = tuple(pid for pid in inside if pid not in (master, *loaders) and self._is_python(pid))
        scopes = [int(pid) for scope in machine.scopes(NAME) for pid in machine.processes(scope)]
        old = tuple(pid for pid in scopes if pid not in loaders)
        return State(properties["ActiveState"], master, workers, old, loaders)

    def _loaders(self) -> tuple[int, ...]:
        """Return the loaders that live: one for each generation that has a worker."""
        found = [file.name for file in self._machine.path(LOADERS).iterdir()]
        return tuple(pid for pid in sorted(map(int, found)) if self.exists(pid))

    def _is_python(self, pid: int) -> bool:
        """Return whether it is a worker, not a command of the unit."""
        try:
            return b"gunicorn" in self._machine.path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def signal(self, name: str, pid: int) -> None:
        self._machine.run("kill", f"-{name}", str(pid), check=False)

    def is_stopped(self, pid: int) -> bool:
        try:
            return self._machine.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def exists(self, pid: int) -> bool:
        return self._machine.path(f"/proc/{pid}").exists()

    def connections(self, pid: int, others: tuple[int, ...]) -> tuple[frozenset[int], frozenset[int]]:
        """Return the clients' ports of the connections that a process holds; and of those that no process holds, if it
        has accepted a message of the mailbox: they are in one."""
        ports = self._ports()
        own = self._sockets(pid)
        held = frozenset(port for inode, port in ports.items() if inode in own)
        if not own & self._accepted_messages():
            return held, frozenset()
        elsewhere = own.union(*(self._sockets(other) for other in others))
        return held, frozenset(port for inode, port in ports.items() if inode not in elsewhere)

    def _ports(self) -> dict[str, int]:
        """Return the clients' ports of the open connections to the service, by the server's socket."""
        if self._unix:
            shown = self._machine.run("ss", "--no-header", "--unix").stdout
            return {inode: int(peer) for inode, peer in _UNIX.findall(shown)}
        rows = [line.split() for line in self._machine.path("/proc/1/net/tcp").read_text().splitlines()[1:]]
        return {
            row[9]: int(row[2].rpartition(":")[2], 16)
            for row in rows
            if int(row[1].rpartition(":")[2], 16) == PORT and row[3] in _OPEN and row[9] != "0"
        }

    def _accepted_messages(self) -> set[str]:
        """Return the sockets that were accepted from the mailbox: connected, with its path."""
        rows = [line.split() for line in self._machine.path("/proc/1/net/unix").read_text().splitlines()[1:]]
        return {row[6] for row in rows if row[-1] == MAILBOX and row[3] == "00000000"}

    def _sockets(self, pid: int) -> set[str]:
        found = set()
        with suppress(OSError):
            for fd in self._machine.path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if match := _INODE.match(str(fd.readlink())):
                        found.add(match[1])
        return found
