"""The quick start of the README, executed on a machine without this package."""

from __future__ import annotations

import re
import shutil
import sys
from functools import partial
from pathlib import Path

from tests.support.http import ask
from tests.support.machine import Machine, install_debs
from tests.support.pages import CHECKOUT, blocks, text_of


def manual_folder() -> str:
    """Return the folder of the manual page that the README names."""
    found = re.search(r"`man -M (\S+) flask-socketact`", text_of("README.md"))
    assert found
    return found[1]


def test_the_readme_works_from_the_quick_start_to_the_removal() -> None:
    """With the pages that follow it: a service without root, and nginx in front."""
    quick_start, deploy, later = blocks("README.md", "Quick start")
    (without_root,) = blocks("docs/systemd.md", "A user's own services")
    with Machine() as machine:
        install_debs(machine, "/usr/sbin/nginx")
        clone = machine.path("/root/clone")
        shutil.copytree(CHECKOUT, clone, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
        shutil.copytree(Path(sys.prefix) / "wheels", machine.path("/root/wheels"))
        offline = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels; apt-get() { :; }; cd /root/clone"
        as_root = 'sudo() { "$@"; }'
        type_ = partial(_type, machine, f"{as_root}; {offline}")
        type_(quick_start)
        http = partial(machine.connect, ("127.0.0.1", 8000))
        status, content = ask(http)
        assert (status, content.endswith(b"by listener http\n")) == (200, True)
        master = machine.show("app", "MainPID")
        type_(deploy)
        assert machine.show("app", "MainPID") not in (master, "0")
        assert ask(http)[0] == 200
        machine.wait_for(lambda: "the old workers keep serving in app-drain-" in machine.journal("app"), "the relay")
        type_("flask-socketact doctor app; flask-socketact rehearse --restarts 1 --every 1")
        machine.run("test", "-s", f"{manual_folder()}/man8/flask-socketact.8")
        *upgrades, removal = later.splitlines()
        type_("\n".join(upgrades))
        machine.wait_for(lambda: len(machine.workers("app")) == 4, "four workers, and no old ones")
        for block in blocks("docs/nginx.md"):
            type_(block)
        _as_user(machine, without_root)
        type_(removal)
        assert not list(machine.path("/etc/systemd/system").glob("app*"))
        assert not machine.path("/usr/local/lib/flask-socketact").exists()


def _type(machine: Machine, first: str, lines: str) -> None:
    machine.run("bash", "-e", "-o", "pipefail", "-c", f"{first}\n{lines}")


def _as_user(machine: Machine, lines: str) -> None:
    """Type lines as a user, in a copy of the clone; the port is another service's."""
    machine.run("useradd", "--create-home", "web")
    machine.run("sh", "-c", "cp -r /root/clone /root/wheels /home/web/; chown -R web: /home/web")
    uid = machine.run("id", "--user", "web").stdout.strip()
    machine.systemctl("start", f"user@{uid}.service")
    lines = lines.replace("--user-manager", "--user-manager --listen 127.0.0.1:8002")
    first = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/home/web/wheels; sudo() { :; }; cd /home/web/clone"
    environment = ("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "HOME=/home/web")
    machine.run("runuser", "-u", "web", "--", *environment, "bash", "-ec", f"{first}\n{lines}")
    assert ask(partial(machine.connect, ("127.0.0.1", 8002)))[0] == 200
