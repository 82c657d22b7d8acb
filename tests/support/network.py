"""A network of its own for machines and for the programs that talk to them: a bridge in a network namespace.

Nothing of it has a name outside. The programs are in a process namespace, too: when its first process ends, because
the block has ended or because we were killed, the kernel ends all the others, and removes the network.
"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

from tests.support.machine import socket_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import IO

    from tests.support.machine import Machine

#: The network that RFC 5737 has for documentation: the example files can be used as they are.
PREFIX = "192.0.2"
GATEWAY = f"{PREFIX}.1"
#: Ethernet addresses. They stay when a machine boots again, as those of a real one do: others would go on to send to
#: the one before for up to 45 s (arp(7)). A bridge without an address of its own takes that of one of its links.
_ETHERNET = "02:00:5e:00:02:{:02x}"

_HOLD = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"),
    # It says that it is there, and takes the place of parents that have ended, as of ssh's masters.
    *("sh", "-c", "trap : CHLD; echo; while :; do sleep 3600 & wait; done"),
)


class Network:
    """A bridge with the address `GATEWAY`, for the length of a ``with`` block."""

    def __enter__(self) -> Network:
        self._unshare = subprocess.Popen(_HOLD, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            assert self._unshare.stdout is not None
            self._unshare.stdout.readline()
            children = f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children"
            with open(children, encoding="ascii") as file:
                self.leader = int(file.read())
            self.run("ip", "link", "set", "lo", "up")
            self.run("ip", "link", "add", "bridge", "address", _ETHERNET.format(1), "type", "bridge")
            self.run("ip", "address", "add", f"{GATEWAY}/24", "dev", "bridge")
            self.run("ip", "link", "set", "bridge", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unshare.kill()  # the kernel kills its child, and that its namespace
        self._unshare.communicate()

    def attach(self, machine: Machine, number: int) -> str:
        """Connect a machine by a link ``veth<number>``; return the machine's address."""
        address, ethernet = f"{PREFIX}.{10 + number}", _ETHERNET.format(10 + number)
        inside = ("nsenter", f"--target={machine.leader}", "--net", "ip")
        link = f"veth{number}"
        self.run("ip", "link", "add", link, "type", "veth", "peer", "name", "host0", "address", ethernet)
        self.run("ip", "link", "set", "host0", "netns", str(machine.leader))
        self.run("ip", "link", "set", link, "master", "bridge", "up")
        for command in (("link", "set", "lo", "up"), ("link", "set", "host0", "up")):
            subprocess.run([*inside, *command], check=True)
        subprocess.run([*inside, "address", "add", f"{address}/24", "dev", "host0"], check=True)
        return address

    def start(self, *command: str, env: Mapping[str, str] | None = None, output: IO[str]) -> subprocess.Popen[str]:
        """Start a command in the network; its output goes to a file."""
        return subprocess.Popen(
            ["nsenter", f"--target={self.leader}", "--net", "--pid", "--", *command],
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )

    def run(self, *command: str) -> None:
        """Run a command in the network.

        :raises subprocess.CalledProcessError: it failed.
        """
        subprocess.run(["nsenter", f"--target={self.leader}", "--net", *command], check=True)

    def connect(self, address: tuple[str, int], timeout: float = 60) -> socket.socket:
        """Connect to an address from the network."""
        client = socket_in(self.leader, socket.AF_INET)
        client.settimeout(timeout)
        try:
            client.connect(address)
        except BaseException:
            client.close()
            raise
        return client
