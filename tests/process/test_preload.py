"""``preload_app``: a loader loads the application once for each generation, and forks its workers."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from gunicorn.arbiter import Arbiter

from flask_socketact.linux import proc
from tests.support.http import ask
from tests.support.releases import WORKERS, asking, release
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Folder

PRELOAD = (*CONF, "--preload", "-w", "3", "app:app")
#: A release that counts how often it is loaded.
COUNTED = "open('loads', 'a').write('one\\n')"
#: A response names its worker, whose parent it names, too.
NAMES = """
import os
def app(environ, start_response):
    content = f"{os.getpid()} {os.getppid()}".encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
"""


def wait_for_number(server: Server, number: int) -> None:
    """Wait until there are so many processes besides the master."""
    server.wait_for(lambda: len(server.processes()) == number, f"{number} processes: workers, a loader ...")


@pytest.mark.parametrize("worker", WORKERS)
def test_each_generation_loads_the_application_once(site: Path, http: socket.socket, worker: str) -> None:
    release(site, "one", COUNTED)
    arguments = ("-k", f"flask_socketact.workers.{worker}", *PRELOAD)
    with Server(site, *arguments, listeners={"http": http}) as server, asking(http) as load:
        assert "with 3 of 3 workers" in server.wait_until_ready().wait_for_message("STATUS=")
        for name in ("two", "three"):
            release(site, name, COUNTED)
            server.signal(signal.SIGHUP)
            assert "Serving with 3 of 3" in server.wait_for_message("READY=1")
            assert ask(lambda: dial(http)) == (200, name.encode())
        wait_for_number(server, 1 + 3)
        assert (site / "loads").read_text().count("one") == 3
    assert not load.failures()


def test_the_master_is_the_parent_of_the_workers(folder: Folder, http: socket.socket) -> None:
    """It reaps them, and calls the hook ``child_exit``; a worker that is lost is replaced without another load."""
    site = folder(NAMES + COUNTED)
    (site / "conf.py").write_text(
        "from flask_socketact.conf import *\npreload_app = True\n"
        "def child_exit(server, worker): server.log.info('exited: %s, age %s', worker.pid, worker.age)\n"
    )
    with Server(site, "-c", "conf.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        pid, parent = map(int, ask(lambda: dial(http))[1].split())
        assert parent == server.process.pid
        os.kill(pid, signal.SIGKILL)
        server.wait_for_log(f"exited: {pid}, age ")
        server.wait_for(lambda: "Serving with 2 of 2" in server.wait_for_message("STATUS="), "another worker")
        assert (site / "loads").read_text().count("one") == 1


def test_a_release_that_does_not_load_fails_the_start(site: Path, http: socket.socket) -> None:
    release(site, "one", "raise RuntimeError('a slip')")
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        assert server.wait_until_gone() == Arbiter.WORKER_BOOT_ERROR
        assert "Reason: RuntimeError: a slip" in server.log
        assert "Traceback" in server.log
        assert "STOPPING=1\nSTATUS=RuntimeError at " in server.messages[-1]
        assert "a slip" not in server.messages[-1]


def test_a_release_that_does_not_load_fails_the_reload(site: Path, http: socket.socket) -> None:
    """The old loader stays, and forks workers of the old release."""
    release(site, "one", COUNTED)
    with Server(site, *PRELOAD, listeners={"http": http}) as server, asking(http) as load:
        before = server.wait_until_ready().workers()
        for extra in ("raise RuntimeError('a slip')", "import sys; sys.exit('no')", "import os; os.abort()"):
            release(site, "two", extra)
            server.signal(signal.SIGHUP)
            assert "Reload failed (" in server.wait_for_message("READY=1")
        assert "was ended by SIGABRT" in server.log
        assert server.workers() == before
        os.kill(before[0], signal.SIGKILL)
        server.wait_for(lambda: len(set(server.workers()) - {before[0]}) == 3, "a worker in its place")
        server.wait_for(lambda: "with 3 of 3" in server.wait_for_message("STATUS="), "it to serve")
        for _ in range(10):
            assert ask(lambda: dial(http)) == (200, b"one")
        assert (site / "loads").read_text().count("one") == 1
    assert load.failures().total() <= 1  # in the worker that was killed


@pytest.mark.parametrize("stuck", ["import time; time.sleep(600)", "import ctypes; ctypes.PyDLL(None).pause()"])
def test_a_load_that_takes_too_long(site: Path, http: socket.socket, stuck: str) -> None:
    limit = {"SOCKETACT_LOAD_TIMEOUT": "1.5"}
    with Server(site, *PRELOAD, listeners={"http": http}, environ=limit) as server:
        server.wait_until_ready()
        release(site, "two", stuck)
        server.signal(signal.SIGHUP)
        why = r"loader \d+ killed: did not load the application within SOCKETACT_LOAD_TIMEOUT = 1\.5 s"
        assert re.search(rf"Reload failed \({why}\)", server.wait_for_message("READY=1"))
        assert re.search(r'File "\S+/app.py", line 2 in <module>', server.log)
        assert ask(lambda: dial(http)) == (200, b"one")
        server.wait_for(lambda: len(server.loaders()) == 1, "the new loader to exit")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (9, "was ended by SIGKILL"),
        (signal.SIGTERM, "was told to exit"),
        (signal.SIGRTMIN + 1, "was ended by signal 35"),
    ],
)
def test_a_loader_that_ends_is_replaced_when_a_worker_is_needed(
    site: Path, http: socket.socket, number: int, told: str
) -> None:
    release(site, "one", COUNTED)
    with Server(site, *PRELOAD, listeners={"http": http}) as server, asking(http) as load:
        before = server.wait_until_ready().workers()
        (loader,) = server.loaders()
        os.kill(loader, number)
        server.wait_for_log(f"loader {loader} {told}. Another one loads the application when")
        assert server.workers() == before
        seen = load.requests
        server.wait_for(lambda: load.requests > seen + 50, "responses")
        os.kill(before[0], signal.SIGTERM)
        server.wait_for(lambda: server.log.count("Booting worker") == 4, "a worker in its place")
        assert (site / "loads").read_text().count("one") == 2
    assert not load.failures()


def test_a_loader_that_is_killed_while_it_loads(site: Path, http: socket.socket) -> None:
    release(site, "one", "open('loading', 'w').close(); import time; time.sleep(20)")
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_for((site / "loading").exists, "the loader")
        (loader,) = server.loaders()
        os.kill(loader, signal.SIGKILL)
        assert server.wait_until_gone() == Arbiter.WORKER_BOOT_ERROR
        assert f"Reason: loader {loader} was ended by SIGKILL" in server.log


@pytest.mark.parametrize("extra", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_DFL)"])
def test_a_loader_that_is_told_to_exit_while_it_loads(site: Path, http: socket.socket, extra: str) -> None:
    """systemd, which stops a service that starts, tells all processes at once: the loader may be the first."""
    hold = site / "hold"
    hold.touch()
    release(site, "one", f"{extra}\nimport os, time\nwhile os.path.exists('hold'): time.sleep(0.02)")
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_for_log("Loading the application for all workers")
        (loader,) = server.loaders()
        os.kill(loader, signal.SIGTERM)
        server.wait_for_log(f"loader {loader} was ended by SIGTERM. Another one loads the application")
        hold.unlink()
        server.wait_until_ready()
        assert ask(lambda: dial(http)) == (200, b"one")


def test_a_stop_while_the_application_loads(site: Path, http: socket.socket) -> None:
    """At once, and as a success; Ctrl-C is sent to the loader, too."""
    for stop in (signal.SIGTERM, signal.SIGINT):
        release(site, "one", "open('loading', 'w').close(); import time; time.sleep(20)")
        with Server(site, *PRELOAD, listeners={"http": http}) as server:
            server.wait_for((site / "loading").exists, "the loader")
            os.killpg(server.process.pid, stop) if stop == signal.SIGINT else server.signal(stop)
            assert server.wait_until_gone(5) == 0
            assert "ended by" not in server.log
        (site / "loading").unlink()


def test_a_master_that_is_killed_leaves_no_loader(site: Path, http: socket.socket) -> None:
    """While it loads the application, and later."""
    for extra in ("", "open('loading', 'w').close(); import time; time.sleep(60)"):
        release(site, "one", extra)
        with Server(site, *PRELOAD, listeners={"http": http}) as server:
            if extra:
                server.wait_for((site / "loading").exists, "the loader")
            else:
                server.wait_until_ready()
            server.signal(signal.SIGKILL)
            server.wait_for(lambda: not server.processes(), "all processes to exit")


def test_hooks(folder: Folder, http: socket.socket) -> None:
    """``pre_fork`` is called in the loader, which keeps what it changes, and has the application."""
    site = folder(
        "CONNECTION = ['open']\n" + NAMES.replace("os.getpid()} {os.getppid()", "CONNECTION} {os.environ['NUMBER']")
    )
    (site / "conf.py").write_text(
        """
