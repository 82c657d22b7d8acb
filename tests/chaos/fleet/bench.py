"""Three machines behind HAProxy, prepared for schedules; repaired and looked at after each."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.chaos.bench import EXECUTED
from tests.chaos.fleet.schedule import MACHINES
from tests.chaos.operations import source
from tests.chaos.processes import LOADERS
from tests.support.fleet import Fleet
from tests.support.machine import EXAMPLES, Machine, MachineError, install_venv
from tests.support.playbooks import VARIABLES, Playbooks

#: What makes the application one of a fleet: it has the page that HAProxy asks for, and says which machine responds.
MORE = """
from flask_socketact import SocketAct
SocketAct(app)
with open("/etc/name-for-tests") as file:
    RELEASE += "@" + file.read()
"""
NO_BOOT = "raise RuntimeError('no database')\n"
#: Not in the trial: its database is another one.
RESPONDS_500 = """
@app.before_request
def fail():
    if request.path != "/readyz" and "SOCKETACT_TRIAL" not in os.environ:
        return f"bad release {RELEASE}", 500
"""
RELEASES = "/srv/app/releases"
#: A file system of its own for the releases: a fault fills it.
SIZE = "8m"
#: Until nothing of a schedule is left, in seconds: drained workers, and HAProxy's checks.
SETTLING = 60.0
_NOTE = "/etc/name-for-tests"


class Bench:
    """A fleet, and the playbooks that deploy to it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._numbers = itertools.count(1)
        fleet.start_haproxy(logs_requests=True)
        for name in MACHINES:
            self._install(name)
        self.playbooks = Playbooks(fleet, VARIABLES)
        number = self.release()
        for arguments in (("setup", {}), ("deploy", self.variables(number))):
            played = self.playbooks.play(arguments[0], **arguments[1])
            if played.status != 0:
                raise MachineError(played.output)
        fleet.wait_until_up()

    def release(self, more: str = "") -> str:
        """Make a new release, and return its name."""
        number = str(next(self._numbers))
        folder = self.playbooks.folder / "releases" / number
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(source(number, hostile=False) + MORE + more)
        return number

    def variables(self, number: str) -> dict[str, str]:
        """Return the variables of a playbook that deploys a release."""
        return {"release_id": number, "release_source": str(self.playbooks.folder / "releases" / number)}

    def boot_again(self) -> None:
        """Boot a new machine in the place of each that has crashed, and prepare it as the documentation says."""
        missing = [name for name in MACHINES if name not in self.fleet.machines]
        for name in missing:
            self.fleet.boot(name)
            self._install(name)
        if missing:
            played = self.playbooks.play("setup")
            if played.status != 0:
                raise MachineError(played.output)

    def running(self) -> dict[str, str]:
        """Return the release that each living machine runs."""
        found = {}
        for name, machine in list(self.fleet.machines.items()):
            with suppress(MachineError, OSError):
                found[name] = _running(machine)
        return found

    def forget(self) -> None:
        """Remove what the application has noted before."""
        for machine in self.fleet.machines.values():
            machine.path(EXECUTED).unlink(missing_ok=True)

    def leftovers(self, release: str) -> list[str]:
        """Wait until the fleet is as after a deploy, and return what is not."""
        deadline = time.monotonic() + SETTLING
        while found := self._odd(release):
            if time.monotonic() > deadline:
                return found
            time.sleep(0.5)
        return []

    def _install(self, name: str) -> None:
        machine = self.fleet.machines[name]
        install_venv(machine)
        machine.path(_NOTE).write_text(name)
        machine.path(RELEASES).mkdir(parents=True, exist_ok=True)
        machine.path(LOADERS).mkdir(exist_ok=True)  # it stays empty: without preload_app there is no loader
        machine.run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", RELEASES)
        for unit in (EXAMPLES / "chaos").glob("*.service"):
            shutil.copy(unit, machine.path("/etc/systemd/system"))
        machine.systemctl("daemon-reload")

    def _odd(self, release: str) -> list[str]:
        found = [
            f"{server.name} is {server.status} with weight {server.weight}"
            for server in self.fleet.servers()
            if (server.status, server.weight) != ("UP", 100)
        ]
        for name, machine in self.fleet.machines.items():
            found += [f"{name}: {what}" for what in _odd(machine, release)]
        return found


@contextmanager
def booted(tree: str) -> Iterator[Bench]:
    """Boot a fleet, with the first release."""
    with Fleet(len(MACHINES), tree) as fleet:
        yield Bench(fleet)


def executed(machine: Machine) -> list[str]:
    """Return the names of the requests that the application has noted."""
    try:
        return [line.split()[0] for line in machine.path(EXECUTED).read_text().splitlines()]
    except OSError:  # none, or the machine has crashed
        return []


def _running(machine: Machine) -> str:
    pid = machine.show("app", "MainPID")
    return machine.run("readlink", f"/proc/{pid}/cwd", check=False).stdout.strip().rpartition("/")[2]


def _odd(machine: Machine, release: str) -> list[str]:
    """Return what is not as after a deploy of a release."""
    found = []
    if (runs := _running(machine)) != release:
        found.append(f"it runs {runs}, not {release}")
    if (link := machine.path("/srv/app/current").readlink().name) != release:
        found.append(f"the link leads to {link}, not {release}")
    patterns = ("app-drain-*.scope", "flask-socketact-*", "chaos-*", "run-*.service")
    listed = machine.systemctl("list-units", "--all", "--plain", "--no-legend", *patterns).stdout
    found += [line for line in listed.splitlines() if "static" not in line]
    found += [str(path.name) for path in machine.path(RELEASES).glob(".*.new*")]
    if machine.path("/var/lib/flask-socketact/app.json").exists():
        found.append("a deploy that has not ended")
    share = json.loads(machine.run("/srv/app/venv/bin/flask-socketact", "lb", "app", "--json").stdout)
    if share["weight"] != 100 or share["expires_in"] is not None:
        found.append(f"its share is {share}")
    return found
