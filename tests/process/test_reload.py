"""A reload without interruption: what systemd is told, and what clients see."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from flask_socketact.workers.drain import EXIT_INTERVAL
from tests.support.http import Client, ask
from tests.support.load import Load
from tests.support.releases import WORKERS, asking, release
from tests.support.server import CONF, Server, dial, tcp

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Folder


@pytest.mark.parametrize("worker", WORKERS)
def test_messages_to_systemd(site: Path, http: socket.socket, worker: str) -> None:
    """Start, reload, failed reload, stop: each datagram, in order."""
    arguments = (*CONF, "-k", f"flask_socketact.workers.{worker}", "app:app")
    at = f"2 of 2 workers at http://127.0.0.1:{http.getsockname()[1]} (http)"
    idle = "0 requests in flight, 0 served"
    with Server(site, *arguments, listeners={"http": http}) as server:
        server.wait_for_message("BARRIER=1")
        release(site, "two")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: server.wait_for_message("STATUS=").endswith("served"), "the old workers to exit")
        release(site, "three", "raise RuntimeError('no database')")
        server.signal(signal.SIGHUP)
        server.wait_for_message("READY=1")
        server.wait_for(lambda: len(server.workers()) == 2, "the new workers to exit")
        server.process.terminate()
        assert server.wait_until_gone() == 0
        said = [re.sub(r"MONOTONIC_USEC=\d+", "MONOTONIC_USEC=…", message) for message in server.messages]
    failed = f"Reload failed (RuntimeError at {site}/app.py:2); still serving with {at}; generation 2, {idle}"
    dropped = f"STATUS={failed}; draining: generation 3, 0 requests in flight"
    assert [message for message in said if message not in (dropped, f"STATUS={failed}")] == [
        "STATUS=Loading the application in 2 workers, for at most 600 s",
        f"READY=1\nSTATUS=Serving with {at}; generation 1, {idle}",
        "BARRIER=1",
        "RELOADING=1\nMONOTONIC_USEC=…\nSTATUS=Reloading: generation 2 loads the application",
        f"READY=1\nSTATUS=Serving with {at}; generation 2, {idle}; draining: generation 1, 0 requests in flight",
        f"STATUS=Serving with {at}; generation 2, {idle}",
        "RELOADING=1\nMONOTONIC_USEC=…\nSTATUS=Reloading: generation 3 loads the application",
        # The first of two has failed; the second is stopped, unless it has failed meanwhile, too.
        next(message for message in said if message.startswith(f"READY=1\nSTATUS={failed}")),
        "STOPPING=1\nSTATUS=Stopping: 0 requests in flight, waiting up to 30 s",
    ]
    assert "Traceback" in server.log
    assert "RuntimeError: no database" in server.log


#: Notes when the drain has ended, as the application's handler is called then, and when Python cleans up.
NOTES = """
import atexit, os, signal, time

def note(*_):
    with open(f"{os.getpid()}.times", "a") as file:
        print(time.monotonic(), file=file)

