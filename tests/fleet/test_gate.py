"""The role that judges a new release, with real Ansible, a real Prometheus, and services that run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import server
from tests.support.http import ask
from tests.support.prometheus import PROMETHEUS, Prometheus
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]
PLAYBOOK_COMMAND = Path(sys.executable).with_name("ansible-playbook")
APPLICATION = """
import time
from flask import Flask, abort
from flask_socketact import SocketAct

app = Flask(__name__)
app.config["SOCKETACT_METRICS"] = "/metrics"
SocketAct(app)
served = 0

@app.get("/<kind>")
def view(kind):
    global served
    served += 1
    if (kind == "bad" and served % 10 == 0) or (kind == "old" and served % 50 == 0):
        abort(500)
    if kind == "slow" and served % 10 == 0:
        time.sleep(1.5)
    return "Hello\\n"
"""
#: Machines with the new release, and one with the old one.
MACHINES = ("old", "good", "bad", "slow", "idle")
#: Seconds between two requests to a machine; "idle" gets nothing but scrapes and health checks.
PAUSE = 0.05
RULES = """
groups:
  - name: app
    interval: 1s
    rules:
      - {alert: QueueGrows, expr: 'up{job="alarmed"}', labels: {severity: critical}}
      - {alert: DiskFills, expr: 'up{job="app"}', labels: {severity: warning}}
"""
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: app
    static_configs: [{{targets: {app}}}]
  - job_name: alarmed
    static_configs: [{{targets: {alarmed}}}]
"""
PLAYBOOK = """
- hosts: all
  gather_facts: false
  connection: local
  roles: [flask_socketact.fleet.gate]
"""
OPTIONS = {
    "ansible_python_interpreter": sys.executable,
    "gate_seconds": 6,
    "gate_interval": 6,
    "gate_lookback": 4,
    "gate_requests": 20,
    "gate_max_p99": 0.1,
}

pytestmark = [
    pytest.mark.skipif(not PROMETHEUS.exists(), reason="script/setup test has not downloaded it"),
    pytest.mark.skipif(not PLAYBOOK_COMMAND.exists(), reason="ansible-core is not installed"),
]


@contextmanager
def service(folder: Path, kind: str) -> Iterator[socket.socket]:
    """Run a service, with clients that send requests all the time; yield its listener."""
    path = folder / kind
    path.mkdir()
    (path / "app.py").write_text(APPLICATION)
    done = threading.Event()
    with server.tcp() as listener:
        arguments = (*CONF, "-w", "1", "app:app")
        environ = {"PROMETHEUS_MULTIPROC_DIR": str(path / "counters")}
        target = "/readyz" if kind == "idle" else f"/{kind}"

        def send() -> None:
            while not done.wait(PAUSE):
                ask(partial(dial, listener), target)

        with Server(path, *arguments, listeners={"http": listener}, environ=environ) as served:
            served.wait_until_ready()
            client = threading.Thread(target=send)
            client.start()
            yield listener
            done.set()
            client.join()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The label ``instance`` of each machine."""
    folder = tmp_path_factory.mktemp("services")
    with ExitStack() as stack:
        listeners = {kind: stack.enter_context(service(folder, kind)) for kind in MACHINES}
        yield {kind: "{}:{}".format(*listener.getsockname()) for kind, listener in listeners.items()}


@pytest.fixture(scope="module")
def prometheus(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    config = CONFIG.format(app=json.dumps(list(services.values())), alarmed=json.dumps([services["good"]]))
    with Prometheus(tmp_path_factory.mktemp("prometheus") / "data", config, RULES) as running:
        yield running


def play(folder: Path, hosts: dict[str, dict[str, object]]) -> tuple[int, str]:
    """Let Ansible run the role for the given hosts, with variables; return the exit status and the output."""
    link = folder / "collections/ansible_collections"
    link.parent.mkdir()
    link.symlink_to(CHECKOUT / "ansible")
    (folder / "play.yml").write_text(PLAYBOOK)
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": OPTIONS}}))
    done = subprocess.run(
        [PLAYBOOK_COMMAND, "--forks", "20", "-i", "hosts.json", "play.yml"],
        cwd=folder,
        env=os.environ
        | {
            "ANSIBLE_COLLECTIONS_PATH": str(link.parent),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_PIPELINING": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def failed(output: str, host: str) -> str:
    """Return why the role failed for a host; empty if it passed."""
    found = re.search(rf'^(?:fatal|failed): \[{host}\b.*?"msg": "(.*?)"', output, re.MULTILINE | re.DOTALL)
    passed = re.search(rf"^{host} +: ok=\d+ .* failed=0 ", output, re.MULTILINE)
    assert (found is None) == (passed is not None), output
    return found[1] if found else ""


def test_verdicts(prometheus: Prometheus, services: dict[str, str], tmp_path: Path) -> None:
    running = f'count(count_over_time(socketact_responses_total{{code="2xx"}}[1m]) >= 2) == {len(MACHINES) + 1}'
    prometheus.wait_for(lambda: prometheus.value(running), "two scrapes of each machine")
    prometheus.wait_for(lambda: len(prometheus.query('ALERTS{alertstate="firing"}')) > 1, "alerts")
    hosts: dict[str, dict[str, object]] = {
        kind: {"gate_prometheus": prometheus.url, "gate_instances": [services[kind]]} for kind in MACHINES[1:]
    }
    hosts["alarmed"] = hosts["good"] | {"gate_job": "alarmed", "gate_prometheus": f"{prometheus.url}/"}
    with server.tcp() as closed:
        nothing = "http://{}:{}".format(*closed.getsockname())
    hosts["down"] = {"gate_prometheus": nothing, "gate_instances": [services["good"]]}
    hosts["alone"] = hosts["alarmed"] | {"gate_alerts": "", "gate_max_p99": 5.0}
    hosts["as_slow_as_peers"] = hosts["slow"] | {"gate_times_peers": 10_000}
    hosts["as_bad_as_peers"] = hosts["bad"] | {"gate_times_peers": 10_000}
    hosts["nameless"] = {}
    hosts["wrong"] = {"gate_prometheus": prometheus.url, "gate_seconds": "soon"}
    hosts["unknown"] = {"gate_prometheus": prometheus.url, "gate_instances": ["192.0.2.1:9000"]}
    status, output = play(tmp_path, hosts)
    assert status == 2, output
    for host in ("good", "alone", "as_slow_as_peers", "as_bad_as_peers"):
        assert not failed(output, host)
    assert "responses had a status of 5xx (at most" in failed(output, "bad")
    assert "1 % of the responses took " in failed(output, "slow")
    assert f"Inconclusive: 0 requests to {services['idle']} within 6 s, and 20 are needed" in failed(output, "idle")
    assert failed(output, "alarmed").endswith("firing: QueueGrows")
    assert "Connection refused" in failed(output, "down")
    assert "Prometheus scrapes 0 of 1 of job app" in failed(output, "unknown")
    assert "missing required arguments: gate_prometheus" in failed(output, "nameless")
    assert "argument 'gate_seconds' is of type" in failed(output, "wrong")
