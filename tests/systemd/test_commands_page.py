"""The examples of docs/commands.md, typed on a machine with a service of ours and plain gunicorn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.machine import Machine, install, install_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text()
#: Plain gunicorn breaks the promise.
BROKEN = '--title "plain gunicorn"'


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine, "app")
        install_plain(machine, threads=8)
        machine.systemctl("start", "app", "plain")
        # It exists everywhere but here: root is root.
        machine.path("/usr/local/bin/sudo").write_text('#!/bin/sh\nexec "$@"\n')
        machine.path("/usr/local/bin/sudo").chmod(0o755)
        yield machine


def test_the_examples_of_the_page_work(machine: Machine) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 9
    seen = ""
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            done = machine.run("bash", "-c", f"cd /srv/app\n{line}", check=False)
            assert done.returncode == (1 if BROKEN in line else 0), f"{line}\n{done.stdout}{done.stderr}"
            seen += done.stdout
    assert "Deployed /srv/app/releases/42" in seen
    assert seen.count("Kept: no client noticed.") == 2


def test_options_in_the_text_of_the_page_work(machine: Machine) -> None:
    options = re.findall(r"`(--(?:do|fail-on) '[^`]+')`", PAGE)
    assert len(options) == 3
    for option in options:
        line = f"flask-socketact rehearse --restarts 1 --every 1 {option}"
        assert machine.run("bash", "-c", line).stdout.endswith("Kept: no client noticed.\n")


def test_it_shows_what_list_prints(machine: Machine) -> None:
    """The heading and the columns are those of the page."""
    heading = next(line for line in PAGE.splitlines() if line.startswith("service  state"))
    assert machine.run("flask-socketact", "list").stdout.split("\n")[0].split() == heading.split()