signal.signal(signal.SIGTERM, note)
atexit.register(note)
"""


def pauses(site: Path) -> list[float]:
    """Return how long each worker has waited between its drain and its exit, the shortest first. Seconds."""
    times = [[float(line) for line in file.read_text().split()] for file in site.glob("*.times")]
    return sorted(last - first for first, last in times)


@pytest.mark.parametrize("worker", WORKERS)
def test_old_workers_exit_one_after_another(site: Path, http: socket.socket, worker: str) -> None:
    """New workers serve, and need the CPU; without them, in a stop, nothing is to wait for."""
    release(site, "one", NOTES)
    with Server(site, *CONF, "-k", f"flask_socketact.workers.{worker}", "app:app", listeners={"http": http}) as server:
        before = set(server.wait_until_ready().workers())
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: not before & set(server.workers()), "the old workers to exit")
        first, second = pauses(site)
        assert first >= 2 * EXIT_INTERVAL
        assert second >= 3 * EXIT_INTERVAL
        server.process.terminate()
        assert server.wait_until_gone() == 0
        assert pauses(site)[0] < EXIT_INTERVAL


@pytest.mark.parametrize("worker", WORKERS)
def test_old_workers_serve_until_all_new_ones_have_loaded(site: Path, http: socket.socket, worker: str) -> None:
    arguments = (*CONF, "-k", f"flask_socketact.workers.{worker}", "app:app")
    with Server(site, *arguments, listeners={"http": http}) as server:
        before = set(server.wait_until_ready().workers())
        with asking(http) as load:
            release(site, "two", "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)")
            server.signal(signal.SIGHUP)
            server.wait_for_message("RELOADING=1")
            server.wait_for(lambda: len(server.workers()) == 4, "new workers next to the old")
            assert ask(lambda: dial(http)) == (200, b"one")
            (site / "go").touch()
            server.wait_for_message("READY=1")
            server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")
            assert ask(lambda: dial(http)) == (200, b"two")
            assert before.isdisjoint(server.workers())
        assert not load.failures()


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("raise RuntimeError('no database')", r"RuntimeError at /\S+/app\.py:2\)"),
        ("import nothing_of_the_kind", r"ModuleNotFoundError at /\S+/app\.py:2\)"),
        ("raise SystemExit('a secret')", r"SystemExit at /\S+/app\.py:2\)"),
        ("import json; json.loads('a secret')", r"JSONDecodeError at /\S+/app\.py:2\)"),
        ("import os; os._exit(1)", r"new worker \d+ exited before all new workers accepted"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"new worker \d+ exited before"),
        ("def (", r"SyntaxError at /\S+/app\.py:2\)"),
    ],
)
def test_release_that_does_not_load(site: Path, http: socket.socket, extra: str, why: str) -> None:
    with Server(site, *CONF, "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        client = Client(lambda: dial(http))
        client.exchange("GET", "/")
        with asking(http) as load:
            release(site, "two", extra)
            server.signal(signal.SIGHUP)
            message = server.wait_for_message("READY=1")
            server.wait_for(lambda: sorted(server.workers()) == sorted(before), "the new workers to exit")
        assert not load.failures()
        assert client.exchange("GET", "/") == (200, b"one")
        assert client.closed_by_server == 0
        assert re.search(rf"STATUS=Reload failed \({why}", message)
        release(site, "three")
        server.signal(signal.SIGHUP)
        assert "Serving with 2 of 2 workers" in server.wait_for_message("READY=1")
        server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")
        assert ask(lambda: dial(http)) == (200, b"three")
        client.close()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise RuntimeError('a slip')", "RuntimeError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
    ],
)
def test_worker_that_exits_after_loading(site: Path, http: socket.socket, body: str, why: str) -> None:
    """In a reload, which then fails."""
    hook = "from flask_socketact.conf import *\ndef post_worker_init(worker):\n    {}\n"
    (site / "settings.py").write_text(hook.format("pass"))
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        with asking(http) as load:
            (site / "settings.py").write_text(hook.format(body))
            server.signal(signal.SIGHUP)
            failed = f"STATUS=Reload failed ({why} at {site}/settings.py:3); still serving with 2 of 2"
            assert failed in server.wait_for_message("READY=1")
            server.wait_for(lambda: sorted(server.workers()) == sorted(before), "the new workers to exit")
        assert not load.failures()


def test_replacement_that_exits_after_loading(site: Path, http: socket.socket) -> None:
    """It is started again after a pause, while the others serve."""
    hook = "import os\ndef post_worker_init(worker):\n    if os.path.exists('end'): raise SystemExit(0)\n"
    (site / "settings.py").write_text("from flask_socketact.conf import *\n" + hook)
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        (site / "end").touch()
        os.kill(before[0], signal.SIGKILL)
        why = f"workers are missing: SystemExit at {site}/settings.py:4"
        server.wait_for(lambda: why in server.wait_for_message("STATUS="), "the reason")
        with asking(http) as load:
            server.wait_for(lambda: server.log.count("the next try follows") >= 2, "another attempt")
        assert not load.failures()
        assert server.log.count("Booting worker") <= 5
        (site / "end").unlink()
        server.wait_for(lambda: "Serving with 2 of 2" in server.wait_for_message("STATUS="), "the repair")


#: A configuration whose master waits after each signal to a worker, as on a machine without a free CPU.
SLOW_SIGNALS = """
import os, signal, time
from flask_socketact.conf import *

