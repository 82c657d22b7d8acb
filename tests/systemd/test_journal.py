"""Log entries in the journal, and their fields."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from flask_socketact.systemd import message_ids
from tests.support.http import Client, Connect, ask
from tests.support.load import Load
from tests.support.logs import CONFIGURATIONS
from tests.support.machine import Machine, drop_in, release
from tests.support.operations import held_release, restarting, wait_for_old
from tests.support.server import DEADLINE

if TYPE_CHECKING:
    from pathlib import Path

Entry = dict[str, Any]

WORKERS = pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
#: Logs from a view, fails in one, and fails where Flask does not see it.
TALKS = """
import logging
from flask import Flask
app = Flask(__name__)
app.logger.info("imported")
shop = logging.getLogger("shop")

@app.get("/")
def index():
    app.logger.error("from the app")
    shop.warning("from\\na library", extra={"ORDER_ID": 7, "item": "lamp", "BAD=NAME": 1, "_PID": 1})
    return "x"

@app.get("/fails")
def fails():
    raise ValueError("a bug")

inner = app.wsgi_app
def outer(environ, start_response):
    if environ["PATH_INFO"] == "/outside":
        raise ValueError("outside of Flask")
    return inner(environ, start_response)
app.wsgi_app = outer
"""

WAITS = """
import time
@app.get("/wait")
def wait():
    shop.warning("a")
    time.sleep(1)
    shop.warning("b")
    return "x"
"""


def entries(machine: Machine, *matches: str) -> list[Entry]:
    done = machine.run("journalctl", "--no-pager", "--quiet", "--output=json", *matches)
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_for_entries(machine: Machine, *matches: str, count: int = 1) -> list[Entry]:
    machine.wait_for(lambda: len(entries(machine, *matches)) >= count, f"{count} x {' '.join(matches)}", DEADLINE)
    return entries(machine, *matches)


def messages(machine: Machine) -> list[str]:
    """Return all journal entries of the service since its start."""
    found = entries(machine, f"_SYSTEMD_INVOCATION_ID={machine.show('app', 'InvocationID')}")
    return [entry["MESSAGE"] for entry in found]


def start(machine: Machine, arguments: str = "", source: str | None = TALKS, more: str = "") -> str:
    """Start the service, and return the match for what its first generation logs."""
    release(machine, source)
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={arguments}"\n{more}')
    machine.systemctl("start", "app")
    return f"GENERATION={machine.show('app', 'MainPID')}.1"


def send(connect: Connect, head: bytes) -> bytes:
    """Send a header section unchanged, and return the response."""
    with connect() as client:
        client.sendall(head + b"Host: app\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


@WORKERS
def test_failures_are_found_by_their_status(machine: Machine, tcp: Connect, worker: str) -> None:
    """Without any setting."""
    generation = start(machine, f"-k flask_socketact.workers.{worker}")
    for target, status in {"/": 200, "/none": 404, "/fails": 500, "/outside": 500}.items():
        assert ask(tcp, target)[0] == status
    found = wait_for_entries(machine, "--unit=app", "STATUS=500", generation, count=2)
    found.sort(key=lambda entry: entry["PATH"])  # two workers log in any order
    assert [entry["PATH"] for entry in found] == ["/fails", "/outside"]
    assert {entry["LOGGER"] for entry in found} == {"gunicorn.access"}
    assert {entry["PRIORITY"] for entry in found} == {"3"}
    for entry, text in zip(found, ("a bug", "outside of Flask"), strict=True):
        assert entry["LISTENER"] == "http"
        report, access = entries(machine, f"REQUEST_ID={entry['REQUEST_ID']}")
        assert access == entry
        assert report["MESSAGE"].endswith(f"\nValueError: {text}")
        assert "Traceback (most recent call last):\n" in report["MESSAGE"]
    assert len(entries(machine, generation, "LOGGER=gunicorn.access")) == 2


@WORKERS
def test_the_access_log_has_fields(machine: Machine, tcp: Connect, worker: str) -> None:
    generation = start(machine, f"--access-logfile - -k flask_socketact.workers.{worker}")
    assert send(tcp, b"GET /?q=1 HTTP/1.1\r\nCookie: secret\r\n").startswith(b"HTTP/1.1 200")
    (entry,) = wait_for_entries(machine, "--unit=app", "STATUS=200", generation)
    fields = {name: value for name, value in entry.items() if not name.startswith("_")}
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[.+\] "GET /\?q=1 HTTP/1\.1" 200 1 "-" "-"',
        fields.pop("MESSAGE"),
    )
    assert 0 < int(fields.pop("DURATION_USEC")) < 10_000_000
    assert re.fullmatch("[0-9a-f]{16}", fields.pop("REQUEST_ID"))
    assert fields.pop("CODE_FILE").endswith(".py")
    assert fields.keys() >= {"CODE_LINE", "CODE_FUNC", "THREAD_NAME"}
    expected = {
        "STATUS": "200",
        "METHOD": "GET",
        "PATH": "/",
        "REMOTE_ADDR": "127.0.0.1",
        "LISTENER": "http",
        "PRIORITY": "6",
        "LOGGER": "gunicorn.access",
        "SYSLOG_IDENTIFIER": "gunicorn",
        "GENERATION": generation.partition("=")[2],
    }
    assert fields | expected == fields
    assert fields.keys() - expected.keys() == {"CODE_LINE", "CODE_FUNC", "THREAD_NAME"}
    assert "secret" not in json.dumps(entries(machine, generation))


@WORKERS
def test_the_application_s_logs_have_the_request_id(machine: Machine, tcp: Connect, worker: str) -> None:
    generation = start(machine, f"--access-logfile - -k flask_socketact.workers.{worker}")
    client = Client(tcp)
    assert client.exchange("GET", "/")[0] == 200
    assert client.exchange("GET", "/")[0] == 200
    client.close()
    first, second = wait_for_entries(machine, "STATUS=200", generation, count=2)
    assert first["REQUEST_ID"] != second["REQUEST_ID"]
    app, library, access = entries(machine, f"REQUEST_ID={first['REQUEST_ID']}")
    assert access == first
    assert (app["MESSAGE"], app["LOGGER"], app["PRIORITY"]) == ("from the app", "app", "3")
    assert (library["MESSAGE"], library["LOGGER"], library["PRIORITY"]) == ("from\na library", "shop", "4")
    assert (app["CODE_FILE"], app["CODE_FUNC"], app["LISTENER"]) == ("/srv/app/app.py", "index", "http")
    assert library["ORDER_ID"] == "7"
    assert "lamp" not in library.values()
    for between in entries(machine, generation, "LOGGER=gunicorn.error"):
        assert "REQUEST_ID" not in between
        assert not between["CODE_FILE"].endswith("glogging.py")


@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "gevent.GeventWorker"])
def test_concurrent_requests_have_different_ids(machine: Machine, tcp: Connect, worker: str) -> None:
    generation = start(machine, f"--access-logfile - --workers 1 -k flask_socketact.workers.{worker}", TALKS + WAITS)
    clients = [tcp() for _ in range(3)]
    for client in clients:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: app\r\n\r\n")
    for client in clients:
        with client:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
    found = wait_for_entries(machine, generation, "PATH=/wait", count=3)
    assert len({entry["REQUEST_ID"] for entry in found}) == 3
    for entry in found:
        logged = entries(machine, f"REQUEST_ID={entry['REQUEST_ID']}")
        assert [each["MESSAGE"] for each in logged] == ["a", "b", entry["MESSAGE"]]


def test_an_application_that_the_master_loads_logs_each_record_once(machine: Machine, tcp: Connect) -> None:
    """It used Flask's logger before there was a worker."""
    generation = start(machine, "--preload", TALKS.replace("logger.info", "logger.warning"))
    assert ask(tcp)[0] == 200
    (entry,) = wait_for_entries(machine, generation, "LOGGER=app")
    assert "REQUEST_ID" in entry
    assert sum("from the app" in message for message in messages(machine)) == 1