from flask_socketact.conf import *
import itertools, os
preload_app = True
workers = 3
numbers = itertools.count(1)
def pre_fork(server, worker):
    import app
    app.CONNECTION[:] = ["closed"]
    os.environ["NUMBER"] = str(next(numbers))
    worker.number = os.environ["NUMBER"]
def post_fork(server, worker):
    server.log.info("worker %s is number %s: parent %s", worker.pid, worker.number, os.getppid())
"""
    )
    with Server(site, "-c", "conf.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        found = re.findall(r"worker (\d+) is number (\d): parent (\d+)", server.log)
        assert sorted(number for _, number, _ in found) == ["1", "2", "3"]
        assert {int(pid) for pid, _, _ in found} == set(server.workers())
        assert {int(parent) for _, _, parent in found} == {server.process.pid}
        assert ask(lambda: dial(http))[1] in {f"['closed'] {number}".encode() for number in (1, 2, 3)}


@pytest.mark.parametrize(
    "what", ["raise RuntimeError('a slip')", "os._exit(7)", "time.sleep(0) or os.kill(os.getpid(), 9)"]
)
def test_a_hook_that_fails(site: Path, http: socket.socket, what: str) -> None:
    """At the start it ends the service; later the others serve, and the next try follows."""
    conf = "from flask_socketact.conf import *\nimport os, time\npreload_app = True\nworkers = 3\n"
    (site / "conf.py").write_text(
        f"{conf}def pre_fork(server, worker):\n    if os.path.exists('fail'):\n        {what}\n"
    )
    (site / "fail").touch()
    with Server(site, "-c", "conf.py", "app:app", listeners={"http": http}) as server:
        assert server.wait_until_gone() == Arbiter.WORKER_BOOT_ERROR
        assert re.search(
            r"Reason: (no worker can be forked: RuntimeError: a slip|loader \d+ (has exited|was))", server.log
        )
    (site / "fail").unlink()
    with Server(site, "-c", "conf.py", "app:app", listeners={"http": http}) as server, asking(http) as load:
        before = server.wait_until_ready().workers()
        (site / "fail").touch()
        os.kill(before[0], signal.SIGTERM)
        server.wait_for_log("the other workers serve, and the next try follows in 2 s")
        (site / "fail").unlink()
        server.wait_for(lambda: len(set(server.workers()) - {before[0]}) == 3, "a worker in its place")
    assert not load.failures()


def test_a_worker_that_the_master_does_not_know_exits(site: Path, http: socket.socket) -> None:
    """The process that forks it is killed before it has told its pid."""
    forker_dies = """
