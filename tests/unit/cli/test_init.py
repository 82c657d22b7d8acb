"""``flask-socketact init``."""

from __future__ import annotations

import resource
import runpy
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from flask_socketact.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def test_the_file_imports_the_configuration(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert done.exit_code == 0, done.output
    settings = runpy.run_path(str(tmp_path / "flask_socketact.conf"))
    assert settings["worker_class"] == "flask_socketact.workers.thread.ThreadWorker"


def test_an_existing_file_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "flask_socketact.conf").write_text("workers = 9\n")
    done = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert done.exit_code == 3
    assert "exists and was not changed" in done.output
    assert (tmp_path / "flask_socketact.conf").read_text() == "workers = 9\n"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["init", str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "does not exist" in done.output


@pytest.mark.untraced  # the limit is one for what the tracer writes, too
def test_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """The file-size limit fails as a full disk does, after a part has been written."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "flask_socketact.cli", "init", str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr == f"Error: {tmp_path}/flask_socketact.conf cannot be written: File too large\n"
    assert not list(tmp_path.iterdir())
