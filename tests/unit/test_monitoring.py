"""examples/monitoring, checked by the real promtool."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_socketact import SocketAct
from flask_socketact.application.metrics import endpoint

CHECKOUT = Path(__file__).parent.parent.parent
MONITORING = CHECKOUT / "examples/monitoring"
#: Unpacked by script/setup, for the tests under systemd.
PROMTOOL = CHECKOUT / ".prometheus/usr/bin/promtool"


@pytest.mark.skipif(not PROMTOOL.exists(), reason="script/setup test has not downloaded it")
@pytest.mark.parametrize(
    "arguments", ["check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"]
)
def test_promtool(arguments: str) -> None:
    done = subprocess.run([PROMTOOL, *arguments.split()], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_each_alert_is_tested() -> None:
    alerts = re.findall(r"- alert: (\w+)", (MONITORING / "rules.yml").read_text())
    tests = (MONITORING / "rules_test.yml").read_text()
    assert len(alerts) == len(set(alerts)) > 5
    for alert in alerts:
        assert f"name: {alert} fires" in tests
        assert f"name: {alert} does not fire" in tests


def exposed() -> set[str]:
    """Return the names of all samples that there can be."""
    app = Flask(__name__)
    app.config["SOCKETACT_METRICS"] = "/metrics"
    socketact = SocketAct(app)
    socketact.check("database")(lambda: None)
    socketact.breaker("inventory")
    client = app.test_client()
    for path in ("/readyz", "/readyz", "/metrics"):
        client.get(path, buffered=True)
    names = set(re.findall(r"^(\w+)", client.get("/metrics").text, re.MULTILINE))
    of_master = endpoint._of_master({"boot_seconds": 1.0})
    # A metric without label values has no sample; the listener's value comes from the server.
    described = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    return (
        names
        | described
        | {sample.name for metric in of_master for sample in metric.samples}
        | {"socketact_listener_queue"}
    )


@pytest.mark.parametrize("name", ["rules.yml", "dashboard.json"])
def test_metrics_are_those_that_there_are(name: str) -> None:
    text = re.sub(r"job:\w+", "", (MONITORING / name).read_text())  # recorded ones
    wanted = set(re.findall(r"\bsocketact_\w+", text))
    assert len(wanted) > 8
    assert not wanted - exposed()


def test_dashboard() -> None:
    dashboard: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    places = set()
    for panel in panels:
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
    assert len(places) == len(panels)


def test_documentation_has_all_metrics() -> None:
    text = (CHECKOUT / "docs/application.md").read_text()
    for name in exposed():
        if name.startswith("socketact_") and not name.endswith(("_created", "_bucket", "_sum", "_count")):
            assert name in text, name
