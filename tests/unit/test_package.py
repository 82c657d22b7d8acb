"""The public names of the package, and what importing them loads."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources

import pytest

import flask_socketact
from flask_socketact.cli import main


def imported(module: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after importing `module`."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_configuration_imports_nothing_of_the_application() -> None:
    assert imported("flask_socketact.conf").isdisjoint({"flask", "werkzeug", "gevent"})


def test_extension_imports_nothing_of_the_server() -> None:
    assert imported("flask_socketact.application.extension").isdisjoint({"gunicorn", "systemd"})


def test_every_public_name_is_there() -> None:
    for name in flask_socketact.__all__:
        assert getattr(flask_socketact, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = flask_socketact.nothing


def test_marked_as_typed() -> None:
    assert resources.files(flask_socketact).joinpath("py.typed").is_file()


def test_commands_are_those_of_flask_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "socketact", "--help"], capture_output=True, text=True, check=True
    )
    for name in main.commands:
        assert f"\n  {name} " in done.stdout


def test_the_command_line_of_flask_is_not_slowed_down() -> None:
    """Every ``flask`` command imports ours."""
    assert imported("flask_socketact.cli").isdisjoint({"asyncio", "gunicorn", "h11", "rich", "systemd"})


@pytest.mark.parametrize(
    "path",
    [
        "flask_socketact.SocketAct",
        "flask_socketact.conf.worker_class",
        "flask_socketact.signals.generation_ready",
        "flask_socketact.signals.drain_begun",
        "flask_socketact.journal.Handler",
        "flask_socketact.journal.Logger",
        "flask_socketact.workers.thread.ThreadWorker",
        "flask_socketact.workers.sync.SyncWorker",
        "flask_socketact.workers.gevent.GeventWorker",
        "flask_socketact.cli.main",
    ],
)
def test_path_that_users_write(path: str) -> None:
    """Each in a process of its own: an import must not need another one before it."""
    module, _, name = path.rpartition(".")
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import {name}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
