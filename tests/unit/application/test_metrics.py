"""Metrics of one process and of several, some of which have exited."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from flask import Flask

from flask_socketact import SocketAct
from flask_socketact.linux import socket_queues
from flask_socketact.shared.service_counters import ServiceCounters, read

#: An application, and a function that sends it a request and reads the whole response.
APPLICATION = """
import os, signal, sys, time
import prometheus_client
from flask import Flask
from flask_socketact import SocketAct

app = Flask("app")
app.config["SOCKETACT_METRICS"] = "/metrics"
SocketAct(app)
orders = prometheus_client.Counter("orders", "The application's own.")

@app.get("/<int:status>")
def view(status):
    orders.inc()
    return "response", status

def ask(path):
    return app.test_client().get(path, buffered=True).text
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", APPLICATION + textwrap.dedent(code)],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder), "RUNTIME_DIRECTORY": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def value(text: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    assert found, f"no {sample} in\n{text}"
    return float(found[1])


def requests(status: int) -> str:
    return f'socketact_request_duration_seconds_count{{endpoint="view",status="{status}"}}'


def test_single_process() -> None:
    """Without a shared folder, as under ``flask run``."""
    app = Flask(__name__)
    app.config["SOCKETACT_METRICS"] = "/metrics"
    socketact = SocketAct(app)
    app.add_url_rule("/alone", "alone", lambda: "alone")
    socketact.check("database")(lambda: None)
    client = app.test_client()
    for path in ("/alone", "/alone", "/nothing", "/readyz"):
        client.get(path, buffered=True)
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.headers["Cache-Control"] == "no-store"
    text = client.get("/metrics").text
    assert value(text, 'socketact_request_duration_seconds_count{endpoint="alone",status="200"}') == 2
    assert value(text, 'socketact_request_duration_seconds_count{endpoint="",status="404"}') >= 1
    assert value(text, 'socketact_check_passing{check="database"}') == 1
    assert value(text, "socketact_worker_memory_bytes") > 1e6


