"""Applications that take long to load, or exceed the load timeout."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from gunicorn.arbiter import Arbiter

from tests.support.http import ask
from tests.support.releases import WORKERS, asking, release
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.process.conftest import Folder

LIMIT = {"SOCKETACT_LOAD_TIMEOUT": "1.5"}
#: One worker or both: their load timeouts expire at the same moment.
WHY = r"workers? [\d, ]+ killed: did not load the application within SOCKETACT_LOAD_TIMEOUT = 1\.5 s"
#: Responds with how many of its thousand objects a garbage collection looks at.
PILE = """
import gc

pile = [[] for _ in range(1000)]

def app(environ, start_response):
    looked_at = {id(each) for each in gc.get_objects()}
    body = b"%d" % sum(id(each) in looked_at for each in pile)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
#: In Python, or in C, where no signal handler runs.
STUCK = ["import time; time.sleep(600)", "import ctypes; ctypes.PyDLL(None).pause()"]


@pytest.mark.parametrize("worker", WORKERS)
def test_import_may_take_longer_than_a_request(site: Path, http: socket.socket, worker: str) -> None:
    """gunicorn's ``timeout`` is for requests. The master extends systemd's start timeout meanwhile."""
    release(site, "one", "import time; time.sleep(7)")
    arguments = (*CONF, "-k", f"flask_socketact.workers.{worker}", "--timeout", "2", "app:app")
    with Server(site, *arguments, listeners={"http": http}) as server:
        server.wait_for_message("EXTEND_TIMEOUT_USEC=10000000")
        server.wait_until_ready()
        assert ask(lambda: dial(http)) == (200, b"one")
        assert "TIMEOUT" not in server.log


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["each worker loads", "preload_app"])
@pytest.mark.parametrize("worker", WORKERS)
def test_what_was_loaded_is_left_out_of_garbage_collections(
    folder: Folder, http: socket.socket, worker: str, preload: tuple[str, ...]
) -> None:
    """They would look at all of it some seconds after each restart, while clients wait."""
    arguments = (*CONF, "-k", f"flask_socketact.workers.{worker}", *preload, "app:app")
    with Server(folder(PILE), *arguments, listeners={"http": http}) as server:
        server.wait_until_ready()
        assert ask(lambda: dial(http)) == (200, b"0")


@pytest.mark.parametrize("stuck", STUCK)
def test_start_that_exceeds_the_load_timeout(site: Path, http: socket.socket, stuck: str) -> None:
    release(site, "one", stuck)
    with Server(site, *CONF, "app:app", listeners={"http": http}, environ=LIMIT) as server:
        assert server.wait_until_gone(20) == Arbiter.WORKER_BOOT_ERROR
        assert re.fullmatch(f"STOPPING=1\nSTATUS={WHY}", server.messages[-1])
        assert re.search(f"Reason: {WHY}", server.log)
        assert re.search(r'File "\S+/app.py", line 2 in <module>', server.log)


@pytest.mark.parametrize("stuck", STUCK)
def test_replacement_that_exceeds_the_load_timeout(site: Path, http: socket.socket, stuck: str) -> None:
    """It is killed, logged, and started again, while the others serve."""
    with Server(site, *CONF, "app:app", listeners={"http": http}, environ=LIMIT) as server:
        before = server.wait_until_ready().workers()
        release(site, "two", stuck)
        os.kill(before[0], signal.SIGKILL)
        with asking(http) as load:
            server.wait_for(
                lambda: len(re.findall(f"{WHY}: the other workers serve", server.log)) >= 2, "two attempts", 20
            )
            told = re.compile(f"STATUS=Serving with 1 of 2 .*; workers are missing: {WHY}")
            server.wait_for(lambda: told.match(server.wait_for_message("STATUS=")), "the reason")
            release(site, "three")
            server.wait_for(lambda: "Serving with 2 of 2" in server.wait_for_message("STATUS="), "two of them", 20)
        assert not load.failures()


def test_load_timeout_that_becomes_invalid(site: Path, http: socket.socket) -> None:
    """The reload fails, and the old workers keep serving."""
    (site / "settings.py").write_text("from flask_socketact.conf import *\n")
    with Server(site, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        with asking(http) as load:
            text = "from flask_socketact.conf import *\nraw_env = ['SOCKETACT_LOAD_TIMEOUT=long']\n"
            (site / "settings.py").write_text(text)
            server.signal(signal.SIGHUP)
            failed = "Reload failed (SOCKETACT_LOAD_TIMEOUT='long' is not a positive number of seconds"
            assert failed in server.wait_for_message("READY=1")
            (site / "settings.py").write_text(text.replace("long", "60"))
            server.signal(signal.SIGHUP)
            assert "Serving with 2 of 2" in server.wait_for_message("READY=1")
        assert not load.failures()


def test_invalid_load_timeout(site: Path, http: socket.socket) -> None:
    environ = {"SOCKETACT_LOAD_TIMEOUT": "long"}
    with Server(site, *CONF, "app:app", listeners={"http": http}, environ=environ) as server:
        assert server.wait_until_gone() == 1
        assert "SOCKETACT_LOAD_TIMEOUT='long' is not a positive number of seconds" in server.log
        assert "Traceback" not in server.log


def test_while_others_serve_workers_load_one_after_another(site: Path, http: socket.socket) -> None:
    """At most half of the CPUs load the application; in a start, all may."""
    busy = """
import os, time
with open("loads", "a") as log: log.write(f"begin {os.getpid()}\\n")
until = time.process_time() + 0.6
while time.process_time() < until: pass
with open("loads", "a") as log: log.write(f"end {os.getpid()}\\n")
"""
    release(site, "one", busy)
    with Server(site, *CONF, "-w", "4", "app:app", listeners={"http": http}) as server, asking(http) as load:
        server.wait_until_ready()
        (site / "loads").unlink()
        server.signal(signal.SIGHUP)
        assert "Serving with 4 of 4" in server.wait_for_message("READY=1")
    at_once = most = 0
    for line in (site / "loads").read_text().splitlines():
        at_once += 1 if line.startswith("begin") else -1
        most = max(most, at_once)
    assert most == max(1, len(os.sched_getaffinity(0)) // 2)
    assert not load.failures()


def test_loads_that_only_wait_do_not_wait_for_each_other(site: Path, http: socket.socket) -> None:
    release(site, "one", "import time; time.sleep(2)")
    with Server(site, *CONF, "-w", "6", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        began = time.monotonic()
        server.signal(signal.SIGHUP)
        assert "Serving with 6 of 6" in server.wait_for_message("READY=1")
        assert time.monotonic() - began < 6