import os
loader = os.getpid()
def die():
    if os.getpid() != loader and os.path.exists("fail"):
        os.remove("fail")
        os.kill(os.getpid(), 9)
os.register_at_fork(after_in_parent=die)
"""
    release(site, "one", forker_dies)
    with Server(site, *PRELOAD, listeners={"http": http}) as server, asking(http) as load:
        before = server.wait_until_ready().workers()
        (site / "fail").touch()
        os.kill(before[0], signal.SIGTERM)
        server.wait_for_log("no worker can be forked: ChildProcessError: process ")
        server.wait_for(lambda: "with 3 of 3" in server.wait_for_message("STATUS="), "a worker in its place")
        server.wait_for(lambda: len(server.workers()) == 3, "the other one to exit")
    assert not load.failures()


def test_a_process_that_the_application_has_started_hides_no_exit_of_the_loader(
    site: Path, http: socket.socket
) -> None:
    """Though it has inherited the loader's descriptors. The loader is replaced, and a reload fails at once."""
    child = """
import os
if not (child := os.fork()):
    import time
    time.sleep(20)
    os._exit(0)
open("children", "a").write(f"{child} ")
"""
    release(site, "one", child)
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        os.kill(server.loaders()[0], signal.SIGKILL)
        server.wait_for_log("was ended by SIGKILL. Another one loads the application")
        booted = re.findall(r"Booting worker with pid: (\d+)", server.log)
        os.kill(int(booted[0]), signal.SIGKILL)
        server.wait_for(lambda: server.log.count("Booting worker") == 4, "a worker in its place")
        release(site, "two", child + "os._exit(5)")
        server.signal(signal.SIGHUP)
        assert re.search(r"Reload failed \(loader \d+ has exited with status 5\)", server.wait_for_message("READY=1"))
        for pid in (site / "children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_an_interrupt_of_the_loader_ends_only_the_loader(site: Path) -> None:
    """As in a program whose library restores Python's handler of SIGINT. The master's socket and pidfile stay."""
    release(site, "one", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    with Server(site, "--pid", "pid", "--bind", f"unix:{site}/socket", *PRELOAD) as server:
        server.wait_until_ready()
        os.kill(server.loaders()[0], signal.SIGINT)
        server.wait_for_log("has exited with status 3. Another one loads the application")
        assert (site / "pid").exists()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{site}/socket")


def test_a_child_of_the_import_that_is_ended_at_once(site: Path, http: socket.socket) -> None:
    """Before it has its own signal handlers."""
    child = """
import multiprocessing, time
for _ in range(20):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    assert process.exitcode == -15
"""
    release(site, "one", child)
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("child", ["sys.exit(3)", "raise RuntimeError('in the child')", "pass"])
def test_a_process_that_the_import_forks_ends_with_it(
    site: Path, http: socket.socket, child: str, *, preload: bool
) -> None:
    """As a daemon that forks itself does; its parent goes on."""
    release(site, "one", f"import os, sys\nif not (child := os.fork()):\n    {child}\nelse: os.waitpid(child, 0)")
    with Server(site, *(PRELOAD if preload else (*CONF, "app:app")), listeners={"http": http}) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http)) == (200, b"one")
        assert server.log.count("RuntimeError: in the child") == (("RuntimeError" in child) * (1 if preload else 2))


