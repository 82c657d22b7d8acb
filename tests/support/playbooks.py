"""Ansible, with the collection of this checkout, on the machines of a fleet."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.fleet import CHECKOUT, EXAMPLE
from tests.support.machine import EXAMPLES, MachineError, install_venv

if TYPE_CHECKING:
    from tests.support.fleet import Fleet

COLLECTION = CHECKOUT / "ansible/flask_socketact/fleet"
BIN = Path(sys.prefix) / "bin"
DEPLOY_OPTIONS = ["--healthy", "1", "--timeout", "30"]
#: The virtual environment is there already, and the machines have no package index.
VARIABLES: dict[str, Any] = {
    "app_packages": ["python3-venv"],
    "app_requirements": [],
    "release_deploy_options": DEPLOY_OPTIONS,
    "release_keep": 2,
}
#: Longest time of a playbook, in seconds.
LONGEST = 600.0


@dataclass(frozen=True)
class Played:
    """What became of a playbook."""

    status: int  #: exit status
    output: str

    def releases(self) -> dict[str, str]:
        """Return what the last task printed: the release of each machine."""
        return dict(re.findall(r'^ +"(web\d): (.*?)",?$', self.output, re.MULTILINE))

    def tasks(self) -> list[str]:
        """Return the tasks that have begun, in their order."""
        return re.findall(r"^TASK \[(.*)\] \*+$", self.output, re.MULTILINE)


class Playbooks:
    """Runs playbooks of the collection from the network of a fleet."""

    def __init__(self, fleet: Fleet, variables: dict[str, Any]) -> None:
        self._fleet = fleet
        self.folder = fleet.folder / "controller"
        self.folder.mkdir()
        install = (str(BIN / "ansible-galaxy"), "collection", "install", "--collections-path")
        subprocess.run(
            [*install, str(self.folder), str(COLLECTION)], check=True, stdout=subprocess.PIPE, env=self.environment()
        )
        lines = (EXAMPLE / "inventory.yml").read_text().splitlines(keepends=True)
        there = [line for line in lines if not re.match(r" *web", line) or line.split(":")[0].strip() in fleet.machines]
        (self.folder / "inventory.yml").write_text("".join(there))
        (self.folder / "variables.json").write_text(json.dumps(variables))

    def start(self, name: str, *arguments: str, **variables: Any) -> subprocess.Popen[str]:
        """Start a playbook; its output goes to NAME.log."""
        command = self.command(name, *arguments, **variables)
        return self._fleet.start(*command, log=f"{name}.log", env=self.environment())

    def command(self, name: str, *arguments: str, **variables: Any) -> list[str]:
        """Return the command that runs a playbook, in the network of the fleet and with :meth:`environment`."""
        return [
            str(BIN / "ansible-playbook"),
            f"flask_socketact.fleet.{name}",
            f"--inventory={self.folder}/inventory.yml",
            f"--extra-vars=@{self.folder}/variables.json",
            f"--extra-vars={json.dumps(variables)}",
            *arguments,
        ]

    def play(self, name: str, *arguments: str, **variables: Any) -> Played:
        """Run a playbook to its end."""
        return self.wait(name, self.start(name, *arguments, **variables))

    def wait(self, name: str, started: subprocess.Popen[str]) -> Played:
        """Wait until a playbook has ended.

        :raises MachineError: it did not within `LONGEST`; the text has the end of its output.
        """
        try:
            return Played(started.wait(LONGEST), self.output(name))
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{name} did not end within {LONGEST} s\n{self.output(name)[-3000:]}") from error

    def output(self, name: str) -> str:
        return (self._fleet.folder / f"{name}.log").read_text()

    def release(self, name: str, more: str = "") -> str:
        """Make a release of the example application, unless it is there; return its folder."""
        folder = self.folder / "releases" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            text = (EXAMPLES / "app.py").read_text().replace('return f"Hello', f'return f"Release {name}: Hello')
            (folder / "app.py").write_text(text + more)
        return str(folder)

    def start_deploy(self, name: str, more: str = "", **variables: Any) -> subprocess.Popen[str]:
        return self.start("deploy", release_id=name, release_source=self.release(name, more), **variables)

    def deploy(self, name: str, more: str = "", *arguments: str, **variables: Any) -> Played:
        """Make a release, and deploy it."""
        variables |= {"release_id": name, "release_source": self.release(name, more)}
        return self.play("deploy", *arguments, **variables)

    def kill(self, started: subprocess.Popen[str]) -> None:
        """Kill a playbook and its connections, as when the power of the controller fails."""
        for pid in reversed(_descendants(started.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.wait(10)

    def environment(self) -> dict[str, str]:
        """Return the variables that configure Ansible."""
        folder = self._fleet.folder
        options = f"-i {folder}/key -o UserKnownHostsFile={folder}/known_hosts -o IdentitiesOnly=yes"
        return {
            "ANSIBLE_HOME": f"{folder}/ansible",
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_REMOTE_USER": "root",
            "ANSIBLE_SSH_ARGS": f"-o ControlMaster=auto -o ControlPersist=60s {options}",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{folder}/cp",
            "PWD": str(self.folder),
        }


def picky(name: str) -> str:
    """Return code that makes a release fail on machines with the file /etc/no-NAME."""
    return f"import os\nif os.path.exists('/etc/no-{name}'): raise RuntimeError('disk full')\n"


def prepare(fleet: Fleet, **variables: Any) -> Playbooks:
    """Start HAProxy, and deploy the first release to a fleet; `variables` are for all playbooks."""
    fleet.start_haproxy()
    for machine in fleet.machines.values():
        install_venv(machine)
    playbooks = Playbooks(fleet, VARIABLES | variables)
    for played in (playbooks.play("setup"), playbooks.deploy("1")):
        if played.status != 0:
            raise MachineError(played.output)
    fleet.wait_until_up()
    return playbooks


def _descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and that these have started, the oldest first."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [each for child in children for each in _descendants(child)]