def test_an_application_that_configures_logging_keeps_its_configuration(machine: Machine, tcp: Connect) -> None:
    configures = "import logging\nlogging.basicConfig(level=logging.INFO, format='mine: %(message)s')\n"
    start(machine, "", configures + TALKS)
    assert ask(tcp)[0] == 200
    machine.wait_for(lambda: "mine: from the app" in messages(machine), "its format")
    assert messages(machine).count("mine: imported") == 2  # workers
    assert sum("from the app" in message for message in messages(machine)) == 1


@pytest.mark.parametrize("configures", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_each_record_is_logged_once_however_the_application_configures_logging(
    machine: Machine, tcp: Connect, configures: str
) -> None:
    """Our records keep their fields."""
    source = TALKS.replace('app.logger.info("imported")', configures).replace(
        'raise ValueError("a bug")', 'app.logger.error("from the app"); return "no", 500'
    )
    generation = start(machine, "--workers 1", source)
    service = f"_SYSTEMD_INVOCATION_ID={machine.show('app', 'InvocationID')}"
    assert ask(tcp, "/fails")[0] == 500
    machine.systemctl("stop", "app")
    wait_for_entries(machine, _match(message_ids.DRAINED), generation)
    logged = [entry["MESSAGE"] for entry in entries(machine, service)]
    for text in ('"GET /fails HTTP/1.1" 500', "from the app", "Drained: no connection is left"):
        assert sum(text in message for message in logged) == 1, logged
    (access,) = entries(machine, generation, "STATUS=500")
    assert access["PATH"] == "/fails"


def test_an_application_can_use_our_handler(machine: Machine, tcp: Connect) -> None:
    configures = (
        "import logging.config\nlogging.config.dictConfig({'version': 1, "
        "'handlers': {'journal': {'class': 'flask_socketact.journal.Handler'}}, "
        "'root': {'level': 'INFO', 'handlers': ['journal']}})\n"
    )
    generation = start(machine, "", configures + TALKS)
    assert ask(tcp)[0] == 200
    app, library = wait_for_entries(machine, generation, "CODE_FUNC=index", count=2)
    assert app["REQUEST_ID"] == library["REQUEST_ID"]
    assert len(entries(machine, generation, "MESSAGE=imported")) == 2  # workers


@pytest.mark.parametrize(
    ("arguments", "header", "is_taken"),
    [
        ("", b"X-Request-Id: a.B-9:@/+=~_\r\n", True),
        ("--forwarded-allow-ips 10.0.0.1", b"X-Request-Id: mine\r\n", False),
        ("", b"X-Request-Id: " + 128 * b"a" + b"\r\n", True),
        ("", b"X-Request-Id: " + 129 * b"a" + b"\r\n", False),
        ("", b"X-Request-Id: two words\r\n", False),
        ("", b"X-Request-Id: \xff\r\n", False),
        ("", b"X-Request-Id:\r\n", False),
        ("", b"X-Request-Id: a\r\nX-Request-Id: b\r\n", False),
    ],
)
def test_the_request_id_of_a_trusted_proxy_is_used(
    machine: Machine, tcp: Connect, arguments: str, header: bytes, is_taken: bool
) -> None:
    generation = start(machine, f"--access-logfile - {arguments}")
    assert send(tcp, b"GET / HTTP/1.1\r\n" + header).startswith(b"HTTP/1.1 200")
    (entry,) = wait_for_entries(machine, generation, "STATUS=200")
    if is_taken:
        assert entry["REQUEST_ID"].encode() == header.split()[1]
    else:
        assert re.fullmatch("[0-9a-f]{16}", entry["REQUEST_ID"])


def test_a_proxy_on_a_unix_socket_is_trusted(machine: Machine, unix: Connect) -> None:
    drop_in(machine, "app-unix.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--access-logfile -"\n')
    assert send(unix, b"GET / HTTP/1.1\r\nX-Request-Id: from-nginx\r\n").startswith(b"HTTP/1.1 200")
    (entry,) = wait_for_entries(machine, "--unit=app-unix", "REQUEST_ID=from-nginx")
    assert entry["STATUS"] == "200"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a%0ASTATUS=999%0AEVIL=1", "/a\nSTATUS=999\nEVIL=1"),
        (b"/%FF%fe", "/\\xff\\xfe"),
        (b"/gr%C3%BCn", "/grün"),
        (b"/%ED%A0%80", "/\\xed\\xa0\\x80"),
        (b"/a%00b", "/a\x00b"),
        (b"/%25s%(message)s", "/%s%(message)s"),
    ],
)
def test_a_hostile_path_cannot_forge_fields(machine: Machine, tcp: Connect, target: bytes, path: str) -> None:
    generation = start(machine, "--access-logfile - --workers 1")
    assert send(tcp, b"GET " + target + b" HTTP/1.1\r\n").startswith(b"HTTP/1.1 404")
    (entry,) = wait_for_entries(machine, generation, "LOGGER=gunicorn.access")
    found = entry["PATH"] if isinstance(entry["PATH"], str) else bytes(entry["PATH"]).decode()
    assert (found, entry["STATUS"]) == (path, "404")
    assert "EVIL" not in entry
    assert not any("Logging error" in message for message in messages(machine))