class Slow:
    def __init__(self, kill): self.kill = kill
    def __call__(self, pid, number):
        self.kill(pid, number)
        while number == signal.SIGTERM and not os.path.exists("go on"): time.sleep(0.05)

os.kill = Slow(getattr(os.kill, "kill", os.kill))
"""


@pytest.mark.parametrize("worker", WORKERS)
def test_no_old_worker_serves_a_new_connection_after_the_first_one_drains(
    site: Path, http: socket.socket, worker: str
) -> None:
    """Whoever connects again, because a worker has ended its stream or WebSocket, gets the new release."""
    (site / "slow.py").write_text(SLOW_SIGNALS)
    release(site, "one")
    arguments = ("-c", "python:slow", "-k", f"flask_socketact.workers.{worker}", "--workers", "3", "app:app")
    with Server(site, *arguments, listeners={"http": http}) as server:
        before = set(server.wait_until_ready().workers())
        release(site, "two")
        server.signal(signal.SIGHUP)
        # The others may have seen already that they drain.
        server.wait_for(lambda: not before.issubset(server.workers()), "the first old worker to exit")
        assert {ask(lambda: dial(http)) for _ in range(60)} == {(200, b"two")}
        (site / "go on").touch()
        server.wait_for(lambda: before.isdisjoint(server.workers()), "the other old workers to exit")


@pytest.mark.parametrize("worker", ["flask_socketact.workers.thread.ThreadWorker", "gthread"])
def test_old_workers_that_ignore_sigterm_are_killed_after_the_drain_time(
    site: Path, http: socket.socket, worker: str
) -> None:
    """Even if the application ignores the signal, only the new code serves after a reload."""
    deaf = "import signal; signal.signal(signal.SIGTERM, lambda *_: None)"
    release(site, "one", deaf)
    arguments = (*CONF, "-k", worker, "--graceful-timeout", "1", "app:app")
    with Server(site, *arguments, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        release(site, "two", deaf)
        server.signal(signal.SIGHUP)
        server.wait_for_message("READY=1")
        server.wait_for(lambda: set(before).isdisjoint(server.workers()), "the old workers to exit", 10)
        assert {ask(lambda: dial(http)) for _ in range(20)} == {(200, b"two")}
        server.process.terminate()
        assert server.wait_until_gone(1 + 5) == 0


def test_overdue_workers_are_killed_while_a_reload_loads(site: Path, http: socket.socket) -> None:
    release(site, "one", "import signal; signal.signal(signal.SIGTERM, lambda *_: None)")
    arguments = (*CONF, "-k", "gthread", "--graceful-timeout", "1", "app:app")
    with Server(site, *arguments, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        server.signal(signal.SIGTTOU)
        release(site, "two", "import time; time.sleep(600)")
        server.signal(signal.SIGHUP)
        server.wait_for_message("RELOADING=1")
        server.wait_for(lambda: len(set(before) & set(server.workers())) == 1, "one of two to be killed", 10)


def test_replacement_cannot_load_the_release(site: Path, http: socket.socket) -> None:
    """The others keep serving until a release loads."""
    with Server(site, *CONF, "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        release(site, "two", "raise RuntimeError('no database')")
        os.kill(before[0], signal.SIGKILL)
        why = f"workers are missing: RuntimeError at {site}/app.py:2"
        server.wait_for(lambda: why in server.wait_for_message("STATUS="), "the reason")
        assert "RuntimeError: no database: the other workers serve" in server.log
        with asking(http) as load:
            server.wait_for(lambda: server.log.count("the next try follows") >= 2, "another attempt")
        assert not load.failures()
        assert before[1] in server.workers()
        release(site, "three")
        server.wait_for(lambda: "Serving with 2 of 2" in server.wait_for_message("STATUS="), "the repair")


def test_second_reload_waits_for_its_turn(site: Path, http: socket.socket) -> None:
    with Server(site, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        release(site, "two", "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)")
        server.signal(signal.SIGHUP)
        server.wait_for_message("RELOADING=1")
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGHUP)
        server.wait_for_log("the next one begins after it")
        assert len(server.workers()) <= 4
        (site / "go").touch()
        server.wait_for_message("READY=1")
        server.wait_for_message("READY=1")
        server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")
        states = [message.partition("=")[0] for message in server.messages if not message.startswith("STATUS")]
        assert states == ["READY", "BARRIER", "RELOADING", "READY", "RELOADING", "READY"]


def test_stop_in_a_reload(site: Path, http: socket.socket) -> None:
    with Server(site, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        release(site, "two", "import time; time.sleep(600)")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: len(server.workers()) == 4, "new workers next to the old")
        server.process.terminate()
        assert server.wait_until_gone(5) == 0


def test_stop_in_a_reload_whose_release_catches_the_first_signal(site: Path, http: socket.socket) -> None:
    """As any signal that comes just before a system call blocks, it has no effect. The workers are told again."""
    with Server(site, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        release(site, "two", "import time\ntry: time.sleep(600)\nexcept SystemExit: time.sleep(600)")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: len(server.workers()) == 4, "new workers next to the old")
        server.process.terminate()
        assert server.wait_until_gone(10) == 0


def test_worker_that_dies_in_a_reload(site: Path, http: socket.socket) -> None:
    """A worker of the new generation replaces it."""
    with Server(site, *CONF, "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        release(site, "two", "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: len(server.workers()) == 4, "new workers next to the old")
        os.kill(before[0], signal.SIGKILL)
        server.wait_for(lambda: before[0] not in server.workers(), "it to be reaped")
        assert ask(lambda: dial(http)) == (200, b"one")
        (site / "go").touch()
        assert "Serving with 2 of 2 workers" in server.wait_for_message("READY=1")
        server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")


SETTINGS = """
from flask_socketact.conf import *
import helper
workers = helper.WORKERS
raw_env = ["RELEASE={release}"]
{extra}
"""


def configure(folder: Path, workers: int, release: str, extra: str = "") -> None:
    (folder / "helper.py").write_text(f"WORKERS = {workers}\n")
    (folder / "flask_socketact.conf").write_text(SETTINGS.format(release=release, extra=extra))


def test_configuration_is_read_again(folder: Folder, http: socket.socket) -> None:
    """The file, and modules of the application that it imports."""
    path = folder(
        """
        import os

        def app(environ, start_response):
            content = os.environ["RELEASE"].encode()
            start_response("200 OK", [("Content-Length", str(len(content)))])
            return [content]
        """
    )
    configure(path, 1, "a")
    with Server(path, "-c", "flask_socketact.conf", "app:app", listeners={"http": http}) as server:
        assert "of 1 workers" in server.wait_for_message("READY=1")
        configure(path, 3, "b")
        server.signal(signal.SIGHUP)
        assert "Serving with 3 of 3 workers" in server.wait_for_message("READY=1")
        server.wait_for(lambda: len(server.workers()) == 3, "the old worker to exit")
        assert ask(lambda: dial(http)) == (200, b"b")
        configure(path, 2, "c", extra="raise RuntimeError('a slip')")
        server.signal(signal.SIGHUP)
        why = "the configuration cannot be read: RuntimeError at flask_socketact.conf:6"
        assert f"Reload failed ({why}); still serving with 3 of 3" in server.wait_for_message("READY=1")
        configure(path, 2, "c", extra="worker_class = 'nothing.of.the.kind'")
        server.signal(signal.SIGHUP)
        assert "Reload failed (" in server.wait_for_message("READY=1")
        configure(path, 2, "c", extra="def on_reload(server): raise KeyError('a hook')")
        server.signal(signal.SIGHUP)
        assert "Reload failed (KeyError at " in server.wait_for_message("READY=1")
        assert "the old workers keep serving: KeyError: 'a hook'" in server.log
        # The settings of failed attempts are rolled back: a replaced worker has the settings that serve.
        for pid in server.workers():
            os.kill(pid, signal.SIGTERM)
        server.wait_for(lambda: "Reload" in server.wait_for_message("STATUS="), "a status")
        assert ask(lambda: dial(http)) == (200, b"b")
        configure(path, 2, "d")
        server.signal(signal.SIGHUP)
        assert "Serving with 2 of 2 workers" in server.wait_for_message("READY=1")
        server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")
        assert ask(lambda: dial(http)) == (200, b"d")


def test_module_of_the_configuration_is_read_again(site: Path, http: socket.socket) -> None:
    (site / "settings.py").write_text("from flask_socketact.conf import *\nworkers = 1\n")
    with Server(site, "-c", "python:settings", "app:app", listeners={"http": http}) as server:
        assert "of 1 workers" in server.wait_for_message("READY=1")
        (site / "settings.py").write_text("from flask_socketact.conf import *\nworkers = 2  # more\n")
        server.signal(signal.SIGHUP)
        assert "Serving with 2 of 2 workers" in server.wait_for_message("READY=1")


def test_other_address_outside_systemd(site: Path) -> None:
    with tcp() as one, tcp() as two, tcp() as taken:
        ports = [listener.getsockname()[1] for listener in (one, two)]
        one.close()
        two.close()
        (site / "settings.py").write_text(f"from flask_socketact.conf import *\nbind = '127.0.0.1:{ports[0]}'\n")
        with Server(site, "-c", "settings.py", "app:app") as server:
            server.wait_until_ready()
            busy = taken.getsockname()[1]
            (site / "settings.py").write_text(f"from flask_socketact.conf import *\nbind = '127.0.0.1:{busy}'\n")
            server.signal(signal.SIGHUP)
            assert "Reload failed (cannot listen at bind = " in server.wait_for_message("READY=1")
            assert ask(lambda: socket.create_connection(("127.0.0.1", ports[0]))) == (200, b"one")
            (site / "settings.py").write_text(f"from flask_socketact.conf import *\nbind = '127.0.0.1:{ports[1]}'\n")
            server.signal(signal.SIGHUP)
            server.wait_for_message("READY=1")
            assert ask(lambda: socket.create_connection(("127.0.0.1", ports[1]))) == (200, b"one")
            server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", ports[0])) == errno.ECONNREFUSED


def test_address_added_and_removed_outside_systemd(site: Path) -> None:
    """The address that stays is never closed, although no other process has it open."""
    with tcp() as one, tcp() as two:
        ports = [listener.getsockname()[1] for listener in (one, two)]
        one.close()
        two.close()

        def configure(*numbers: int) -> None:
            bind = [f"127.0.0.1:{ports[number]}" for number in numbers]
            (site / "settings.py").write_text(f"from flask_socketact.conf import *\nbind = {bind}\n")

        def dial_port(number: int) -> socket.socket:
            return socket.create_connection(("127.0.0.1", ports[number]))

        configure(0)
        with Server(site, "-c", "settings.py", "app:app") as server:
            server.wait_until_ready()
            with Load(lambda: dial_port(0), {"new connection": 2}) as load:
                for numbers in ((0, 1), (1, 0), (0,)):
                    configure(*numbers)
                    server.signal(signal.SIGHUP)
                    assert "Serving with" in server.wait_for_message("READY=1")
                    server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")
                    assert {ask(lambda: dial_port(number)) for number in numbers} == {(200, b"one")}  # noqa: B023
            assert not load.failures()
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", ports[1])) == errno.ECONNREFUSED


def test_output_is_restored_after_a_failed_configuration(site: Path, http: socket.socket) -> None:
    """``capture_output`` redirects output to a file, but not if the old workers keep serving."""
    (site / "settings.py").write_text("from flask_socketact.conf import *\n")
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        captured = f"capture_output = True\nerrorlog = {str(site / 'captured')!r}\n"
        (site / "settings.py").write_text(f"from flask_socketact.conf import *\n{captured}")
        release(site, "two", "raise RuntimeError('no database')")
        server.signal(signal.SIGHUP)
        assert "Reload failed" in server.wait_for_message("READY=1")
        server.wait_for(lambda: len(server.workers()) == 2, "the new workers to exit")
        size = (site / "captured").stat().st_size
        release(site, "three", "print('printed', flush=True)")
        (site / "settings.py").write_text("from flask_socketact.conf import *\n")
        server.signal(signal.SIGHUP)
        assert "Serving with 2 of 2" in server.wait_for_message("READY=1")
        server.wait_for(lambda: server.log.count("printed") == 2, "what the workers print")
        assert (site / "captured").stat().st_size == size


def test_other_worker_class(site: Path, http: socket.socket) -> None:
    """gunicorn's own classes work, too."""
    (site / "settings.py").write_text("from flask_socketact.conf import *\n")
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        for warned, kind in ((1, "gthread"), (2, "sync"), (2, "flask_socketact.workers.sync.SyncWorker")):
            (site / "settings.py").write_text(f"from flask_socketact.conf import *\nworker_class = {kind!r}\n")
            release(site, kind)
            server.signal(signal.SIGHUP)
            assert "Serving with 2 of 2" in server.wait_for_message("READY=1")
            server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")
            assert ask(lambda: dial(http)) == (200, kind.encode())
            assert server.log.count(" is not flask_socketact's: its workers close connections") == warned


