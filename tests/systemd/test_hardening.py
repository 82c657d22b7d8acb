"""The sandbox of the service: what it forbids, and what it allows."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect, ask
from tests.support.machine import EXAMPLES, Machine, release

if TYPE_CHECKING:
    from collections.abc import Callable

#: The exposure level of ``systemd-analyze security``: 0 is best, 10 worst.
EXPOSURE = 2.0

#: Each function is one thing that applications do.
APPLICATION = """
import ctypes, datetime, json, multiprocessing, multiprocessing.shared_memory, os, socket, subprocess
import tempfile, threading, zoneinfo
from flask import Flask

app = Flask(__name__)

def state():
    path = os.path.join(os.environ["STATE_DIRECTORY"], "file")
    with open(path, "w") as file:
        file.write("kept")
    return open(path).read() == "kept"

def temporary_file():
    with tempfile.NamedTemporaryFile() as file:
        return file.write(b"x") == 1

def program():
    return subprocess.run(["/bin/echo", "hello"], capture_output=True, text=True).stdout == "hello\\n"

def shell():
    return subprocess.run("echo hello | tr a-z A-Z", shell=True, capture_output=True, text=True).stdout == "HELLO\\n"

def semaphore():
    with multiprocessing.get_context("spawn").Lock():
        return True

def shared_memory():
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
    memory.close()
    memory.unlink()
    return True

def callback():
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)(41) == 42

def name_service():
    return bool(socket.getaddrinfo("localhost", 80))

def connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()):
            return True

def time_zone():
    return zoneinfo.ZoneInfo("Europe/Berlin").utcoffset(datetime.datetime(2026, 7, 1)).seconds == 7200

def processors():
    return os.cpu_count() > 0 and len(os.sched_getaffinity(0)) > 0 and os.getloadavg() is not None

def memory():
    return "MemTotal" in open("/proc/meminfo").read()

def random_numbers():
    return len(open("/dev/urandom", "rb").read(8)) == 8

def user():
    import pwd
    return pwd.getpwuid(os.getuid()).pw_name == "app"

def thread():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    return True

def priority():
    os.nice(1)
    return True

ALL = [state, temporary_file, program, shell, semaphore, shared_memory, callback, name_service, connection, time_zone]
ALL += [processors, memory, random_numbers, user, thread, priority]

@app.get("/")
def index():
    results = {}
    for function in ALL:
        try:
            results[function.__name__] = function() or "no"
        except Exception as error:
            results[function.__name__] = repr(error)
    return json.dumps(results)

def refused(act, *arguments):
    try:
        act(*arguments)
    except OSError as error:
        return type(error).__name__
    return "allowed"

@app.get("/attempts")
def attempts():
    return json.dumps({
        "write to /srv": refused(open, "/srv/app/file", "w"),
        "write to /etc": refused(open, "/etc/file", "w"),
        "read a home": refused(os.listdir, "/root"),
        "become another": refused(os.setuid, 0),
        "packets": refused(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
        "mount": refused(os.listdir, "/proc/1/fd"),
        "namespace": "allowed" if subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode == 0
            else "refused",
    })
"""


@pytest.mark.parametrize("name", ["app", "app-unix"])
def test_the_exposure_of_the_example_units_is_low(machine: Machine, figure: Callable[[str], None], name: str) -> None:
    figure(f"{name}: {exposure(machine, name)}")
    assert exposure(machine, name) <= EXPOSURE


def test_the_exposure_of_the_unit_for_this_systemd_is_low(rendered: Machine, figure: Callable[[str], None]) -> None:
    figure(f"{exposure(rendered, 'app')}")
    assert exposure(rendered, "app") <= EXPOSURE


def test_each_setting_that_systemd_analyze_misses_has_a_comment(machine: Machine) -> None:
    """The comment gives the reason why the unit does not have it."""
    output = machine.run("systemd-analyze", "security", "--no-pager", "app.service").stdout
    faults = set(re.findall(r"^\s*✗ (\w+)=", output, re.MULTILINE))
    assert faults
    comments = [line for line in (EXAMPLES / "units/app.service").read_text().splitlines() if line.startswith("# ")]
    assert {fault for fault in faults if not any(f"{fault}=" in comment for comment in comments)} == set()


def exposure(machine: Machine, name: str) -> float:
    output = machine.run("systemd-analyze", "security", "--no-pager", f"{name}.service").stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", output)
    assert found, output
    return float(found[1])


def test_the_sandbox_allows_what_applications_do(machine: Machine, tcp: Connect) -> None:
    release(machine, APPLICATION)
    status, content = ask(tcp)
    assert status == 200
    results = json.loads(content)
    assert {name: result for name, result in results.items() if result is not True} == {}


def test_the_sandbox_forbids_what_the_user_could_do(machine: Machine, tcp: Connect) -> None:
    machine.run("sh", "-c", "chown app /srv/app")
    release(machine, APPLICATION)
    status, content = ask(tcp, "/attempts")
    assert status == 200
    results = json.loads(content)
    assert {name: result for name, result in results.items() if result == "allowed"} == {}