def test_the_events_of_a_service_have_message_ids(machine: Machine, tcp: Connect, hold: Path) -> None:
    first = start(machine, "", None)
    held_release(machine, hold)
    idle = Client(tcp)
    idle.exchange("GET", "/")
    with restarting(machine, hold):
        relayed = wait_for_entries(machine, _match(message_ids.RELAYED), first, count=2)
        (scope,) = machine.scopes("app")
    wait_for_old(machine)
    assert idle.exchange("GET", "/")[0] == 200
    idle.close()
    second = f"GENERATION={machine.show('app', 'MainPID')}.1"
    assert {entry["_SYSTEMD_UNIT"] for entry in relayed} == {scope}
    assert len(wait_for_entries(machine, _match(message_ids.DRAINED), first, count=2)) == 2
    for generation in (first, second):
        assert len(entries(machine, _match(message_ids.STARTED), generation)) == 1
        assert len(entries(machine, _match(message_ids.READY), generation)) == 1
    carried = entries(machine, _match(message_ids.CARRIED), first)
    assert carried  # by one worker; or by both, if the first one's mail came to the other
    assert {entry["CONNECTIONS"] for entry in carried} == {"1"}
    assert {entry["MESSAGE"] for entry in carried} == {"Handed over 1 idle connections to other workers"}
    for event in (message_ids.RELAYED, message_ids.CARRIED, message_ids.DRAINED):
        assert entries(machine, _match(event), second) == []


