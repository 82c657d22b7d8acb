"""The quick start of the README, executed on a machine without this package."""

from __future__ import annotations

import re
import shutil
import sys
from functools import partial
from pathlib import Path

from tests.support.http import ask
from tests.support.machine import Machine

CHECKOUT = Path(__file__).parent.parent.parent


def commands(heading: str) -> list[str]:
    """Return the commands in a section of the README."""
    text = (CHECKOUT / "README.md").read_text()
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]


def manual_folder() -> str:
    """Return the folder of the manual page that the README names."""
    found = re.search(r"`man -M (\S+) flask-socketact`", (CHECKOUT / "README.md").read_text())
    assert found
    return found[1]


def test_the_quick_start_of_the_readme_works() -> None:
    typed = [line.replace("sudo ", "") for line in commands("Quick start")]
    assert len(typed) == 4
    *install, deploy = typed
    with Machine() as machine:
        clone = machine.path("/root/clone")
        shutil.copytree(CHECKOUT, clone, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
        shutil.copytree(Path(sys.prefix) / "wheels", machine.path("/root/wheels"))
        no_network = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels; cd /root/clone"
        for line in install:
            machine.run("bash", "-ec", f"{no_network}; {line}")
        http = partial(machine.connect, ("127.0.0.1", 8000))
        status, content = ask(http)
        assert (status, content.endswith(b"by listener http\n")) == (200, True)
        master = machine.show("app", "MainPID")
        machine.run("bash", "-ec", deploy)
        assert machine.show("app", "MainPID") not in (master, "0")
        assert ask(http)[0] == 200
        machine.wait_for(lambda: "the old workers keep serving in app-drain-" in machine.journal("app"), "the relay")
        machine.run("/srv/app/venv/bin/flask-socketact", "doctor", "app")
        machine.run("/srv/app/venv/bin/flask-socketact", "rehearse", "--restarts", "1", "--every", "1")
        machine.run("test", "-s", f"{manual_folder()}/man8/flask-socketact.8")