def test_old_settings_need_no_file(site: Path, http: socket.socket) -> None:
    """The worker class is in the application's file, which is removed before a reload fails."""
    (site / "own.py").write_text(
        "from flask_socketact.workers.thread import ThreadWorker\nclass Own(ThreadWorker): ...\n"
    )
    (site / "settings.py").write_text("from flask_socketact.conf import *\nworker_class = 'own.Own'\n")
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        (site / "own.py").write_text("raise RuntimeError('no class')\n")
        server.signal(signal.SIGHUP)
        assert "Reload failed (" in server.wait_for_message("READY=1")
        os.kill(before[0], signal.SIGTERM)
        server.wait_for(lambda: before[0] not in (workers := server.workers()) and len(workers) == 2, "a replacement")
        assert ask(lambda: dial(http)) == (200, b"one")


def test_hook_that_fails_stops_nothing(site: Path, http: socket.socket) -> None:
    """pre_fork runs in the master, for every worker."""
    hook = "import os\ndef pre_fork(server, worker):\n    if os.path.exists('fail'): raise KeyError('a slip')\n"
    (site / "settings.py").write_text("from flask_socketact.conf import *\n" + hook)
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        (site / "fail").touch()
        server.signal(signal.SIGHUP)
        assert "Reload failed (no worker can be forked: KeyError" in server.wait_for_message("READY=1")
        os.kill(before[0], signal.SIGTERM)
        server.wait_for(
            lambda: "workers are missing: no worker can be" in server.wait_for_message("STATUS="), "a status"
        )
        assert ask(lambda: dial(http)) == (200, b"one")
        (site / "fail").unlink()
        server.wait_for(lambda: len(server.workers()) == 2, "a replacement")