def _match(event: dict[str, str]) -> str:
    return f"MESSAGE_ID={event['MESSAGE_ID']}"


@WORKERS
def test_every_worker_class_logs_its_drain(machine: Machine, tcp: Connect, worker: str) -> None:
    generation = start(machine, f"-k flask_socketact.workers.{worker}")
    assert ask(tcp)[0] == 200
    machine.systemctl("stop", "app")
    assert len(wait_for_entries(machine, _match(message_ids.DRAINED), generation, count=2)) == 2


@WORKERS
def test_requests_do_not_wait_for_a_journal_that_hangs(machine: Machine, tcp: Connect, worker: str) -> None:
    start(machine, f"--access-logfile - -k flask_socketact.workers.{worker}")
    journald = machine.show("systemd-journald", "MainPID")
    machine.run("kill", "-STOP", journald)
    try:
        with Load(tcp, {"new connection": 12}) as load:
            machine.wait_for(lambda: load.requests >= 1000, "answers, with a queue of some 500 entries")
        assert not load.failures()
        assert load.longest_wait() < 5
    finally:
        machine.run("kill", "-CONT", journald)

    def is_reported() -> bool:
        assert ask(tcp)[0] == 200
        found = entries(machine, "--unit=app", "PRIORITY=4")
        return any("log records were dropped: the journal's queue was full" in entry["MESSAGE"] for entry in found)

    machine.wait_for(is_reported, "the number of dropped records")


def test_a_service_without_the_journal_s_socket_logs_through_stderr(machine: Machine, tcp: Connect) -> None:
    """For example with ``RootDirectory=``: gunicorn's logging is unchanged."""
    start(machine, "--access-logfile -", more="InaccessiblePaths=/run/systemd/journal/socket\n")
    assert ask(tcp)[0] == 200
    machine.wait_for(lambda: '"GET / HTTP/1.1" 200' in "".join(messages(machine)), "the access log")
    invocation = f"_SYSTEMD_INVOCATION_ID={machine.show('app', 'InvocationID')}"
    found = entries(machine, invocation, "_TRANSPORT=stdout")
    assert any(re.fullmatch(r"\[.+\] \[\d+\] \[INFO\] Ready: .+", entry["MESSAGE"]) for entry in found)
    assert entries(machine, invocation, "_TRANSPORT=journal") == []


CONFIGURATION = """
from flask_socketact.conf import *
errorlog = open("/srv/app/errorlog").read().strip()
accesslog = open("/srv/app/accesslog").read().strip() or None
"""


def test_a_reload_can_move_logs_to_a_file_and_back(machine: Machine, tcp: Connect) -> None:
    """No record is logged twice, or to the old destination."""
    machine.path("/srv/app/conf.py").write_text(CONFIGURATION)
    error, access = machine.path("/srv/app/errorlog"), machine.path("/srv/app/accesslog")
    error.write_text("-")
    access.write_text("-")
    command = "ExecStart=\nExecStart=/srv/app/venv/bin/gunicorn -c conf.py app:app\n"
    start(machine, more=command)
    service = f"_SYSTEMD_INVOCATION_ID={machine.show('app', 'InvocationID')}"
    master = machine.show("app", "MainPID")

    def reload(errorlog: str, accesslog: str, target: str) -> None:
        error.write_text(errorlog)
        access.write_text(accesslog)
        before = set(machine.processes("app"))
        machine.systemctl("reload", "app")
        machine.wait_for(lambda: len(before & set(machine.processes("app"))) == 1, "new workers")
        assert ask(tcp, target)[0] in (200, 404, 500)

    reload("-", "-", "/first")
    reload("/var/lib/app/error.log", "/var/lib/app/access.log", "/fails")
    reload("-", "", "/none")
    reload("-", "", "/outside")
    reload("-", "-", "/last")
    (last,) = wait_for_entries(machine, service, "PATH=/last")
    assert last["GENERATION"] == f"{master}.6"
    found = [entry["PATH"] for entry in entries(machine, service, "LOGGER=gunicorn.access")]
    assert found == ["/first", "/outside", "/last"]
    assert '"GET /fails HTTP/1.1" 500' in machine.path("/var/lib/app/access.log").read_text()
    assert "[INFO] Booting worker" in machine.path("/var/lib/app/error.log").read_text()
    hups = [entry for entry in entries(machine, service) if entry["MESSAGE"] == "Handling signal: hup"]
    assert len(hups) == 4
