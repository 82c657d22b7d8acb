"""What the master sends to systemd, and when."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flask_socketact.master.pool import EXIT_GRACE
from flask_socketact.shared import scoreboard
from flask_socketact.shared.slot import Field, Slot
from tests.support.http import ask
from tests.support.server import CONF, DEADLINE, Server, dial

if TYPE_CHECKING:
    from tests.process.conftest import Folder

WORKER_BOOT_ERROR = 3  #: gunicorn's exit status when the application raises at import
APP_LOAD_ERROR = 4  #: gunicorn's exit status when there is no such application


def test_ready_only_when_every_worker_accepts(folder: Folder, http: socket.socket) -> None:
    """One worker loads at once, the other when the test lets it."""
    app = folder(
        """
        import os, time

        def load():
            try:
                os.close(os.open("first", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                while not os.path.exists("go"):
                    time.sleep(0.01)

        load()

        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "0")])
            return []
        """
    )
    with Server(app, *CONF, "app:app", listeners={"http": http}) as server:
        assert ask(lambda: dial(http))[0] == 200  # the first worker serves already
        assert server.wait_for_message("STATUS=") == "STATUS=Loading the application in 2 workers, for at most 600 s"
        assert len(server.messages) == 1
        (app / "go").touch()
        server.wait_until_ready()
        server.process.terminate()
        assert server.wait_until_gone() == 0
    address = f"http://127.0.0.1:{http.getsockname()[1]} (http)"
    assert server.messages == [
        "STATUS=Loading the application in 2 workers, for at most 600 s",
        f"READY=1\nSTATUS=Serving with 2 of 2 workers at {address}; generation 1, 0 requests in flight, 1 served",
        "BARRIER=1",
        "STOPPING=1\nSTATUS=Stopping: 0 requests in flight, waiting up to 30 s",
    ]


def test_status_shows_a_missing_worker(folder: Folder, http: socket.socket) -> None:
    app = folder(
        """
        import os, time

        while os.path.exists("hold"):
            time.sleep(0.01)

        def app(environ, start_response): ...
        """
    )
    with Server(app, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        (app / "hold").touch()
        os.kill(server.workers()[0], signal.SIGKILL)
        assert "Serving with 1 of 2" in server.wait_for_message("STATUS=")
        (app / "hold").unlink()
        assert "Serving with 2 of 2" in server.wait_for_message("STATUS=")


@pytest.mark.parametrize(
    ("source", "module", "status", "reason"),
    [
        ("raise RuntimeError('no database')", "app:app", WORKER_BOOT_ERROR, "RuntimeError: no database"),
        ("import nothing_of_the_kind", "app:app", WORKER_BOOT_ERROR, "No module named 'nothing_of_the_kind'"),
        (
            "raise SystemExit('no database')",
            "app:app",
            WORKER_BOOT_ERROR,
            "called sys.exit('no database') while",
        ),
        ("def app(:", "app:app", WORKER_BOOT_ERROR, "SyntaxError"),
        ("", "app:app", APP_LOAD_ERROR, "Failed to find attribute 'app' in 'app'"),
        ("raise type('A\\nB', (Exception,), {})", "app:app", WORKER_BOOT_ERROR, "A B"),
    ],
)
def test_application_that_cannot_be_imported(
    folder: Folder, http: socket.socket, source: str, module: str, status: int, reason: str
) -> None:
    with Server(folder(source), *CONF, module, listeners={"http": http}) as server:
        assert server.wait_until_gone() == status
        assert reason in server.log
        assert status == APP_LOAD_ERROR or "Traceback (most recent call last)" in server.log
        assert server.messages[-1].startswith("STOPPING=1\nSTATUS=")
        assert "no database" not in server.messages[-1]  # every local user may read it
        assert not any("READY" in message for message in server.messages)


def test_start_succeeds_with_all_workers_or_not_at_all(folder: Folder, http: socket.socket) -> None:
    """Only one worker can bind a port of its own: such a start would never succeed."""
    app = folder(
        """
        import os

        os.close(os.open("one", os.O_CREAT | os.O_EXCL))

        def app(environ, start_response): ...
        """
    )
    with Server(app, *CONF, "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() == WORKER_BOOT_ERROR
        assert "FileExistsError" in server.messages[-1]
        assert not any("READY" in message for message in server.messages)


def test_second_worker_fails_while_the_first_failure_is_handled(folder: Folder, http: socket.socket) -> None:
    """The exit status stays that of the first; gthread continues to load when the master stops it."""
    app = folder(
        """
        import os, time

        try:
            os.close(os.open("first", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(1)
        raise RuntimeError("no database")
        """
    )
    with Server(app, *CONF, "-k", "gthread", "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() == WORKER_BOOT_ERROR
        assert server.log.count("\nRuntimeError: no database") == 2


def test_premature_ready_of_gunicorn_is_suppressed(folder: Folder, http: socket.socket) -> None:
    app = folder("import time; time.sleep(600)")
    with Server(app, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_for_log("Booting worker")
        assert server.wait_for_message("STATUS=").startswith("STATUS=Loading")
        server.process.terminate()
        assert server.wait_until_gone(5) == 0  # a worker that is still loading has nothing to finish
        assert not any("READY" in message for message in server.messages)


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody-listens-here", "relative", "vsock:nonsense"])
def test_unreachable_manager(plain: Path, http: socket.socket, address: str) -> None:
    environ = {"NOTIFY_SOCKET": address}
    with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=environ) as server:
        server.wait_for_log(f"cannot notify systemd at NOTIFY_SOCKET={address}")
        assert ask(lambda: dial(http))[0] == 200
        server.process.terminate()
        assert server.wait_until_gone() == 0


def test_ready_is_sent_as_soon_as_the_manager_listens(plain: Path, http: socket.socket) -> None:
    path = plain / "later"
    environ = {"NOTIFY_SOCKET": str(path)}
    with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=environ) as server:
        server.wait_for_log("cannot notify systemd")
        assert ask(lambda: dial(http))[0] == 200
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(path))
            manager.settimeout(DEADLINE)
            assert manager.recv(4096).startswith(b"READY=1\nSTATUS=Serving with")
        assert server.log.count("cannot notify systemd") == 1


def test_no_workers(plain: Path, http: socket.socket) -> None:
    with Server(plain, *CONF, "--workers", "0", "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() == 1
        assert "workers = 0 would serve no request" in server.log
        assert not any("READY" in message for message in server.messages)


def test_usr2_is_refused_under_activation(plain: Path, http: socket.socket) -> None:
    with Server(plain, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        workers = server.workers()
        server.signal(signal.SIGUSR2)
        server.wait_for_log("SIGUSR2 refused")
        assert server.workers() == workers


def test_stop_right_after_a_fork(plain: Path, http: socket.socket) -> None:
    """Until the worker has its own handlers, gunicorn would put SIGTERM into a queue that the child never reads."""
    (plain / "settings.py").write_text(
        "import time\nfrom flask_socketact.conf import *\ndef post_fork(server, worker): time.sleep(1)\n"
    )
    with Server(plain, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_for_log("Booting worker")
        server.process.terminate()
        assert server.wait_until_gone(5) == 0


HOOKS = """
import os, subprocess, threading, time
from flask_socketact.conf import *

def start(name):
    with open(name, "w") as file:
        file.write(str(subprocess.Popen(["sleep", "600"]).pid))

def begin(name):
    thread = threading.Thread(target=start, args=(name,))
    thread.start()
    thread.join()

def pre_fork(server, worker):
    start("pre_fork")

def post_fork(server, worker):
    start("post_fork")
    begin("thread")
"""


def test_programs_of_hooks_get_signals(plain: Path, http: socket.socket) -> None:
    """A program that a hook starts would inherit blocked signals, and ignore SIGTERM."""
    (plain / "settings.py").write_text(HOOKS)
    with Server(plain, "-c", "settings.py", "-w", "1", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        for name in ("pre_fork", "post_fork", "thread"):
            pid = int((plain / name).read_text())
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"^SigBlk:\s+0+$", status, re.MULTILINE), f"{name}: {status}"
            os.kill(pid, signal.SIGTERM)
            server.wait_for(lambda pid=pid: pid not in server.workers(), f"the program of {name} to end")  # type: ignore[misc]


def test_process_that_a_hook_forks_ends_at_sigterm(plain: Path, http: socket.socket) -> None:
    """It is not a worker, and must not hold the signal back."""
    (plain / "settings.py").write_text(
        "import os, signal, time\nfrom flask_socketact.conf import *\n"
        "def post_fork(server, worker):\n"
        "    if (pid := os.fork()) == 0:\n        time.sleep(600)\n"
        "    time.sleep(0.2)\n    os.kill(pid, signal.SIGTERM)\n    os.waitpid(pid, 0)\n"
    )
    with Server(plain, "-c", "settings.py", "-w", "1", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        assert len(server.workers()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_signal_for_a_worker_that_was_just_forked(plain: Path, http: socket.socket, number: signal.Signals) -> None:
    """It has no handlers of its own yet: signals wait until they are installed."""
    (plain / "settings.py").write_text(
        "import os, time\nfrom flask_socketact.conf import *\n"
        "def post_fork(server, worker):\n"
        "    if worker.age == 1:\n"
        "        open('forked', 'w').write(str(os.getpid()))\n"
        "        while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    with Server(plain, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_for(lambda: (plain / "forked").exists() and (plain / "forked").read_text(), "the first fork")
        first = int((plain / "forked").read_text())
        os.kill(first, number)
        (plain / "go").touch()
        server.wait_for(lambda: first not in server.workers(), "it to exit")
        server.wait_until_ready()
        assert len(server.workers()) == 2


#: Ignores signals: it neither exits nor drains.
DEAF = """
import signal
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGALRM, lambda *_: None)

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""
#: Also ignores its slot, as gunicorn's own worker classes do.
GTHREAD = ("-k", "gthread")


@pytest.mark.parametrize("worker", [(), GTHREAD], ids=["thread", "gthread"])
def test_stop_kills_workers_that_ignore_sigterm(folder: Folder, http: socket.socket, worker: tuple[str, ...]) -> None:
    arguments = (*CONF, *worker, "--graceful-timeout", "2", "app:app")
    with Server(folder(DEAF), *arguments, listeners={"http": http}) as server:
        server.wait_until_ready()
        server.process.terminate()
        assert server.wait_until_gone(2 + 5) == 0


def test_surplus_worker_that_ignores_sigterm_is_killed(folder: Folder, http: socket.socket) -> None:
    """SIGTTOU: the worker is killed if it has not exited a few seconds after the drain time."""
    arguments = (*CONF, *GTHREAD, "--graceful-timeout", "1", "app:app")
    with Server(folder(DEAF), *arguments, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        server.signal(signal.SIGTTOU)
        server.wait_for(lambda: len(server.workers()) == 1, "one worker to exit", 1 + EXIT_GRACE + 4)
        killed = next(pid for pid in before if pid not in server.workers())
        assert f"Worker {killed} killed: it has not exited 6 s after its drain began" in server.log
        assert ask(lambda: dial(http))[0] == 200


def test_slot_of_a_dead_worker_is_free(plain: Path, http: socket.socket) -> None:
    """Also if it is not replaced: its requests in flight no longer count."""
    environ = {"RUNTIME_DIRECTORY": str(plain / "counters")}
    with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=environ) as server, dial(http) as client:
        server.wait_until_ready()
        client.sendall(b"GET /sleep/600 HTTP/1.1\r\nHost: app\r\n\r\n")
        server.wait_for((plain / "asleep").exists, "the view to run")

        def slots() -> list[Slot]:
            board = scoreboard.read(plain / "counters", server.process.pid)
            return list(board.taken()) if board else []

        busy = next(slot[Field.PID] for slot in slots() if slot[Field.IN_FLIGHT])
        os.kill(busy, signal.SIGTERM)
        server.wait_for(lambda: len(slots()) == 3, "its replacement")
        os.kill(busy, signal.SIGKILL)
        server.wait_for(lambda: len(slots()) == 2, "its slot to be free", 5)
        assert [slot[Field.IN_FLIGHT] for slot in slots()] == [0, 0]


#: What ends a worker after it has loaded the application, and its description in the journal and in the status line.
ENDS = [
    ("raise RuntimeError('no database')", "RuntimeError: no database", "RuntimeError"),
    ("raise SystemExit(0)", "RuntimeError: ended by SystemExit: 0", "SystemExit"),
    ("raise SystemExit('no database')", "RuntimeError: ended by SystemExit: no database", "SystemExit"),
    ("raise KeyboardInterrupt", "RuntimeError: ended by KeyboardInterrupt", "KeyboardInterrupt"),
    ("raise GeneratorExit", "RuntimeError: ended by GeneratorExit", "GeneratorExit"),
    ("raise StopIteration", "StopIteration", "StopIteration"),
    ("import asyncio; raise asyncio.CancelledError", "RuntimeError: ended by CancelledError", "CancelledError"),
]
#: Hooks, and the method of a worker class that runs them.
HOOK = "from flask_socketact.conf import *\ndef {name}({arguments}):\n    {body}\n"


def settings(folder: Path, body: str, name: str = "post_worker_init") -> None:
    arguments = {"post_worker_init": "worker", "post_fork": "server, worker"}[name]
    (folder / "settings.py").write_text(HOOK.format(name=name, arguments=arguments, body=body))


@pytest.mark.parametrize("name", ["post_worker_init", "post_fork"])
@pytest.mark.parametrize(("body", "reason", "kind"), ENDS)
def test_hook_that_exits_is_a_failed_boot(
    plain: Path, http: socket.socket, name: str, body: str, reason: str, kind: str
) -> None:
    settings(plain, body, name)
    with Server(plain, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() == WORKER_BOOT_ERROR
        assert server.log.count("Booting worker") <= 2
        assert "Traceback" in server.log
        assert f"Reason: Worker failed to boot. {reason}" in server.log
        public = f"{kind} at {plain}/settings.py:3"
        assert server.messages[-1] == f"STOPPING=1\nSTATUS=Worker failed to boot. {public}"


def test_loop_that_fails_to_start_is_a_failed_boot(plain: Path, http: socket.socket) -> None:
    """gunicorn considers the worker booted by then, and would replace it for ever."""
    (plain / "own.py").write_text(
        "import os\nfrom flask_socketact.workers.thread import ThreadWorker\n"
        "class Own(ThreadWorker):\n    def run(self): raise AttributeError('no epoll')\n"
    )
    with Server(plain, *CONF, "-k", "own.Own", "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() == WORKER_BOOT_ERROR
        public = f"AttributeError at {plain}/own.py:4"
        assert server.messages[-1] == f"STOPPING=1\nSTATUS=Worker failed to boot. {public}"


def test_worker_that_exits_later_does_not_act_as_master(plain: Path, http: socket.socket) -> None:
    """It must not stop its siblings, as if it were the master."""
    (plain / "own.py").write_text(
        "import os\nfrom flask_socketact.workers.sync import SyncWorker\n"
        "class Own(SyncWorker):\n    def notify(self):\n        super().notify()\n"
        "        if os.path.exists(f'end-{os.getpid()}'): raise KeyboardInterrupt\n"
    )
    with Server(plain, *CONF, "-k", "own.Own", "app:app", listeners={"http": http}) as server:
        first, second = server.wait_until_ready().workers()
        (plain / f"end-{first}").touch()
        server.wait_for(lambda: first not in server.workers(), "it to end")
        server.wait_for(lambda: len(server.workers()) == 2, "its replacement")
        assert second in server.workers()
        assert "Unexpected error in the worker's main thread" in server.log


def test_stop_reports_requests_in_flight(plain: Path, http: socket.socket) -> None:
    """And extends systemd's stop timeout while there are some."""
    arguments = (*CONF, "--workers", "1", "app:app")
    with Server(plain, *arguments, listeners={"http": http}) as server, dial(http) as client:
        server.wait_until_ready()
        client.sendall(b"GET /sleep/2.5 HTTP/1.1\r\nHost: app\r\n\r\n")
        server.wait_for((plain / "asleep").exists, "the view to run")
        server.wait_for_message("STATUS=Serving")
        server.process.terminate()
        server.wait_for_message("STOPPING=1")
        assert server.wait_until_gone() == 0
        assert b"200 OK" in client.recv(65536)
    stop = next(number for number, message in enumerate(server.messages) if message.startswith("STOPPING=1"))
    said = server.messages[stop:]
    assert said[0] == "STOPPING=1\nSTATUS=Stopping: 1 requests in flight, waiting up to 30 s"
    assert set(said[1:]) == {"EXTEND_TIMEOUT_USEC=10000000"}
    assert 2 <= len(said[1:]) <= 4


def test_manager_that_does_not_read_blocks_nothing(plain: Path, http: socket.socket) -> None:
    """sd_notify(3) would block; the master does not."""
    path = plain / "deaf"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=environ) as server:
            server.wait_for_log("it does not read earlier messages")
            killed = server.workers()[0]
            os.kill(killed, signal.SIGKILL)
            server.wait_for(lambda: server.log.count("Booting worker") == 3, "the master to replace a worker")
            server.process.terminate()
            assert server.wait_until_gone(5) == 0
        assert manager.recv(4096).startswith(b"STATUS=Loading")


@pytest.mark.parametrize("value", ["soon", "0", "-5", ""])
def test_invalid_watchdog(plain: Path, http: socket.socket, value: str) -> None:
    environ = {"WATCHDOG_USEC": value}
    with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=environ) as server:
        assert server.wait_until_gone() == 1
        assert f"WATCHDOG_USEC={value!r} is not a positive number" in server.log


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
def test_watchdog_is_notified_only_of_progress(plain: Path, http: socket.socket, worker: str) -> None:
    """Idle workers make progress, too; not if all of them are stopped."""
    arguments = (*CONF, "-k", f"flask_socketact.workers.{worker}", "app:app")
    with Server(plain, *arguments, listeners={"http": http}, environ={"WATCHDOG_USEC": "4000000"}) as server:
        server.wait_until_ready()
        for _ in range(5):
            assert server.wait_for_message("WATCHDOG=1")
        for pid in server.workers():
            os.kill(pid, signal.SIGSTOP)
        server.wait_for_log("All workers are stuck")
        for pid in server.workers():
            os.kill(pid, signal.SIGCONT)
        server.wait_for_message("WATCHDOG=1")
        server.process.terminate()
        assert server.wait_until_gone() == 0
    beats = [message for message in server.messages if message == "WATCHDOG=1"]
    assert len(beats) >= 6


def test_watchdog_of_another_process(plain: Path, http: socket.socket) -> None:
    environ = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=environ) as server:
        server.wait_for_message("BARRIER=1")
        server.process.terminate()
        assert server.wait_until_gone() == 0
        assert "WATCHDOG=1" not in server.messages


def test_log_file_that_cannot_be_reopened(plain: Path, http: socket.socket) -> None:
    """gunicorn would close the old file first, and then raise at every line."""
    folder = plain / "logs"
    folder.mkdir()
    arguments = (*CONF, "--access-logfile", str(folder / "access"), "--error-logfile", str(folder / "error"), "app:app")
    with Server(plain, *arguments, listeners={"http": http}) as server:
        server.wait_until_ready()
        folder.rename(plain / "gone")
        server.signal(signal.SIGUSR1)
        error = plain / "gone/error"
        server.wait_for(lambda: "Log files are not reopened" in error.read_text(), "the reason in the old file")
        for pid in server.workers():
            os.kill(pid, signal.SIGUSR1)
        server.wait_for(lambda: error.read_text().count("Log files are not reopened") == 3, "that of the workers")
        assert ask(lambda: dial(http))[0] == 200
        folder.mkdir()
        server.signal(signal.SIGUSR1)
        server.wait_for((folder / "error").exists, "new files")

        def is_logged() -> bool:
            ask(lambda: dial(http))
            return (folder / "access").exists() and "GET / " in (folder / "access").read_text()

        server.wait_for(is_logged, "a line in the new file")