@pytest.mark.parametrize(
    "slip",
    [
        "raw_env = ['FOO']",
        "def nworkers_changed(server, new, old):\n    if old is not None: raise OSError('no statsd')",
    ],
)
def test_settings_that_fail_stop_nothing(site: Path, http: socket.socket, slip: str) -> None:
    (site / "settings.py").write_text("from flask_socketact.conf import *\n")
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        (site / "settings.py").write_text(f"from flask_socketact.conf import *\n{slip}\n")
        server.signal(signal.SIGHUP)
        assert "Reload failed (" in server.wait_for_message("READY=1")
        assert ask(lambda: dial(http)) == (200, b"one")
        assert server.workers() == before


def test_child_whose_report_fails_does_not_act_as_master(site: Path, http: socket.socket) -> None:
    """gunicorn prints the reason, and that may raise."""
    with Server(site, *CONF, "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        release(
            site,
            "two",
            "import sys; sys.stderr = None; sys.stdout = None\nclass E(Exception):\n"
            "    def __str__(self): raise ValueError('none')\nraise E()",
        )
        server.signal(signal.SIGHUP)
        assert "Reload failed (" in server.wait_for_message("READY=1")
        server.wait_for(lambda: server.workers() == before, "the new workers to exit")
        assert server.log.count("Booting worker") in (3, 4)  # in a reload they begin one after another


