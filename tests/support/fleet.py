"""Machines behind a real HAProxy, and Ansible to deploy to them, in a network of their own."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, MachineError, install_venv
from tests.support.network import GATEWAY, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

CHECKOUT = Path(__file__).parents[2]
#: What script/setup has unpacked.
UNPACKED = CHECKOUT / ".fleet"
HAPROXY = UNPACKED / "haproxy"
SSHD = UNPACKED / "openssh-server"
LIBRARIES = "usr/lib/{}-linux-gnu"
EXAMPLE = EXAMPLES / "fleet"
BALANCER = (GATEWAY, 80)
#: Few of each: Ansible needs the CPU.
CLIENTS = {"new connection": 2, "keep-alive": 3, "keep-alive, mostly idle": 4, "slow upload": 1}


@dataclass(frozen=True)
class Server:
    """What HAProxy knows about a server of a backend."""

    name: str
    status: str  #: UP, DOWN, DRAIN or MAINT
    weight: int
    downs: int  #: how often it went from UP to DOWN
    chosen: int  #: how many requests it got


class Fleet:
    """Booted machines ``web1`` … with sshd, for the length of a ``with`` block."""

    def __init__(self, number: int = 3, tree: str = "/") -> None:
        self._number = number
        self._tree = tree
        self.machines: dict[str, Machine] = {}
        self.addresses: dict[str, str] = {}
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Fleet:
        if not UNPACKED.exists():
            raise MachineError(f"{UNPACKED} is missing: run script/setup test")
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flask-socketact-fleet-")))
            self._make_keys()
            stack.callback(self._wait_for_started)
            self.network = stack.enter_context(Network())
            for number in range(1, self._number + 1):
                self._boot(stack, number)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for machine in self.machines.values():  # quicker than to power them off
            machine.kill()
        self._stack.close()

    def boot(self, name: str) -> Machine:
        """Boot a new machine in the place of one that has vanished: nothing is installed there but sshd."""
        return self._boot(self._stack, int(name.removeprefix("web")))

    def start(self, *command: str, log: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command in the network; its output goes to the file `log` of the folder."""
        with (self.folder / log).open("w") as output:
            started = self.network.start(*command, env=env, output=output)
        self._started.append(started)
        return started

    def running(self) -> dict[str, str]:
        """Return the release that the main process of each machine runs."""
        pids = {name: machine.show("app", "MainPID") for name, machine in self.machines.items()}
        return {
            name: machine.run("readlink", f"/proc/{pids[name]}/cwd").stdout.strip().rpartition("/")[2]
            for name, machine in self.machines.items()
        }

    def load(self, clients: Mapping[str, int] = CLIENTS) -> Load:
        """Return clients of the balancer."""
        return Load(partial(self.network.connect, BALANCER), clients)

    def start_haproxy(self, example: str = "haproxy.cfg", *, logs_requests: bool = False) -> None:
        """Start HAProxy with an example's configuration; its log, if it logs requests, is haproxy.log."""
        text = (EXAMPLE / example).read_text()
        if logs_requests:
            text = text.replace("log /dev/log", "log stdout format raw")
        text = text.replace("/run/haproxy/", f"{self.folder}/").replace("/etc/haproxy/", f"{self.folder}/")
        there = "|".join(self.machines)
        without = rf"^ *(user|group|chroot|log /dev|server (?!({there}) )).*\n"
        text = re.sub(without, "", text, flags=re.MULTILINE)
        config = self.folder / "haproxy.cfg"
        config.write_text(text)
        libraries = HAPROXY / LIBRARIES.format(os.uname().machine)
        command, env = [str(HAPROXY / "usr/sbin/haproxy")], {"LD_LIBRARY_PATH": str(libraries)}
        if self._tree != "/":  # that of the other Debian, with all its libraries
            mount = 'mount --bind "$0/usr" /usr && exec haproxy "$@"'
            command, env = ["unshare", "--mount", "sh", "-c", mount, self._tree], {}
        self.haproxy = self.start(*command, "-W", "-db", "-f", str(config), log="haproxy.log", env=env)
        self.wait_for((self.folder / "admin.sock").exists, "HAProxy", 10)

    def wait_until_up(self) -> None:
        """Wait until HAProxy finds all servers up, and forget how often they were down before."""
        self.wait_for(lambda: {server.status for server in self.servers()} == {"UP"}, "all servers to be up")
        self.ask_haproxy("clear counters all")

    def reload_haproxy(self) -> None:
        """Reload HAProxy as its unit does, and wait until the new process listens. It knows no weights."""
        before = self.ask_haproxy("show info")
        self.begin_reload()
        pid = re.compile(r"^Pid: .*", re.MULTILINE)
        self.wait_for(lambda: pid.findall(self.ask_haproxy("show info")) != pid.findall(before), "the reload", 10)

    def begin_reload(self) -> None:
        """Let HAProxy's master start new workers; the old ones finish what they do."""
        master = Path(f"/proc/{self.haproxy.pid}/task/{self.haproxy.pid}/children").read_text()  # of nsenter
        os.kill(int(master), signal.SIGUSR2)

    def ask_haproxy(self, command: str) -> str:
        """Send a command to HAProxy's socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.folder / "admin.sock"))
            client.sendall(f"{command}\n".encode())
            return b"".join(iter(partial(client.recv, 65536), b"")).decode()

    def downs(self) -> dict[str, int]:
        """Return how often each server went down."""
        return {server.name: server.downs for server in self.servers()}

    def weights(self) -> dict[str, int]:
        """Return the weight of each server; 0: it is drained."""
        return {server.name: server.weight for server in self.servers()}

    def servers(self) -> list[Server]:
        """Return what HAProxy knows about the machines, those that have vanished included."""
        rows = csv.DictReader(self.ask_haproxy("show stat").removeprefix("# ").splitlines())
        return [
            Server(row["svname"], row["status"], int(row["weight"]), int(row["chkdown"]), int(row["lbtot"]))
            for row in rows
            if row["svname"] in self.addresses
        ]

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
        """Wait until `condition` holds.

        :raises MachineError: it did not within `seconds`; the text has the logs.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise MachineError(f"waited {seconds} s for {what}\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """Return the end of what each started command wrote."""
        return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))

    def vanish(self, name: str, *, power: bool = False) -> None:
        """Let a machine crash; with `power`, let it lose its power, so that it does not even close its connections."""
        if power:
            self.network.run("ip", "link", "set", f"veth{name.removeprefix('web')}", "down")
        self.machines.pop(name).kill()

    def _boot(self, stack: ExitStack, number: int) -> Machine:
        machine = stack.enter_context(Machine(self._tree))
        self.machines[f"web{number}"] = machine
        self.addresses[f"web{number}"] = self.network.attach(machine, number)
        self._start_sshd(machine)
        return machine

    def _make_keys(self) -> None:
        """Make a key for Ansible, and one for the machines."""
        for name in ("key", "host_key"):
            keygen = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name))
            subprocess.run(keygen, check=True)
        public = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"192.0.2.* {public}")

    def _start_sshd(self, machine: Machine) -> None:
        """Put sshd's files into a machine, as its package does, and start it."""
        if not machine.path("/usr/sbin/sshd").exists():
            debs = SSHD / "debs" if self._tree == "/" else Path(self._tree) / "root/openssh-server"
            for deb in sorted(debs.glob("*.deb")):
                _unpack(deb, machine)
            machine.run("useradd", "--system", "--home-dir=/run/sshd", "--shell=/usr/sbin/nologin", "sshd")
            shutil.copy(self.folder / "host_key", machine.path("/etc/ssh/ssh_host_ed25519_key"))
            config = machine.path("/usr/share/openssh/sshd_config").read_text()
            machine.path("/etc/ssh/sshd_config").write_text(f"UsePAM no\n{config}")  # a login starts no user manager
        login = machine.path("/root/.ssh")
        login.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.folder / "key.pub", login / "authorized_keys")
        machine.systemctl("daemon-reload")
        machine.systemctl("start", "ssh")

    def _wait_for_started(self) -> None:
        """Wait for what the network's end has killed."""
        for each in self._started:
            each.wait(10)


def serve(machine: Machine, name: str = "app", port: int = 8000) -> None:
    """Start a service on a machine, without Ansible: the example application, which greets with the service's name."""
    install_venv(machine)
    machine.run("sh", "-c", "id --user app || useradd --system app")
    folder = machine.path(f"/srv/{name}")
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text((EXAMPLES / "app.py").read_text().replace("Hello", name))
    options = ("--name", name, "--user", "app", "--directory", f"/srv/{name}", "--listen", f"0.0.0.0:{port}")
    machine.run("/srv/app/venv/bin/flask-socketact", "units", "--install", *options, "--threads", "8")
    machine.systemctl("start", name)


def _unpack(deb: Path, machine: Machine) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as files:
        extract = ["tar", "--extract", "--keep-directory-symlink", f"--directory={machine.path('/')}"]
        subprocess.run(extract, stdin=files.stdout, check=True)
    if files.returncode != 0:
        raise MachineError(f"dpkg-deb cannot read {deb}")
