"""The ways to give gunicorn our configuration, and what overrides it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.http import ask, certificate
from tests.support.server import CONF, GUNICORN, Server, dial

COMMAND = str(Path(sys.executable).with_name("flask-socketact"))
OUR_WORKER = "Using worker: flask_socketact.workers.thread.ThreadWorker"


def printed_settings(folder: Path, *arguments: str, **environ: str) -> dict[str, str]:
    """Return the effective settings of gunicorn."""
    done = subprocess.run(
        [GUNICORN, *arguments, "--print-config", "app:app"],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "WEB_CONCURRENCY"} | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.replace(" ", "").split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_module(plain: Path, http: socket.socket) -> None:
    with Server(plain, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        assert OUR_WORKER in server.log


def test_file_written_by_init(plain: Path, http: socket.socket) -> None:
    subprocess.run([COMMAND, "init"], cwd=plain, check=True)
    with Server(plain, "-c", "flask_socketact.conf", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        assert OUR_WORKER in server.log


def test_works_without_any_setting(plain: Path) -> None:
    settings = printed_settings(plain, *CONF)
    assert int(settings["workers"]) == max(2, len(os.sched_getaffinity(0)))
    assert settings["threads"] == "4"


def test_a_file_that_was_written_for_gunicorn_alone(plain: Path, http: socket.socket) -> None:
    """Its settings override ours, but for those that systemd decides, and a worker class that closes connections."""
    (plain / "gunicorn.conf.py").write_text(
        "bind, daemon, pidfile, user = '0.0.0.0:1', True, '/nowhere/pid', 'nobody'\n"
        "workers, worker_class = 3, 'gthread'\n"
        "def when_ready(server): server.log.info('a hook')\n"
    )
    own = {"SOCKETACT_CONFIG": "gunicorn.conf.py"}
    with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=own) as server:
        assert len(server.wait_until_ready().workers()) == 3
        assert OUR_WORKER in server.log
        assert "a hook" in server.log
        (plain / "gunicorn.conf.py").write_text("workers, worker_class = 1, 'sync'\n")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: len(server.workers()) == 1, "the reload")
        (plain / "gunicorn.conf.py").write_text("workers = 1 / 0\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("SOCKETACT_CONFIG=gunicorn.conf.py cannot be read: ZeroDivisionError at gunicorn.conf.py:1")
        assert ask(lambda: dial(http))[0] == 200


def test_a_file_that_cannot_be_read_is_told_in_one_line(plain: Path) -> None:
    done = subprocess.run(
        [GUNICORN, *CONF, "app:app"],
        cwd=plain,
        env=os.environ | {"SOCKETACT_CONFIG": "missing.py"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Error: SOCKETACT_CONFIG=missing.py cannot be read: FileNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_hook_of_the_user_runs(plain: Path, http: socket.socket) -> None:
    in_master = {"on_starting": 1, "when_ready": 1, "pre_fork": 2, "on_exit": 1, "on_reload": 1, "child_exit": 2}
    in_worker = {"post_fork": 2, "post_worker_init": 1, "worker_exit": 2}
    hooks = "".join(
        f"def {name}({', '.join('abcd'[:arity])}): log('{name}')\n" for name, arity in (in_master | in_worker).items()
    )
    (plain / "settings.py").write_text(
        "from flask_socketact.conf import *\n"
        "def log(text): print('hook', text, flush=True)\n"
        f"{hooks}"
        "def nworkers_changed(a, b, c): log('nworkers_changed')\n"
    )
    with Server(plain, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        server.signal(signal.SIGHUP)
        server.wait_for_log("hook on_reload")
        server.wait_for_log("hook child_exit")
        server.process.terminate()
        server.wait_until_gone()
    for name in [*in_master, "nworkers_changed", *in_worker]:
        assert f"hook {name}\n" in server.log


def test_command_line_and_environment_override(plain: Path) -> None:
    (plain / "settings.py").write_text("from flask_socketact.conf import *\nworkers = 5\nthreads = 6\n")
    assert printed_settings(plain, "-c", "settings.py")["workers"] == "5"
    settings = printed_settings(
        plain, "-c", "settings.py", "--workers", "7", GUNICORN_CMD_ARGS="--workers 8 --threads 9 --keep-alive 10"
    )
    assert (settings["workers"], settings["threads"], settings["keepalive"]) == ("7", "9", "10")
    assert printed_settings(plain, *CONF, WEB_CONCURRENCY="3")["workers"] == "3"


def test_master_imports_neither_flask_nor_gevent(plain: Path, http: socket.socket) -> None:
    """A reload does not renew what the master has imported; and gevent must patch first."""
    (plain / "settings.py").write_text(
        dedent(
            """
            from flask_socketact.conf import *

            def when_ready(server):
                import sys
                print("found:", sorted({"flask", "werkzeug", "gevent"} & set(sys.modules)), flush=True)
            """
        )
    )
    with Server(plain, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        assert "found: []" in server.log


@pytest.mark.parametrize("name", ["gthread", "sync", "flask_socketact.workers.thread.ThreadWorker"])
def test_worker_class_of_the_command_line(plain: Path, http: socket.socket, name: str) -> None:
    """READY=1 is sent with gunicorn's worker classes, too."""
    with Server(plain, *CONF, "-k", name, "app:app", listeners={"http": http}) as server:
        assert "Serving with 2 of 2 workers" in server.wait_for_message("READY=1")


def test_worker_class_without_our_configuration(plain: Path, http: socket.socket) -> None:
    with Server(
        plain, "-k", "flask_socketact.workers.thread.ThreadWorker", "app:app", listeners={"http": http}
    ) as server:
        assert server.wait_for_message("READY=1") == "READY=1\nSTATUS=Gunicorn arbiter booted"
        assert OUR_WORKER in server.log


def test_example_runs_under_flask_run() -> None:
    """The application needs no change to run without our server."""
    flask = Path(sys.executable).with_name("flask")
    with subprocess.Popen(
        [flask, "--app", "app", "run", "--port", "0"],
        cwd=Path(__file__).parents[2] / "examples",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = next(
            re.search(r"Running on http://127.0.0.1:(\d+)", line) for line in process.stdout if "on http" in line
        )
        assert address is not None
        status, content = ask(lambda: socket.create_connection(("127.0.0.1", int(address[1])), timeout=10))
        process.terminate()
    assert (status, content.endswith(b"by listener None\n")) == (200, True)


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker"])
def test_http2_is_refused_at_the_start(plain: Path, http: socket.socket, worker: str) -> None:
    """Clients are not given HTTP/1.1 without a word."""
    protocols = ("--http-protocols", "h2,h1", *certificate(plain))
    command = (*CONF, "-k", f"flask_socketact.workers.{worker}", *protocols, "app:app")
    with Server(plain, *command, listeners={"http": http}) as server:
        assert server.wait_until_gone() == 1
        assert f"{worker.split('.')[1]} does not speak HTTP/2. Remove h2: nginx or HAProxy can speak it" in server.log
        assert "Traceback" not in server.log
        assert not any("READY" in message for message in server.messages)
