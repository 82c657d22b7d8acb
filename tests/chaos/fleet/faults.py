"""Faults of machines, of the network between them, of the balancer and of the controller. Each ends by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.chaos.fleet import bench
from tests.chaos.fleet.bench import Bench
from tests.chaos.fleet.evidence import Deed
from tests.chaos.fleet.operations import Operations
from tests.chaos.processes import Processes
from tests.chaos.schedule import Event
from tests.support.machine import Machine

CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
#: Of a slow link, to a machine.
RATE = ("rate", "1mbit", "burst", "16kb", "latency", "400ms")
#: Listens at the agent's port, and says nothing.
DEAF = "import signal, socket, sys; s = socket.create_server((sys.argv[1], 8001)); signal.pause()"
#: How soon a process that was killed is replaced by systemd or its master, in seconds, on a busy machine.
REPLACED = 15.0


class Faults:
    """Makes faults, each in a thread."""

    def __init__(self, made: Bench, operations: Operations) -> None:
        self.deeds: list[Deed] = []
        self.crashed: dict[str, float] = {}  #: machines that have, and when
        self.executed: list[tuple[str, str]] = []  #: what they had noted
        self._bench, self._operations = made, operations
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def begin(self, event: Event) -> None:
        thread = threading.Thread(target=self._make, args=(event,), name=str(event))
        thread.start()
        self._threads.append(thread)

    def wait(self) -> None:
        """Wait until all have ended, except that machines that have crashed stay away.

        :raises BaseException: one could not be made.
        """
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _make(self, event: Event) -> None:
        began = time.monotonic()
        machine = self._bench.fleet.machines.get(event.arguments[0]) if event.arguments else None
        name, seconds = (*event.arguments, "", "")[:2]
        try:
            if event.what == "controller":
                self._operations.kill_controller()
            elif event.what == "haproxy":
                self._bench.fleet.begin_reload()
                self.deeds.append(Deed("haproxy", "", began, began + 3.0, "reload"))  # until all agents were asked
            elif machine is not None:
                detail = self._harm(event, name, machine, seconds)
                if event.what != "crash" and detail is not None:
                    self.deeds.append(Deed(event.what, name, began, time.monotonic(), detail))
        except BaseException as error:  # noqa: BLE001 (raised again by wait())
            if name not in self.crashed:
                self._errors.append(error)

    def _harm(self, event: Event, name: str, machine: Machine, seconds: str) -> str | None:
        """Harm a machine; return details, or None if there was nothing to harm."""
        link = f"veth{name.removeprefix('web')}"
        run = self._bench.fleet.network.run
        match event.what:
            case "crash":
                self.executed += [(each, name) for each in bench.executed(machine)]
                self.crashed[name] = time.monotonic()
                self._bench.fleet.vanish(name)
            case "network":
                run("ip", "link", "set", link, "down")
                time.sleep(float(seconds))
                run("ip", "link", "set", link, "up")
            case "slow":
                run("tc", "qdisc", "replace", "dev", link, "root", "tbf", *RATE)
                time.sleep(float(seconds))
                run("tc", "qdisc", "delete", "dev", link, "root")
            case "freeze":
                _freeze(machine, frozen=True)
                time.sleep(float(seconds))
                _freeze(machine, frozen=False)
            case "kill":
                return _kill(machine, *event.arguments[1:])
            case "relay":
                return _kill_relay(machine, float(seconds))
            case "agent":
                self._deafen(name, machine, float(seconds))
            case "full":
                machine.systemctl("start", "chaos-full@srv-app-releases.service")
                time.sleep(6.0)
        return ""

    def _deafen(self, name: str, machine: Machine, seconds: float) -> None:
        """Let the agent's port accept connections, and say nothing."""
        machine.systemctl("stop", "app-agent.socket")
        try:
            how = ("--quiet", "--collect", "--unit=chaos-agent", f"--property=RuntimeMaxSec={seconds}")
            machine.run("systemd-run", *how, "/usr/bin/python3", "-c", DEAF, self._bench.fleet.addresses[name])
            time.sleep(seconds)
        finally:
            machine.systemctl("stop", "chaos-agent", check=False)
            machine.systemctl("start", "app-agent.socket")


def _cgroup(machine: Machine) -> Path:
    """Return the control group of all processes of a machine."""
    unified = next(path for path in CGROUPS if (path / "cgroup.procs").exists())
    lines = Path(f"/proc/{machine.leader}/cgroup").read_text().splitlines()
    group = next(line[3:] for line in lines if line.startswith("0::"))
    return unified / group.lstrip("/").removesuffix("/init.scope")


def _freeze(machine: Machine, *, frozen: bool) -> None:
    (_cgroup(machine) / "cgroup.freeze").write_text("1" if frozen else "0")


def _kill(machine: Machine, role: str, which: str) -> str | None:
    """Kill a process, and wait until the service is up again; return its role, or None if there is none."""
    processes = Processes(machine)
    pids = processes.state().of(role)
    if not pids:
        return None
    processes.signal("KILL", pids[int(which) % len(pids)])
    deadline = time.monotonic() + REPLACED
    while machine.show("app", "ActiveState") != "active" and time.monotonic() < deadline:
        time.sleep(0.2)
    return role


def _kill_relay(machine: Machine, seconds: float) -> str | None:
    """Kill the next relay that runs within some seconds; return how much was killed, or None if none has run."""
    procs = _cgroup(machine) / "system.slice/app-relay.service/cgroup.procs"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError):
            if pids := procs.read_text().split():
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                time.sleep(REPLACED / 3)
                return f"{len(pids)} processes"
        time.sleep(0.01)
    return None
