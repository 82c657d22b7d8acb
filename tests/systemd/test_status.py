"""``flask-socketact status`` of a service in each of its states."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from tests.support.http import Connect, ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, drop_in, release

CLI = "/srv/app/venv/bin/flask-socketact"


def status(machine: Machine, *arguments: str, check: bool = True) -> dict[str, Any]:
    return dict(json.loads(machine.run(CLI, "status", "app", "--json", *arguments, check=check).stdout))


def states(seen: dict[str, Any]) -> list[str]:
    return sorted(worker["state"] for worker in seen["workers"])


def test_status_of_a_service_that_serves(machine: Machine, tcp: Connect) -> None:
    machine.systemctl("start", "app")
    with tcp(), Load(tcp, {"keep-alive": 2, "long request": 1}) as load:
        machine.wait_for(lambda: load.requests > 50, "responses")
        seen = status(machine)
    assert (seen["state"], seen["generation"], seen["remark"]) == ("active", 1, "")
    assert seen["listeners"] == [
        {"name": "http", "address": "127.0.0.1:8000", "queue": 0, "backlog": 4096, "is_listening": True}
    ]
    assert states(seen) == ["serving", "serving"]
    assert sum(worker["rate"] for worker in seen["workers"]) > 1
    assert sum(worker["requests"] for worker in seen["workers"]) > 50
    assert sum(worker["connections"] for worker in seen["workers"]) >= 3
    assert all(worker["memory"] > 10_000_000 for worker in seen["workers"])
    assert seen["restart"]["kind"] == "start"


def test_status_counts_connections_that_wait_in_the_kernel(machine: Machine, tcp: Connect) -> None:
    """The socket listens, and no worker accepts."""
    machine.systemctl("start", "app")
    machine.systemctl("kill", "--signal=STOP", "app")
    pids = ",".join(machine.processes("app"))
    machine.wait_for(
        lambda: set(machine.run("ps", "-o", "state=", "-p", pids).stdout.split()) == {"T"}, "the processes to stop"
    )
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(tcp())
        try:
            assert status(machine)["listeners"][0]["queue"] == 3
        finally:
            machine.systemctl("kill", "--signal=CONT", "app")


def test_status_during_and_after_a_restart(machine: Machine, tcp: Connect) -> None:
    machine.systemctl("start", "app")
    release(machine, (EXAMPLES / "app.py").read_text().replace("app = Flask", "time.sleep(3)\napp = Flask"))
    with tcp() as idle, tcp() as long:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
        assert b"200 OK" in idle.recv(4096)
        long.sendall(b"GET /sleep/20.0 HTTP/1.1\r\nHost: app\r\n\r\n")
        machine.systemctl("restart", "--no-block", "app")
        machine.wait_for(lambda: states(status(machine, check=False))[-2:] == ["relayed", "relayed"], "the relay")
        # It is not active yet, and old workers serve.
        assert machine.run(CLI, "status", "app", check=False).returncode == 1
        machine.wait_for(lambda: machine.show("app", "ActiveState") == "active", "the new workers")
        seen = status(machine)
        assert states(seen) == ["draining", "serving", "serving"]
        old = next(worker for worker in seen["workers"] if worker["state"] == "draining")
        assert (old["in_flight"], old["drain_time"]) == (1, 30.0)
        assert old["oldest"] > 2
        text = machine.run(CLI, "status", "app").stdout
        assert f"generation 1 of main process {old['master']} drains for " in text
        assert " of at most 30.00 s, waiting for 1 requests, the oldest for " in text
        restart = seen["restart"]
        assert restart["kind"] == "restart"
        assert 3 < restart["took"] < 15
        assert restart["carried"] == 1
        assert restart["longest_wait"] < 2.5


def test_an_unprivileged_user_gets_the_same_status(machine: Machine, tcp: Connect) -> None:
    machine.systemctl("start", "app")
    ask(tcp)
    nobody = machine.run("runuser", "-u", "nobody", "--", CLI, "status", "app", "--json")
    assert states(json.loads(nobody.stdout)) == ["serving", "serving"]


def test_status_during_a_reload(machine: Machine) -> None:
    machine.systemctl("start", "app")
    machine.systemctl("reload", "app")
    seen = status(machine)
    assert (seen["generation"], seen["restart"]["kind"]) == (2, "reload")


def test_status_of_a_service_without_a_scoreboard(machine: Machine) -> None:
    drop_in(machine, "app.service", "[Service]\nRuntimeDirectory=\n")
    machine.systemctl("start", "app")
    text = machine.run(CLI, "status", "app").stdout
    assert "Serving with 2 of 2 workers at http://127.0.0.1:8000 (http)" in text
    assert "No workers are shown: the service has no scoreboard: install its units again" in text


def test_watch_prints_the_status_again_and_again(machine: Machine) -> None:
    machine.systemctl("start", "app")
    watched = machine.run("timeout", "--signal=INT", "4", CLI, "status", "app", "--watch", "--json", check=False)
    lines = [json.loads(line) for line in watched.stdout.splitlines()]
    assert len(lines) >= 2
    assert watched.stderr == ""
    terminal = "timeout --foreground --signal=INT 3 /srv/app/venv/bin/flask-socketact status app --watch"
    shown = machine.run("script", "--quiet", "--command", terminal, "/dev/null", check=False).stdout
    assert shown.count("Serving with 2 of 2") >= 2
    assert "Traceback" not in shown


def test_status_of_a_service_that_does_not_serve(machine: Machine) -> None:
    release(machine, "raise RuntimeError('no database')\n")
    machine.systemctl("start", "app", check=False)
    done = machine.run(CLI, "status", "app", check=False)
    assert done.returncode == 1
    assert "journalctl -e -u app.service" in done.stdout
    none = machine.run(CLI, "status", "nope", check=False)
    assert (none.returncode, none.stderr) == (
        3,
        f"Error: there is no nope.service. To see all services, type: {CLI} list\n",
    )
    assert machine.run(CLI, "status", "../app", check=False).returncode == 2