def test_processes_in_sequence(tmp_path: Path) -> None:
    """Each continues the counters in the files of the exited processes."""
    for _ in range(3):
        done = run(tmp_path, "ask('/200'); ask('/500')")
        assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in tmp_path.glob("*.db"))
    done = run(tmp_path, "ask('/200'); os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    text = run(tmp_path, "print(ask('/metrics'))").stdout
    assert value(text, requests(200)) == 4
    assert value(text, requests(500)) == 3
    assert value(text, "orders_total") == 7
    assert sorted(path.name for path in tmp_path.glob("*.db")) == files


def test_processes_at_the_same_time(tmp_path: Path) -> None:
    """Also processes that an application forks; gauges are those of living processes only."""
    text = run(
        tmp_path,
        """
        ask('/200')
        children = []
        for number in range(3):
            child = os.fork()
            if not child:
                ask('/200')
                ask('/metrics')
                if number:
                    os._exit(0)
                time.sleep(60)
            children.append(child)
        for child in children[1:]:
            os.waitpid(child, 0)
        deadline = time.monotonic() + 20
        while ask('/metrics').count('\\nsocketact_worker_memory_bytes{') != 2:  # ours, and that of the first child
            assert time.monotonic() < deadline
        print(ask('/metrics'))
        os.kill(children[0], signal.SIGKILL)
        """,
    ).stdout
    assert value(text, requests(200)) == 4
    assert len(re.findall("^socketact_worker_memory_bytes", text, re.MULTILINE)) == 2


def test_concurrent_scrapes(tmp_path: Path) -> None:
    """Threads share the locks of their process: none drops the gauges of a page that another has released."""
    done = run(
        tmp_path,
        """
        from concurrent.futures import ThreadPoolExecutor
        def leave_a_gauge(number):
            child = os.fork()
            if not child:
                ask('/metrics')
                os._exit(0)
            os.waitpid(child, 0)
        ask('/200')
        for turn in range(3):
            leave_a_gauge(turn)
            with ThreadPoolExecutor(8) as threads:
                responses = list(threads.map(ask, ['/metrics'] * 24))
            assert all('socketact_worker_memory_bytes{' in response for response in responses)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"\xff" * 5000, b"\x09\x00\x00\x00", os.urandom(4096)])
def test_corrupt_files(tmp_path: Path, content: bytes) -> None:
    for kind in ("counter_0", "histogram_fast_0", "gauge_livesum_0", "gauge_livesum_7"):
        (tmp_path / f"{kind}.db").write_bytes(content)
    done = run(tmp_path, "ask('/200'); print(ask('/metrics'))")
    assert done.returncode == 0, done.stderr
    assert value(done.stdout, requests(200)) == 1


def test_unusable_folder(tmp_path: Path) -> None:
    """One line is logged, and each process shows its own metrics."""
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file/folder", "ask('/200'); print(ask('/metrics'))")
    assert done.returncode == 0, done.stderr
    assert value(done.stdout, requests(200)) == 1
    assert value(done.stdout, "orders_total") == 1
    expected = f"PROMETHEUS_MULTIPROC_DIR={tmp_path}/file/folder: Not a directory, so each worker counts for itself\n"
    assert done.stderr == expected


def test_full_disk(tmp_path: Path) -> None:
    """A file-size limit fails as a full disk does. Each series without room is logged once; requests still succeed."""
    code = """
        import resource
        from flask_socketact.shared import metric_files
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        for _ in range(2):
            for status in range(200, 290):
                ask(f'/{status}')
        print(ask('/metrics'))
        """
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert value(done.stdout, requests(200)) == 2
    logged = re.findall(r"is not counted: File too large", done.stderr)
    assert len(logged) > 10
    assert len(logged) + len(re.findall(r"duration_seconds_count{", done.stdout)) == 91  # and the metrics themselves


def test_prometheus_client_missing() -> None:
    code = """
        import sys
        sys.modules["prometheus_client"] = sys.modules["pybreaker"] = None
        from flask import Flask
        from flask_socketact import SocketAct
        socketact = SocketAct(Flask("app"))
        try:
            socketact.breaker("a")
        except ImportError as error:
            print(error)
        app = Flask("app")
        app.config["SOCKETACT_METRICS"] = "/metrics"
        socketact.init_app(app)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "pybreaker is missing: install flask-socketact[breakers]\n"
    assert done.stderr.endswith("ImportError: prometheus_client is missing: install flask-socketact[metrics]\n")


def test_service_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/new:{tmp_path}/other")
    for starts in (1, 2, 3):
        counters = ServiceCounters(logging.getLogger())
        counters.count("starts")
        counters.note(boot_seconds=0.5)
        assert read(tmp_path / "new") == {"starts": starts, "boot_seconds": 0.5}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"starts": "many"}'])
def test_unreadable_service_counters(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "service.json").write_bytes(content)
    assert read(tmp_path) == {}


def test_service_counters_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "file"))
    counters = ServiceCounters(logging.getLogger())
    for _ in range(3):
        counters.count("starts")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "File exists, so restarts are not counted"
    ]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_length_of_a_listener_queue(tmp_path: Path, family: socket.AddressFamily) -> None:
    with socket.socket(family) as listener:
        address = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}.get(family, str(tmp_path / "a b"))
        listener.bind(address)
        listener.listen()
        assert socket_queues.length(listener) == 0
        clients = [socket.socket(family) for _ in range(3)]
        for client in clients:
            client.connect(listener.getsockname())
        assert socket_queues.length(listener) == 3
        accepted = listener.accept()[0]
        assert socket_queues.length(listener) == 2
        for client in (*clients, accepted):
            client.close()
    assert socket_queues.length(listener) is None


def test_service_counters_are_json(tmp_path: Path) -> None:
    """An administrator can read the file."""
    (tmp_path / "service.json").write_text(json.dumps({"starts": 4, "boot_seconds": 0.25}))
    text = run(tmp_path, "print(ask('/metrics'))").stdout
    assert value(text, "socketact_starts_total") == 4
    assert value(text, 'socketact_reloads_total{result="failed"}') == 0
    assert value(text, "socketact_boot_seconds") == 0.25


def test_time_since_the_last_byte() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert socket_queues.seconds_since_data(here) == 0.0
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"x")
        with listener.accept()[0] as accepted:
            while socket_queues.seconds_since_data(accepted) < 0.05:
                assert time.monotonic() - began < 10
