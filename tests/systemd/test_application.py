"""One application that uses all of the extension, under load, with a real Prometheus."""

from __future__ import annotations

import json
import random
import re
import shutil
import socket
import time
import urllib.parse
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http import Connect, ask, post
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, MachineError, drop_in, release
from tests.support.metrics import counted, samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT = Path(__file__).parent.parent.parent
EVERYTHING = (Path(__file__).parent / "everything.py").read_text()
SECRET = b"what is for the administrator alone"
ADMIN = ("127.0.0.1", 9000)
SHORT = {"new connection": 4, "keep-alive": 4, "keep-alive, mostly idle": 4}
#: Requests of the fuzz run.
TRIES = 1500


@pytest.fixture
def site(machine: Machine) -> Iterator[Machine]:
    """The machine with a public and an internal listener, and the application."""
    folder = machine.path("/etc/systemd/system")
    before = {unit: (folder / unit).read_text() for unit in ("app.service", "app.socket")}
    machine.systemctl("stop", "app.socket", "app.service")
    options = ("--listen", "127.0.0.1:8000", "--listen", "127.0.0.1:9000=admin", "--metrics")
    machine.run(
        "sh",
        "-c",
        'cd / && /srv/app/venv/bin/flask-socketact units --output /etc/systemd/system "$@"',
        "sh",
        *options,
    )
    release(machine, EVERYTHING)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "app.socket", "app-admin.socket", "app.service")
    yield machine
    machine.systemctl("stop", "app-admin.socket", "app.socket", "app.service")
    (folder / "app-admin.socket").unlink()
    for unit, text in before.items():
        (folder / unit).write_text(text)
    machine.systemctl("daemon-reload")


@pytest.fixture
def admin(site: Machine) -> Connect:
    return partial(site.connect, ADMIN)


def restarts_and_reloads(machine: Machine) -> None:
    """Restart, reload, and kill the master."""
    for verb in ("restart", "reload", "restart"):
        machine.systemctl(verb, "app")
        time.sleep(1.0)
    master = machine.show("app", "MainPID")
    machine.run("kill", "-9", master)
    machine.wait_for(lambda: machine.show("app", "MainPID") not in (master, "0"), "the service to be started again")
    machine.wait_for(lambda: machine.show("app", "ActiveState") == "active", "the service to be ready again")
    machine.systemctl("restart", "app")


def test_metrics_equal_what_clients_counted(
    site: Machine, tcp: Connect, admin: Connect, figure: Callable[[str], None]
) -> None:
    """Across restarts, reloads, and a killed master."""
    with Load(tcp, SHORT) as load:
        time.sleep(1.0)
        restarts_and_reloads(site)
        time.sleep(1.0)
    assert not load.failures()
    site.wait_for(lambda: counted(admin) == load.requests, f"{load.requests} requests in /metrics")
    found = samples(admin)
    assert found["socketact_starts_total"] == 5
    assert found['socketact_reloads_total{result="succeeded"}'] == 1
    # A killed worker loses the requests that it was serving or counting, and no others.
    with Load(tcp, SHORT) as more:
        for _ in range(3):
            time.sleep(0.5)
            site.run("kill", "-9", random.choice(site.workers("app")))  # noqa: S311 (no secret)
    succeeded = load.requests + more.requests - more.failures().total()
    in_flight = sum(SHORT.values())
    site.wait_for(lambda: abs(counted(admin) - succeeded) <= in_flight, f"about {succeeded} requests in /metrics")
    assert counted(admin) >= succeeded - 3 * 4  # threads of the three
    files = site.run("sh", "-c", "ls /run/app-metrics/prometheus/histogram_fast_*").stdout.split()
    figure(
        f"{load.requests} requests, all counted; {succeeded} succeeded, {counted(admin)} counted with three workers "
        f"killed; longest wait {load.longest_wait():.3f} s; {len(files)} files of histograms"
    )