def test_what_the_import_has_started_lives_as_long_as_its_workers(folder: Folder, http: socket.socket) -> None:
    """It is ended by the exit handlers of the application, in a reload and in a stop."""
    site = folder(
        NAMES.replace("os.getpid()} {os.getppid()", "HELPER.pid")
        + "import atexit, subprocess\nHELPER = subprocess.Popen(['sleep', '600'])\natexit.register(HELPER.kill)\n"
    )
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        for _ in range(2):
            helper = int(ask(lambda: dial(http))[1])
            assert proc.exists(helper)
            server.signal(signal.SIGHUP)
            server.wait_for_message("READY=1")
            wait_for_number(server, 1 + 3 + 1)  # with the new helper
            server.wait_for(partial(lambda pid: not proc.exists(pid), helper), "the old helper to be reaped")


def test_what_a_release_has_started_that_does_not_load_is_ended(site: Path, http: socket.socket) -> None:
    """Its exit handlers run to their end, and do not wait for its threads."""
    failing = """
import atexit, subprocess, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
helper = subprocess.Popen(["sleep", "600"])
def end():
    time.sleep(0.5)
    helper.kill()
    helper.wait()
atexit.register(end)
raise RuntimeError("a slip")
"""
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        release(site, "two", failing)
        server.signal(signal.SIGHUP)
        assert "Reload failed" in server.wait_for_message("READY=1")
        wait_for_number(server, 1 + 3)
        assert "Exception ignored" not in server.log


def test_a_worker_that_exits_leaves_processes_of_the_import(folder: Folder, http: socket.socket) -> None:
    """Which its siblings may need. multiprocessing ends daemonic ones with the first worker that exits."""
    site = folder(
        "import multiprocessing, time\n"
        "HELPER = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,), daemon=True)\n"
        "HELPER.start()\n" + NAMES.replace("os.getpid()} {os.getppid()", "HELPER.pid")
    )
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        helper = int(ask(lambda: dial(http))[1])
        (booted, *_) = re.findall(r"Booting worker with pid: (\d+)", server.log)
        os.kill(int(booted), signal.SIGTERM)
        server.wait_for_log(f"Worker exiting (pid: {booted})")
        server.wait_for(lambda: not proc.exists(int(booted)), "the worker to be reaped")
        assert proc.exists(helper)


