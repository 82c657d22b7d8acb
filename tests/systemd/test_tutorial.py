"""docs/tutorial.md, executed on a machine without this package."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.machine import Machine, install_debs
from tests.support.pages import CHECKOUT, blocks


def test_the_tutorial_works(request: pytest.FixtureRequest) -> None:
    typed = blocks("docs/tutorial.md")
    assert len(typed) == 6
    with Machine(request.config.getoption("--tree")) as machine:
        install_debs(machine, "/usr/bin/curl")
        shutil.copytree(
            CHECKOUT, machine.path("/root/flask_socketact"), ignore=shutil.ignore_patterns(".*", "build", "*.egg-info")
        )
        shutil.copytree(Path(sys.prefix) / "wheels", machine.path("/root/wheels"))
        offline = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels; apt-get() { :; }"
        for block in typed:
            machine.run("bash", "-e", "-o", "pipefail", "-c", f"{offline}\n{block}")