def test_pidfile_moves(site: Path, http: socket.socket) -> None:
    (site / "settings.py").write_text("from flask_socketact.conf import *\npidfile = 'first'\n")
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        (site / "settings.py").write_text("from flask_socketact.conf import *\npidfile = 'second'\n")
        server.signal(signal.SIGHUP)
        server.wait_for_message("READY=1")
        assert not (site / "first").exists()
        assert (site / "second").read_text().strip() == str(server.process.pid)


def test_idle_connections_are_handed_over(site: Path, http: socket.socket, tmp_path: Path) -> None:
    mailbox = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mailbox.bind(str(tmp_path / "mailbox"))
    mailbox.listen()
    with mailbox, Server(site, *CONF, "app:app", listeners={"http": http, "mailbox": mailbox}) as server:
        server.wait_until_ready()
        clients = [Client(lambda: dial(http)) for _ in range(20)]
        for client in clients:
            assert client.exchange("GET", "/")[0] == 200
        for name in ("two", "three"):
            release(site, name)
            server.signal(signal.SIGHUP)
            server.wait_for_message("READY=1")
            server.wait_for(lambda: len(server.workers()) == 2, "the old workers to exit")
            assert all(client.exchange("GET", "/") == (200, name.encode()) for client in clients)
        # Connections that stopped new workers had received return to the old ones.
        release(site, "four", "import os\nos.close(os.open('first', os.O_CREAT | os.O_EXCL))")
        server.signal(signal.SIGHUP)
        assert "Reload failed" in server.wait_for_message("READY=1")
        server.wait_for(lambda: len(server.workers()) == 2, "the new workers to exit")
        assert all(client.exchange("GET", "/") == (200, b"three") for client in clients)
        assert sum(client.closed_by_server for client in clients) == 0
        for client in clients:
            client.close()