def test_the_search_for_what_a_fork_breaks_changes_nothing(folder: Folder, http: socket.socket) -> None:
    """Neither the application's sockets, nor its descriptors."""
    site = folder(
        """
import multiprocessing, os, socket
socket.setdefaulttimeout(10)
ends = multiprocessing.Pipe()
pipe = os.pipe()
def app(environ, start_response):
    blocking = [os.get_blocking(end.fileno()) for end in ends]
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(60) if os.path.lexists(f"/proc/self/fd/{fd}")]
    content = f"{blocking} {names.count(os.readlink(f'/proc/self/fd/{pipe[0]}'))}".encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
"""
    )
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http)) == (200, b"[True, True] 2")


def test_an_application_that_ignores_sigchld(site: Path, http: socket.socket) -> None:
    release(site, "one", "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http)) == (200, b"one")


def test_a_default_timeout_of_sockets(site: Path, http: socket.socket) -> None:
    (site / "conf.py").write_text(
        "from flask_socketact.conf import *\nimport socket\npreload_app = True\nsocket.setdefaulttimeout(0.1)\n"
    )
    with Server(site, "-c", "conf.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        (loader,) = server.loaders()
        time.sleep(0.5)
        assert server.loaders() == [loader]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_another_user(site: Path, http: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The loader has it, too: it needs nothing that only root may write."""
    for folder in (*site.parents[:-2], site):
        folder.chmod(0o755)
    root_only = tmp_path_factory.mktemp("root-only")
    release(site, "one", "import os; assert os.getuid() == 65534")
    arguments = (
        "-u",
        "65534",
        "-g",
        "65534",
        "--worker-tmp-dir",
        str(root_only),
        "--access-logfile",
        str(root_only / "log"),
    )
    with Server(site, *arguments, *PRELOAD, listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        os.kill(before[0], signal.SIGKILL)
        server.wait_for(lambda: server.log.count("Booting worker") == 4, "a worker in its place")
        assert ask(lambda: dial(http)) == (200, b"one")
        assert "ERROR" not in server.log.replace("was sent SIGKILL", "").replace("[ERROR] Worker (pid", "")


def test_the_reloader_of_gunicorn_needs_workers_that_load(site: Path, http: socket.socket) -> None:
    with Server(site, "--reload", *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert "preload_app is ignored: with reload, each worker must load the changed application" in server.log
        release(site, "two")
        server.wait_for(lambda: ask(lambda: dial(http)) == (200, b"two"), "the new release")


def test_a_worker_whose_report_fails_does_not_go_on_as_a_loader(site: Path, http: socket.socket) -> None:
    """gunicorn prints the reason, and that may raise."""
    conf = "from flask_socketact.conf import *\npreload_app = True\nworkers = 3\n"
    (site / "conf.py").write_text(conf)
    failing = """
def post_worker_init(worker):
    import sys
    sys.stderr = sys.stdout = None
    class E(Exception):
        def __str__(self): raise ValueError("none")
    raise E()
"""
    with Server(site, "-c", "conf.py", "app:app", listeners={"http": http}) as server:
        before = server.wait_until_ready().workers()
        (site / "conf.py").write_text(conf + failing)
        server.signal(signal.SIGHUP)
        assert "Reload failed (" in server.wait_for_message("READY=1")
        wait_for_number(server, 1 + 3)
        assert server.workers() == before
        for text in ("A worker cannot be forked", "Unexpected error in a loader", "Shutting down: Master"):
            assert text not in server.log


def test_recycled_workers_come_from_the_loader(site: Path, http: socket.socket) -> None:
    release(site, "one", COUNTED)
    with Server(site, "--max-requests", "40", *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        with asking(http) as load:
            server.wait_for(lambda: server.log.count("Served max_requests") > 5, "recycling")
        assert (site / "loads").read_text().count("one") == 1
    assert not load.failures()


def test_a_reload_turns_it_on_and_off(site: Path, http: socket.socket) -> None:
    conf = "from flask_socketact.conf import *\nworkers = 3\npreload_app = "
    (site / "conf.py").write_text(f"{conf}False\n")
    release(site, "one", COUNTED)
    with Server(site, "-c", "conf.py", "app:app", listeners={"http": http}) as server, asking(http) as load:
        server.wait_until_ready()
        for setting, loads, count in (("True", 4, 1), ("False", 7, 0), ("True", 8, 1)):
            (site / "conf.py").write_text(f"{conf}{setting}\n")
            server.signal(signal.SIGHUP)
            assert "Serving with 3 of 3" in server.wait_for_message("READY=1")
            assert (site / "loads").read_text().count("one") == loads
            wait_for_number(server, count + 3)
    assert not load.failures()


def test_what_a_fork_breaks_is_told(folder: Folder, http: socket.socket) -> None:
    """Threads, connections, and files like those of SQLite; but not logs, the journal's socket, shared memory, or files
    that are only read."""
    site = folder(
        NAMES
        + """
import logging, mmap, multiprocessing, socket, sqlite3, sys, threading, time
threading.Thread(target=time.sleep, args=(600,), name="refresher", daemon=True).start()
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
other = socket.socket()
ends = socket.socketpair()
shared = multiprocessing.Value("i", 0)
with open("table", "w+b") as file:
    file.write(bytes(8192))
    table = mmap.mmap(file.fileno(), 0)
database = sqlite3.connect("data.db")
database.execute("create table t (x)")
log = logging.FileHandler("app.log")
source = open(__file__)
print("peer", client.getpeername()[1], flush=True)
"""
    )
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        port = int(re.findall(r"peer (\d+)", server.log)[0])
        told = re.findall(r"WARNING\] preload_app: (.*)", server.log)
        assert len(told) == 3
        assert "threads while it was loaded, which do not run in the workers: refresher. Start" in told[0]
        assert f"would share: 127.0.0.1:{port}, a listener at 127.0.0.1:{port}. Close" in told[1]
        assert f"would share: {site}/data.db. Close" in told[2]


def test_an_application_without_such_things_is_told_nothing(site: Path, http: socket.socket) -> None:
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert "preload_app" not in server.log


def test_new_workers_write_to_log_files_that_were_reopened(site: Path, http: socket.socket) -> None:
    with Server(site, "--access-logfile", "access", *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        before = server.workers()
        (site / "access").rename(site / "access.1")
        server.signal(signal.SIGUSR1)
        server.wait_for((site / "access").exists, "a new file")
        for pid in before:
            os.kill(pid, signal.SIGTERM)
        server.wait_for(lambda: len(workers := server.workers()) == 3 and not set(before) & set(workers), "new workers")
        assert ask(lambda: dial(http))[0] == 200
        server.wait_for(lambda: "GET /" in (site / "access").read_text(), "the line of the request")


def test_workers_share_no_descriptor_of_the_loader(folder: Folder, http: socket.socket) -> None:
    """Nor of another generation's."""
    site = folder(
        """
import os
def app(environ, start_response):
    sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and
        os.path.islink(f"/proc/self/fd/{fd}")]
    content = str(sum(name.startswith("socket:") for name in sockets)).encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
"""
    )
    with Server(site, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        expected = ask(lambda: dial(http))
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http)) == expected
        server.signal(signal.SIGHUP)
        server.wait_for_message("READY=1")
        # At first it may have a connection of the old worker, and the message that it came in.
        server.wait_for(lambda: ask(lambda: dial(http)) == expected, "as many sockets")


def test_application_loaded_once_sees_no_variables_of_the_service_manager(folder: Folder, http: socket.socket) -> None:
    site = folder(
        """
        import os
        print("found:", [name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_"))], flush=True)
        def app(environ, start_response): ...
        """
    )
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert "found: []" in server.log


def test_slow_loads_extend_the_start_timeout(site: Path, http: socket.socket) -> None:
    release(site, "one", "import time; time.sleep(6)")
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_for_message("EXTEND_TIMEOUT_USEC=10000000")
        server.wait_until_ready()


def test_modules_of_the_old_release_are_not_used_again(site: Path, http: socket.socket) -> None:
    """Each loader is forked by the master, which imports nothing of the application."""
    (site / "part.py").write_text("NAME = 'one'\n")
    source = "import part\ndef app(environ, start_response):\n"
    source += (
        "    start_response('200 OK', [('Content-Length', str(len(part.NAME)))])\n    return [part.NAME.encode()]\n"
    )
    (site / "app.py").write_text(source)
    with Server(site, *PRELOAD, listeners={"http": http}) as server:
        server.wait_until_ready()
        for name in ("two", "three"):
            (site / "part.py").write_text(f"NAME = '{name}'  # longer\n")
            os.utime(site / "part.py", (time.time() + 5, time.time() + 5))
            server.signal(signal.SIGHUP)
            server.wait_for_message("READY=1")
            assert ask(lambda: dial(http)) == (200, name.encode())
