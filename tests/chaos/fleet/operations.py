"""What administrators do to a fleet, and what came of it."""

from __future__ import annotations

import re
import subprocess
import time
from typing import Any

from tests.chaos.evidence import Expected
from tests.chaos.fleet.bench import NO_BOOT, RESPONDS_500, Bench
from tests.chaos.fleet.evidence import Deed, FleetOperation
from tests.chaos.fleet.schedule import MACHINES
from tests.chaos.schedule import Event
from tests.support.machine import MachineError
from tests.support.playbooks import VARIABLES, Played

CLI = "/srv/app/venv/bin/flask-socketact"
CANARY = ("--canary", "10%")
#: Longest time of a playbook, in seconds, on a machine that others use.
LONGEST = 900.0
#: Of an output, what a line of the report shows.
SHOWN = 400
_STDERR, _MESSAGE = (re.compile(rf'"{name}": "(.+?)(?<!\\)"') for name in ("stderr", "msg"))


class Operations:
    """Does operations one after the other, and notes each."""

    def __init__(self, bench: Bench) -> None:
        self.operations: list[FleetOperation] = []
        self.killed: list[Deed] = []  #: of the controller
        self.outputs: list[str] = []
        self._bench = bench
        self._playing: subprocess.Popen[str] | None = None
        self._is_killed = False
        self._is_stopping = False

    def do(self, event: Event) -> None:
        if self._is_stopping:
            return
        match event.what, event.arguments:
            case "drain", (machine, seconds):
                self._drain(machine, float(seconds))
            case ("restart" | "reload") as verb, (machine,):
                self._run(machine, "systemctl", verb, "app")
            case "rollback", ():
                self._play("rollback", {})
            case "deploy-no-boot", ():
                self._deploy(NO_BOOT)
            case _:
                more = RESPONDS_500 if "500" in event.what else ""
                self._deploy(more, responds=bool(more), canary=event.what.endswith("canary"))

    def repair(self) -> str:
        """Deploy a good release to all machines, as the documentation tells for whatever has happened; return it."""
        number = self._bench.release()
        self._play("deploy", self._bench.variables(number), release=number)
        return number

    def kill_controller(self) -> None:
        """Kill the playbook that runs, if one does; it is run again."""
        playing, began = self._playing, time.monotonic()
        if playing is not None and playing.poll() is None:
            self._is_killed = True
            self._bench.playbooks.kill(playing)
            self.killed.append(Deed("controller", "", began, time.monotonic()))

    def stop(self) -> None:
        """End what runs, and do nothing more."""
        self._is_stopping = True
        self.kill_controller()

    def _deploy(self, more: str, *, responds: bool = False, canary: bool = False) -> None:
        number = self._bench.release(more)
        variables: dict[str, Any] = {**self._bench.variables(number)}
        if canary:
            variables["release_deploy_options"] = [*VARIABLES["release_deploy_options"], *CANARY]
        how: dict[str, Any] = {"bad": number, "responds": responds} if more else {"release": number}
        self._play("deploy", variables, canary=canary, **how)

    def _play(self, name: str, variables: dict[str, Any], **how: Any) -> None:
        """Run a playbook; if its controller is killed, run it again."""
        while self._play_once(name, variables, **how) and not self._is_stopping:
            pass

    def _play_once(self, name: str, variables: dict[str, Any], **how: Any) -> bool:
        """Run a playbook; return whether its controller was killed."""
        there = [machine for machine in MACHINES if machine in self._bench.fleet.machines]
        gone = [f"!{machine}" for machine in MACHINES if machine not in there]
        began = time.monotonic()
        self._is_killed = False
        limit = [f"--limit=all:{':'.join(gone)}"] if gone else []
        self._playing = self._bench.playbooks.start(name, *limit, **variables)
        played = Played(self._playing.wait(LONGEST), self._bench.playbooks.output(name))
        self._playing = None
        ended, killed = time.monotonic(), self._is_killed
        releases = set(played.releases().values())
        if name == "rollback" and played.status == 0 and len(releases) == 1:
            how["release"] = releases.pop()
        expected = Expected.FAILURE if how.get("bad") else Expected.SUCCESS
        words = (name, variables.get("release_id", ""), "canary" if how.get("canary") else "", *gone)
        command = " ".join(filter(None, (*words, "(killed)" if killed else "")))
        self.outputs.append(f"== {command}: {began:.3f} to {ended:.3f}, exit status {played.status}\n{played.output}")
        self.operations.append(
            FleetOperation(
                command,
                began,
                ended,
                played.status,
                Expected.ANY if killed else expected,
                output=_why(played.output) if played.status else "",
                first=there[0],
                running=tuple(self._bench.running().items()),
                **how,
            )
        )
        return killed

    def _drain(self, name: str, seconds: float) -> None:
        """Drain a machine for some seconds; it is ready again by itself."""
        if self._run(name, CLI, "lb", "app", "drain", "--for", f"{seconds:.0f}", "--wait"):
            time.sleep(seconds + 2.0)

    def _run(self, name: str, *command: str) -> bool:
        """Run a command on a machine, unless it has crashed; return whether it did not fail."""
        machine = self._bench.fleet.machines.get(name)
        if machine is None:
            return False
        began = time.monotonic()
        try:
            done = machine.run(*command, check=False)
            status, output = done.returncode, " ".join((done.stdout + done.stderr).split())[:SHOWN]
        except (MachineError, OSError) as error:  # it has crashed meanwhile
            status, output = 255, str(error)[:SHOWN]
        text = " ".join([name, *command])
        self.operations.append(FleetOperation(text, began, time.monotonic(), status, Expected.SUCCESS, output=output))
        return status == 0


def _why(output: str) -> str:
    """Return the first failure of a playbook: what its command wrote, or what Ansible says."""
    failed = [line for line in output.splitlines() if line.startswith(("fatal:", "failed:"))]
    if not failed:
        return " ".join(output.splitlines()[-3:])[:SHOWN]
    found = _STDERR.search(failed[0]) or _MESSAGE.search(failed[0])
    return f"{failed[0].partition('!')[0]}: {found[1] if found else failed[0]}"[:SHOWN]
