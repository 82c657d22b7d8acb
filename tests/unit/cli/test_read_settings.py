"""gunicorn's settings of a service, read in a process of its own, as ``doctor`` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flask_socketact.cli.doctor import read_settings

GUNICORN = str(Path(sys.executable).with_name("gunicorn"))
CONF = ("-c", "python:flask_socketact.conf")


def run(folder: Path, *arguments: str, program: str = GUNICORN, **variables: str) -> subprocess.CompletedProcess[str]:
    request = {"directory": str(folder), "program": program, "argv": [program, *arguments], "path": str(folder)}
    names = ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY")
    environ = {name: value for name, value in os.environ.items() if name not in names} | variables
    command = [sys.executable, read_settings.__file__, json.dumps(request)]
    return subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True, check=False)


def settings(folder: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    done = run(folder, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def refusal(folder: Path, *arguments: str, program: str = GUNICORN, **variables: str) -> str:
    """Return the last line on stderr, of a service whose settings cannot be read."""
    done = run(folder, *arguments, program=program, **variables)
    assert done.returncode != 0
    return done.stderr.splitlines()[-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an application that must not be imported."""
    (tmp_path / "app.py").write_text("raise RuntimeError('imported')\n")
    return tmp_path


def test_settings_of_plain_gunicorn(folder: Path) -> None:
    found = settings(folder, "--threads", "3", "app:app", WEB_CONCURRENCY="5")
    assert (found["threads"], found["workers"], found["graceful_timeout"]) == (3, 5, 30)
    assert (found["our_master"], found["our_worker"]) == (False, False)
    assert found["worker_class"] == "gunicorn.workers.gthread.ThreadWorker"
    assert (found["app"], found["found"], found["readable"]) == ("app:app", True, True)
    assert found["file"] == str(folder / "app.py")


def test_settings_with_our_configuration(folder: Path) -> None:
    found = settings(folder, *CONF, "app:app")
    assert (found["our_master"], found["our_worker"]) == (True, True)
    assert found["worker_class"] == "flask_socketact.workers.thread.ThreadWorker"


def test_our_sync_worker_has_one_thread(folder: Path) -> None:
    worker = "flask_socketact.workers.sync.SyncWorker"
    found = settings(folder, *CONF, "--threads", "4", "-k", worker, "app:app")
    assert (found["worker_class"], found["threads"]) == (worker, 1)


def test_a_configuration_file_in_the_folder_counts(folder: Path) -> None:
    (folder / "gunicorn.conf.py").write_text("print('configured')\nthreads = 7\nwsgi_app = 'app:app'\n")
    found = settings(folder)
    assert (found["threads"], found["app"]) == (7, "app:app")


def test_an_application_in_a_package_is_found_without_an_import(folder: Path) -> None:
    package = folder / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "web.py").touch()
    assert settings(folder, "shop.web:create_app()")["file"] == str(package / "web.py")
    for missing in ("shop.nothing", "shop.web.deeper", "nothing.web"):
        assert not settings(folder, missing)["found"]


def test_an_application_in_pythonpath_is_found(folder: Path) -> None:
    library = folder / "lib"
    library.mkdir()
    (library / "elsewhere.py").touch()
    assert not settings(folder, "elsewhere:app")["found"]
    assert settings(folder, "--pythonpath", "lib", "elsewhere:app")["found"]


def test_a_namespace_package_has_no_file(folder: Path) -> None:
    (folder / "space").mkdir()
    found = settings(folder, "space:app")
    assert (found["found"], found["file"], found["readable"]) == (True, None, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_file_that_is_not_readable_is_reported(folder: Path) -> None:
    (folder / "app.py").chmod(0)
    assert settings(folder, "app:app")["readable"] is False


def test_a_program_that_is_missing_or_not_executable_is_an_error(folder: Path) -> None:
    assert "gone does not exist" in refusal(folder, "app:app", program=str(folder / "gone"))
    assert "app.py does not exist or is not executable" in refusal(folder, "app:app", program=str(folder / "app.py"))


def test_a_number_of_workers_that_is_none_is_an_error(folder: Path) -> None:
    assert "WEB_CONCURRENCY='many' is not a number" in refusal(folder, "app:app", WEB_CONCURRENCY="many")


def test_a_folder_that_does_not_exist_is_an_error(folder: Path) -> None:
    assert refusal(folder / "nothing", "app:app").startswith("FileNotFoundError")


def test_the_error_of_a_configuration_file_is_the_last_line(folder: Path) -> None:
    (folder / "gunicorn.conf.py").write_text("import nothing_of_this_name\n")
    assert "nothing_of_this_name" in refusal(folder, "app:app")


def test_a_package_of_another_version_is_an_error(folder: Path) -> None:
    """In front of the real metadata, as in a virtual environment that was changed by hand."""
    metadata = folder / "gunicorn-19.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gunicorn\nVersion: 19.0\n")
    text = refusal(folder, "app:app")
    assert text.startswith("gunicorn 19.0 is installed, but flask-socketact needs gunicorn>=")


def test_data_of_the_application(folder: Path) -> None:
    (folder / "uploads").mkdir()
    (folder / "templates").mkdir()
    (folder / "shop.db").write_bytes(b"SQLite format 3\0")
    (folder / "notes.db").write_text("no database")
    (folder / "media").symlink_to("/tmp")  # noqa: S108 (not followed)
    (folder / "linked.db").symlink_to(folder / "shop.db")
    os.mkfifo(folder / "pipe.db")
    assert settings(folder, *CONF, "app:app")["data"] == ["shop.db", "uploads/"]
