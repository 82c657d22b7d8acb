"""A machine of its own with a real systemd, booted from this one's files in about a second.

systemd-nspawn boots what is installed here on an overlay in memory: whatever happens
inside, the files outside stay as they are. The network is a loopback of its own.
Needs root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

EXAMPLES = Path(__file__).parents[2] / "examples"
RELAY = Path(__file__).parents[2] / "flask_socketact/handover/relay"

#: What a client dials: host and port, or the path of a Unix socket inside the machine.
Address = tuple[str, int] | str

#: When we die, so does the machine; the bind mount is seen by nobody else.
_PREPARE = ("setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private")
_BOOT = """
[ -z "$3" ] || echo 0 >"$3/cgroup.procs"
mount --bind "$4" "$1"
exec systemd-nspawn --quiet --directory="$1" --volatile=overlay --keep-unit --register=no --link-journal=no \
    --console=pipe --private-network --machine="$2" --boot -- --unit=basic.target
"""
#: What a login of root has there, and nothing of ours.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
_CLONE_NEWNET = 0x40000000


class MachineError(Exception):
    """The machine cannot be booted, or did not come to the state we waited for."""


class Machine:
    """A booted machine, for the length of a ``with`` block."""

    def __init__(self, tree: str = "/") -> None:
        """Prepare to boot the files below `tree`: this machine's, or what debootstrap has made."""
        self._tree = tree

    def __enter__(self) -> Machine:
        if os.geteuid() != 0:
            raise MachineError("a machine is booted by root only")
        if shutil.which("systemd-nspawn") is None:
            raise MachineError("systemd-nspawn is missing: apt-get install systemd-container")
        self._folder = tempfile.TemporaryDirectory(prefix="flask-socketact-")
        folder = Path(self._folder.name)
        (folder / "root").mkdir()
        self._console = folder / "console"
        name = f"socketact-{uuid.uuid4().hex[:8]}"
        self._cgroup = _make_cgroup(name)
        with self._console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                [*_PREPARE, "sh", "-ec", _BOOT, "sh", str(folder / "root"), name, str(self._cgroup or ""), self._tree],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
            )
        try:
            self.leader = self._wait_for_leader()
            self.wait_for(self._is_running, "systemd to be up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._nspawn.terminate()  # asks the machine to power off
        try:
            self._nspawn.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        try:
            self._remove_cgroup()
        finally:
            self._folder.cleanup()

    def run(self, *command: str, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, and return what it printed."""
        with self.start(*command) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
        if check and done.returncode != 0:
            what = f"{' '.join(command)}: exit status {done.returncode}"
            raise MachineError(f"{what}\n{done.stdout}{done.stderr}\n{self._logs()}")
        return done

    def start(self, *command: str, output: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a command inside, as root; its output waits in pipes, or goes where ours does (None)."""
        return subprocess.Popen(
            ["nsenter", f"--target={self.leader}", "--all", *command],
            env=_ENVIRONMENT | {"TERM": os.environ.get("TERM", "dumb")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )

    def systemctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit, as ``systemctl show`` has it."""
        return self.systemctl("show", "--value", f"--property={name}", unit).stdout.strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def warnings(self, since: float, lines: int) -> str:
        """Return the last `lines` of what was logged as a warning or an error since a time (seconds since 1970).

        :raises MachineError: the machine does not run.
        :raises subprocess.TimeoutExpired: its journal does not respond.
        """
        self.run("journalctl", "--sync", timeout=10)
        options = ("--priority=warning", "--output=short-precise", f"--since=@{int(since)}")
        found = self.run("journalctl", "--no-pager", "--quiet", *options, timeout=10).stdout
        return "\n".join(found.splitlines()[-lines:])

    def path(self, inside: str) -> Path:
        """Return where a file of the machine is found from outside."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Wait until `condition` holds.

        :raises MachineError: it did not within `seconds`; the text has the end of the logs.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise MachineError(f"waited {seconds} s for {what}\n{self._logs()}")
            time.sleep(0.05)

    def processes(self, unit: str) -> list[str]:
        """Return the pids of a unit's processes; none when it is not there."""
        group = self.show(unit, "ControlGroup")
        return self.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs", check=False).stdout.split() if group else []

    def workers(self, name: str) -> list[str]:
        """Return the pids of the processes of a service but its master, those moved to scopes included."""
        units = [f"{name}.service", *self.scopes(name)]
        master = self.show(name, "MainPID")
        return [pid for unit in units for pid in self.processes(unit) if pid != master]

    def scopes(self, name: str) -> list[str]:
        """Return the scopes that workers of a service have been moved to."""
        listed = self.systemctl("list-units", "--type=scope", "--plain", "--no-legend", f"{name}-drain-*").stdout
        return [line.split()[0] for line in listed.splitlines()]

    def kill(self) -> None:
        """Let the machine vanish, as when its power fails."""
        with suppress(ProcessLookupError):
            os.kill(self.leader, signal.SIGKILL)  # with the first process of its namespace, all others end
        self._nspawn.wait()

    def wait_until_off(self, seconds: float) -> None:
        """Wait until the machine has powered off.

        :raises subprocess.TimeoutExpired: it has not.
        """
        self._nspawn.wait(seconds)

    def connect(self, address: Address, timeout: float = 60) -> socket.socket:
        """Connect to a listener inside the machine."""
        if isinstance(address, str):
            client = socket.socket(socket.AF_UNIX)
            address = str(self.path(address))
        else:
            client = socket_in(self.leader, socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        client.settimeout(timeout)
        try:
            client.connect(address)
        except BaseException:
            client.close()
            raise
        return client

    def enter_network(self) -> None:
        """Let the calling thread make its sockets in the machine's network from now on."""
        enter_network(self.leader)

    def _wait_for_leader(self) -> int:
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._nspawn.poll() is None:
            for pid in children.read_text().split():
                with suppress(FileNotFoundError, ProcessLookupError):  # it has gone already, or while we read
                    if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                        return int(pid)
            time.sleep(0.02)
        raise MachineError(f"systemd-nspawn did not boot:\n{self._console.read_text()}")

    def _remove_cgroup(self) -> None:
        """Remove what was made for the machine; its last processes may take a moment to be gone."""
        if self._cgroup is None:
            return
        deadline = time.monotonic() + 10
        for folder in sorted((self._cgroup, *self._cgroup.glob("**/")), reverse=True):
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)

    def _is_running(self) -> bool:
        return self.systemctl("is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _logs(self) -> str:
        journal = self.run("journalctl", "--no-pager", "--lines=60", check=False).stdout
        return f"{self._console.read_text()[-2000:]}\n{journal}"


def _make_cgroup(name: str) -> Path | None:
    """Make a cgroup for a machine: two that are booted at once would share ours, and kill each other's services.

    None where there is no unified hierarchy: then nspawn makes one.
    """
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    unified = next((fields[1] for fields in map(str.split, mounts) if fields[2] == "cgroup2"), None)
    if unified is None:
        return None
    ours = next(line[4:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/"))
    cgroup = Path(unified, ours, name)
    cgroup.mkdir()
    return cgroup


def enter_network(pid: int) -> None:
    """Let the calling thread make its sockets in the network of a process from now on."""
    with open(f"/proc/{pid}/ns/net", "rb") as network:
        _setns(network.fileno())


def socket_in(pid: int, family: socket.AddressFamily) -> socket.socket:
    """Make a socket in the network of a process: a thread goes there, and ends there."""
    made: list[socket.socket] = []

    def make() -> None:
        enter_network(pid)
        made.append(socket.socket(family))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def leave_network() -> None:
    """Let the calling thread make its sockets in a new network from now on, which ends with it."""
    if sys.version_info >= (3, 12):
        os.unshare(_CLONE_NEWNET)
    elif ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _setns(fd: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(fd, _CLONE_NEWNET)
    elif ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def units(name: str) -> list[str]:
    """Return the units of an application."""
    return [
        f"{name}{kind}" for kind in (".service", ".socket", "-relay.service", "-watchdog.path", "-watchdog.service")
    ]


def install(machine: Machine, *names: str) -> None:
    """Install the example application and its units as the README says, and open the ports.

    The virtual environment is the tree's own, or that which runs us, moved to where the units look for it.
    """
    machine.run("useradd", "--system", "app")
    folder = install_venv(machine)
    shutil.copy(EXAMPLES / "app.py", folder)
    helpers = machine.path("/usr/local/lib/flask-socketact")
    helpers.mkdir(parents=True, exist_ok=True)
    shutil.copy(RELAY, helpers)
    for name in names:
        for unit in units(name):
            shutil.copy(EXAMPLES / "units" / unit, machine.path("/etc/systemd/system"))
    machine.systemctl("daemon-reload")
    if names:
        machine.systemctl("enable", "--now", *(f"{name}.socket" for name in names))


def install_venv(machine: Machine) -> Path:
    """Put the virtual environment where the units look for it; return the folder it is in."""
    folder = machine.path("/srv/app")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "venv").exists():
        _move_venv(folder)
    return folder


def install_plain(machine: Machine, threads: int) -> None:
    """Install the example application on plain gunicorn, at port 8001: our units without what is ours in them."""
    ours = (
        "ExecStop",
        "ExecStopPost",
        "ExecStartPre",
        "Wants",
        "ExecReload=/usr",
        "Watchdog",
        "TimeoutSec",
        "JoinsNamespaceOf",
        "ListenSequentialPacket",
    )
    options = f"-k gthread --workers 2 --threads {threads} --keep-alive 75"
    for kind in ("socket", "service"):
        lines = (EXAMPLES / f"units/app.{kind}").read_text().splitlines(keepends=True)
        text = "".join(line for line in lines if not line.startswith(ours))
        text = text.replace("-c python:flask_socketact.conf", options).replace("127.0.0.1:8000", "127.0.0.1:8001")
        text = text.replace("app.socket", "plain.socket").replace("KillMode=control-group", "KillMode=mixed")
        machine.path(f"/etc/systemd/system/plain.{kind}").write_text(text)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "plain.socket")


#: Of a virtual environment, what only whoever runs the tests needs: most of it, and each machine would have a copy.
_NOT_SERVED = (
    *("debs", "wheels", "mypy*", "*__mypyc*", "ruff*", "selenium*", "trio*", "hypothesis*", "pip"),
    *("ansible*", "_pytest", "setuptools", "ast_serialize", "xdist", "cryptography"),
)


def _move_venv(folder: Path) -> None:
    shutil.copytree(sys.prefix, folder / "venv", symlinks=True, ignore=shutil.ignore_patterns(*_NOT_SERVED))
    for script in ("gunicorn", "flask-socketact"):
        path = folder / "venv/bin" / script
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(["#!/srv/app/venv/bin/python3\n", *lines[1:]]))
    subprocess.run(["chmod", "--recursive", "u=rwX,go=rX", folder], check=True)


def install_debs(machine: Machine, program: str, *packages: str) -> None:
    """Install what script/setup has downloaded (nginx, HAProxy, logrotate, curl), if a program of it is not there.

    `packages` are patterns of files; by default all are installed.
    """
    if not machine.path(program).exists():
        shutil.copytree(Path(sys.prefix) / "debs", machine.path("/root/debs"))
        files = [f"/root/debs/{package}" for package in packages or ("*.deb",)]
        machine.run("bash", "-c", "dpkg --install --force-confnew " + " ".join(files))


def release(machine: Machine, source: str | None = None) -> None:
    """Put a new release in place, the example application or `source`; a restart makes it run."""
    machine.path("/srv/app/app.py").write_text((EXAMPLES / "app.py").read_text() if source is None else source)


def drop_in(machine: Machine, unit: str, text: str, name: str = "test.conf") -> None:
    """Change settings of a unit, as ``systemctl edit`` does."""
    folder = machine.path(f"/etc/systemd/system/{unit}.d")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    machine.systemctl("daemon-reload")


def interrupt_on_terminate() -> None:
    """Let SIGTERM unwind ``with`` blocks, as SIGINT does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
