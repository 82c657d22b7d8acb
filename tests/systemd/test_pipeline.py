"""examples/pipeline: a release is built, rehearsed, unpacked in another folder as root, deployed, and taken back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.http import ask
from tests.support.machine import EXAMPLES, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

PIPELINE = EXAMPLES / "pipeline"
RELEASES = "/srv/app/releases"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases of the example application, which differ in their names."""
    folder = tmp_path_factory.mktemp("pipeline")
    source = folder / "source"
    source.mkdir()
    shutil.copy(EXAMPLES / "app.py", source)
    (source / "requirements.txt").write_text("flask-socketact\n")
    offline = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(Path(sys.prefix) / "wheels")}
    subprocess.run(
        [sys.executable, PIPELINE / "build.py", source, "41", folder / "dist"], check=True, env=offline, timeout=120
    )
    _rename(folder / "dist", "41", "42")
    return folder / "dist"


def _rename(dist: Path, old: str, new: str) -> None:
    manifest = json.loads((dist / f"{old}.json").read_text())
    (dist / f"{new}.json").write_text(json.dumps(manifest | {"release": new}))
    shutil.copy(dist / f"{old}.tar.gz", dist / f"{new}.tar.gz")


@pytest.fixture(scope="module")
def machine(dist: Path) -> Iterator[Machine]:
    with Machine() as machine:
        shutil.copytree(PIPELINE, machine.path("/root/pipeline"))
        shutil.copytree(dist, machine.path("/root/dist"))
        yield machine


@pytest.mark.long
def test_the_rehearsal_deploys_the_release_and_one_that_fails(machine: Machine) -> None:
    done = machine.run("/root/pipeline/rehearse.sh", "/root/dist/41.json")
    assert done.stdout.endswith("Kept: no client noticed.\n")
    assert "sabotage" in machine.journal("rehearsal")
    assert machine.path("/srv/rehearsal/current").readlink() == Path("/srv/rehearsal/releases/next")


def test_a_release_is_unpacked_deployed_and_taken_back(machine: Machine) -> None:
    machine.run("useradd", "--system", "app")
    machine.path(RELEASES).mkdir(parents=True)
    for name in ("41", "42"):
        unpacked = machine.run("/root/pipeline/unpack.py", f"/root/dist/{name}.json", RELEASES).stdout
        assert unpacked == f"{RELEASES}/{name}\n"
    machine.path("/srv/app/current").symlink_to(f"{RELEASES}/41")
    command = f"{RELEASES}/41/venv/bin/flask-socketact"
    options = ("--directory", "/srv/app/current", "--python", "/srv/app/current/venv/bin/python3", "--install")
    machine.run(command, "units", *options)
    machine.systemctl("enable", "--now", "app.socket", "app.service")
    for name in ("42", "41"):
        machine.run(command, "deploy", "app", "--release", f"{RELEASES}/{name}", "--healthy", "1")
        master = machine.show("app", "MainPID")
        assert f"{RELEASES}/{name}/venv/" in machine.path(f"/proc/{master}/cmdline").read_text()
        assert ask(partial(machine.connect, ("127.0.0.1", 8000)))[0] == 200
    assert machine.run(command, "doctor", "app", "--quiet").stdout == ""


def test_the_user_of_the_service_cannot_change_a_release(machine: Machine) -> None:
    wrong = ("(", "-writable", "-o", "!", "-user", "root", "-o", "-perm", "/6000", ")")
    found = machine.run("runuser", "-u", "app", "--", "find", RELEASES, "!", "-type", "l", *wrong)
    assert found.stdout == ""