def test_holds_end_within_the_drain_time(site: Machine, tcp: Connect) -> None:
    """In a restart, a reload and a stop; longer holds are logged."""
    state = site.path("/var/lib/app")
    for verb in ("restart", "reload"):
        post(tcp, f"/work/{verb}?seconds=25")
        site.wait_for((state / f"{verb}-begun").exists, "the work to begin")
        site.systemctl(verb, "app")
        assert not (state / f"{verb}-sent").exists()
        (state / f"{verb}-may-end").touch()
        site.wait_for((state / f"{verb}-sent").exists, "the work to end")
    post(tcp, "/work/stop?seconds=4")
    site.wait_for((state / "stop-begun").exists, "the work to begin")
    site.systemctl("stop", "app")
    assert (state / "stop-sent").exists()
    drop_in(site, "app.service", "[Service]\nEnvironment=GUNICORN_CMD_ARGS=--graceful-timeout=3\n")
    site.systemctl("start", "app")
    for verb in ("restart", "stop"):
        post(tcp, f"/work/long-{verb}?seconds=60")
        site.wait_for((state / f"long-{verb}-begun").exists, "the work to begin")
        began = time.monotonic()
        site.systemctl(verb, "app")
        site.wait_for(
            lambda verb=verb: f"cutting off long-{verb} (" in site.run("journalctl", "--no-pager").stdout,  # type: ignore[misc]
            "the name in the journal",
        )
        assert time.monotonic() - began >= 3
        assert not (state / f"long-{verb}-sent").exists()


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get"]
PATHS = ("/admin/", "/admin", "/admin/users/a/b", "/shared", "/metrics", "/healthz", "/readyz")
HEADERS = (
    *("X-Forwarded-Host: admin", "X-Forwarded-Prefix: /admin", "X-Original-URL: /admin/", "X-Rewrite-URL: /admin/"),
    *("X-HTTP-Method-Override: GET", "Forwarded: for=127.0.0.1;host=admin", "X-Forwarded-For: 127.0.0.1"),
    *("SCRIPT_NAME: /admin", "socketact.listener: admin", "Socketact-Listener: admin", "PATH_INFO: /admin/"),
    *("Connection: keep-alive", "Upgrade: websocket", "Transfer-Encoding: chunked", "Content-Length: 0"),
)
HOSTS = ("127.0.0.1:9000", "admin", "127.0.0.1:8000", "localhost", "", "[::1]", "admin:9000", "127.0.0.1:9000@evil")


def disguised(path: str, choose: random.Random) -> str:
    """Return a path written so that two programs may read it differently."""
    tricks: tuple[Callable[[str], str], ...] = (
        lambda p: p,
        lambda p: "/" + p,
        lambda p: p.replace("/", "//"),
        lambda p: "/." + p,
        lambda p: "/x/.." + p,
        lambda p: "/x/%2e%2e" + p,
        lambda p: p.replace("/", "%2f"),
        lambda p: p.replace("a", "%61"),
        lambda p: p.upper(),
        lambda p: p + "?listener=admin",
        lambda p: p + ";x=1",
        lambda p: p + "%00",
        lambda p: p + "#/admin/",
        lambda p: "http://127.0.0.1:9000" + p,
        lambda p: "http://admin@127.0.0.1:9000" + p,
        lambda p: p.rstrip("/"),
        lambda p: p + "/",
        lambda p: p.replace("/", "\\"),
        lambda p: p.replace("/", "/%09", 1),
        lambda p: urllib.parse.quote(p, safe=""),
    )
    for _ in range(choose.randint(1, 2)):
        path = choose.choice(tricks)(path)
    return path


def exchange(connect: Connect, request: bytes) -> bytes:
    with connect() as client:
        client.settimeout(20)
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            received = b""
            while data := client.recv(65536):
                received += data
        except ConnectionError:
            return b""
    return received