@pytest.mark.parametrize("stuck", ["import time; time.sleep(600)", "import ctypes; ctypes.PyDLL(None).pause()"])
def test_release_that_exceeds_the_load_timeout(site: Path, http: socket.socket, stuck: str) -> None:
    """In Python, or in C, where no signal handler runs."""
    limit = {"SOCKETACT_LOAD_TIMEOUT": "1.5"}
    with Server(site, *CONF, "app:app", listeners={"http": http}, environ=limit) as server:
        before = server.wait_until_ready().workers()
        release(site, "two", stuck)
        server.signal(signal.SIGHUP)
        why = r"workers? [\d, ]+ killed: did not load the application within SOCKETACT_LOAD_TIMEOUT = 1\.5 s"
        assert re.search(rf"Reload failed \({why}\); still serving", server.wait_for_message("READY=1"))
        assert re.search(r'File "\S+/app.py", line 2 in <module>', server.log)
        server.wait_for(lambda: sorted(server.workers()) == sorted(before), "the new workers to exit")
        assert ask(lambda: dial(http)) == (200, b"one")


@pytest.mark.parametrize("worker", WORKERS)
def test_workers_due_for_recycling_stay_until_a_release_loads(site: Path, http: socket.socket, worker: str) -> None:
    """A worker that has served ``max_requests`` keeps serving until its replacement loads."""
    arguments = (*CONF, "--max-requests", "10", "-k", f"flask_socketact.workers.{worker}", "app:app")
    with Server(site, *arguments, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        release(site, "two", "raise RuntimeError('no database')")
        with asking(http) as load:
            server.wait_for(lambda: server.log.count("the next try follows") >= 2, "two attempts")
            assert set(before) <= set(server.workers())
            reason = f"workers are missing: RuntimeError at {site}/app.py:2"
            server.wait_for(lambda: reason in server.wait_for_message("STATUS=Serving with 2 of 2"), reason)
            release(site, "three")
            server.wait_for(lambda: set(before).isdisjoint(server.workers()), "replacements")
        assert not load.failures()