@pytest.mark.usefixtures("site")
def test_internal_routes_are_never_reached_by_the_public_listener(
    tcp: Connect, admin: Connect, figure: Callable[[str], None]
) -> None:
    """With any method, path and headers."""
    assert SECRET in exchange(admin, b"GET /admin/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    seed = random.randrange(1 << 32)  # noqa: S311 (no secret)
    choose = random.Random(seed)  # noqa: S311
    statuses: Counter[str] = Counter()
    for _ in range(TRIES):
        method, path = choose.choice(METHODS), disguised(choose.choice(PATHS), choose)
        lines = [f"{method} {path} HTTP/1.{choose.choice('11110')}", f"Host: {choose.choice(HOSTS)}"]
        lines += choose.sample(HEADERS, choose.randint(0, 3))
        request = "\r\n".join([*lines, "", "0\r\n\r\n" if "Transfer-Encoding: chunked" in lines else ""]).encode()
        response = exchange(tcp, request)
        what = f"seed {seed}: {request!r}: {response!r}"
        head, _, body = response.partition(b"\r\n\r\n")
        assert SECRET not in response, what
        assert b"socketact_" not in body, what
        assert b"health+json" not in head, what
        assert b"\r\nX-Users:" not in head, what
        status = response[9:12].decode()
        statuses[status] += 1
        if status == "405":  # a public route has this path, for other methods
            allowed = head.partition(b"\r\nAllow: ")[2].partition(b"\r\n")[0]
            assert b"PUT" not in allowed, what
            assert b"DELETE" not in allowed, what
        if status.startswith("3") and "SCRIPT_NAME: /admin" not in lines:  # which gunicorn believes a proxy
            assert not re.search(rb"\r\nLocation: http://[^/]*/(admin|shared)", head), what
    assert statuses["404"] > TRIES / 4
    figure(f"{TRIES} requests (seed {seed}), statuses {dict(sorted(statuses.items()))}")


def faster(rules: str) -> str:
    """Return the rules with seconds in place of minutes: enough of them for a few restarts on a busy machine."""
    rules = re.sub(r"(increase\(.*)\[\d+m\]", r"\1[90s]", rules)
    rules = re.sub(r"\[\d+m\]", "[20s]", rules)
    return re.sub(r"for: \d+m", "for: 1s", rules)


@pytest.fixture
def prometheus(site: Machine) -> Iterator[Connect]:
    """The real one, with the configuration of the examples, scraping once a second."""
    folder = site.path("/etc/prometheus")
    folder.mkdir()
    shutil.copy(CHECKOUT / ".prometheus/usr/bin/prometheus", site.path("/usr/local/bin"))
    config = (EXAMPLES / "monitoring/prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(config.replace("15s", "1s"))
    (folder / "rules.yml").write_text(faster((EXAMPLES / "monitoring/rules.yml").read_text()))
    options = (
        f"--{name}" for name in ("config.file=/etc/prometheus/prometheus.yml", "storage.tsdb.path=/var/lib/data")
    )
    site.run(
        "systemd-run", "--unit=prometheus", "/usr/local/bin/prometheus", *options, "--web.listen-address=127.0.0.1:9090"
    )
    connect = partial(site.connect, ("127.0.0.1", 9090))
    site.wait_for(lambda: site.run("ss", "-Hltn", "sport = 9090").stdout != "", "Prometheus to listen")
    site.wait_for(lambda: ask(connect, "/-/ready")[0] == 200, "Prometheus to be ready")
    site.wait_for(lambda: query(connect, "up") == {"up": 1.0}, "a scrape")
    yield connect
    site.systemctl("stop", "prometheus")


def get(connect: Connect, path: str) -> Any:
    status, content = ask(connect, path)
    assert status == 200, content
    return json.loads(content)["data"]


def query(connect: Connect, expression: str) -> dict[str, float]:
    """Return the values by the names of their metrics."""
    found = get(connect, f"/api/v1/query?query={urllib.parse.quote(expression)}")["result"]
    return {result["metric"].get("__name__", ""): float(result["value"][1]) for result in found}


def firing(connect: Connect) -> set[str]:
    return {
        alert["labels"]["alertname"] for alert in get(connect, "/api/v1/alerts")["alerts"] if alert["state"] == "firing"
    }


def wait_for_alerts(machine: Machine, connect: Connect, expected: set[str]) -> None:
    seen: set[str] = set()

    def have_fired() -> bool:
        seen.update(firing(connect))
        return expected <= seen

    try:
        machine.wait_for(have_fired, f"the alerts {expected}", seconds=30)
    except MachineError as error:
        values = {name: query(connect, name) for name in ("up", '{__name__=~"socketact_.*"}', '{__name__=~"job:.*"}')}
        raise AssertionError(f"{expected} have not fired, but {seen}: {values}") from error


def test_prometheus_sees_no_counter_decrease_and_rules_fire(
    site: Machine, tcp: Connect, admin: Connect, prometheus: Connect, figure: Callable[[str], None]
) -> None:
    state = site.path("/var/lib/app")
    with Load(tcp, SHORT) as load:
        time.sleep(2.0)
        assert not firing(prometheus)
        restarts_and_reloads(site)
        for _ in range(150):  # over some scrapes: a rate needs two
            assert ask(tcp, "/error")[0] == 500
            time.sleep(0.02)
        for _ in range(4 * 4):
            assert ask(tcp, "/stock")[1] == b"unknown"
        (state / "fail").touch()
        for _ in range(8):
            assert ask(admin, "/readyz")[0] == 503
        release(site, EVERYTHING + "raise RuntimeError('a slip')\n")
        assert site.systemctl("reload", "app", check=False).returncode != 0
        release(site, EVERYTHING)
        wait_for_alerts(site, prometheus, {"Errors", "BreakerOpen", "CheckFails", "ReloadFailed"})
        drop_in(site, "app.service", "[Service]\nEnvironment=GUNICORN_CMD_ARGS=--graceful-timeout=2\n")
        site.systemctl("restart", "app")
        post(tcp, "/work/forever?seconds=60")
        for _ in range(6):
            site.systemctl("restart", "app")
        wait_for_alerts(site, prometheus, {"RestartLoop", "DrainCutShort"})
    assert not load.failures(), f"{load.failures()}\n{site.journal('app')[-30000:]}"
    counters = query(prometheus, '{__name__=~"socketact_.*(_total|_count|_bucket|_sum)"}')
    resets = {name: query(prometheus, f"max(resets({name}[10m]))")[""] for name in counters}
    assert len(resets) > 12
    assert set(resets.values()) == {0.0}
    sent = load.requests
    site.wait_for(lambda: counted(admin) == sent, f"{sent} requests in /metrics")
    starts = samples(admin)["socketact_starts_total"]
    site.systemctl("stop", "app-admin.socket", "app.socket", "app")
    wait_for_alerts(site, prometheus, {"ServiceDown"})
    figure(f"{sent} requests, all counted; {len(resets)} counters, none ever went backwards in {starts:.0f} starts")
