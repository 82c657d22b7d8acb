"""A user's service manager instead of the system's; and the shutdown of the machine."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect, ask
from tests.support.load import Load
from tests.support.machine import Machine, install
from tests.support.operations import answer, in_flight

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

PORT = 8010
OPTIONS = f"--user-manager --name web --directory /srv/app --listen 127.0.0.1:{PORT} --agent 127.0.0.1:{PORT + 1}"


@pytest.fixture
def as_user(machine: Machine) -> Callable[[str], CompletedProcess[str]]:
    """Run a shell line as a user whose manager runs without a login."""
    machine.run("useradd", "--create-home", "web")
    uid = machine.run("id", "--user", "web").stdout.strip()
    machine.systemctl("start", f"user@{uid}.service")
    return lambda line: machine.run(
        "runuser", "-u", "web", "--", "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "HOME=/home/web", "sh", "-ec", line
    )


def test_a_service_of_a_user_s_manager_restarts_without_loss(
    machine: Machine, as_user: Callable[[str], CompletedProcess[str]], figure: Callable[[str], None]
) -> None:
    tcp: Connect = partial(machine.connect, ("127.0.0.1", PORT))
    as_user(f"/srv/app/venv/bin/flask-socketact units {OPTIONS} --install")
    as_user("systemctl --user enable --now web.socket web.service")
    clients = {"new connection": 3, "keep-alive": 3, "keep-alive, mostly idle": 20, "long request": 2}
    with Load(tcp, clients) as load:
        for _ in range(3):
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 50, "responses")  # type: ignore[misc]
            as_user("systemctl --user restart web")
    assert not load.failures()
    assert load.closed_by_server == 0
    journal = machine.run("journalctl", "--no-pager", "--output=cat", "--identifier=relay").stdout
    assert journal.count("the old workers keep serving in web-drain-") == 3
    assert "error" not in as_user("/srv/app/venv/bin/flask-socketact doctor --user-manager web").stdout
    commands_work(as_user)
    with machine.connect(("127.0.0.1", PORT + 1)) as client:
        assert client.makefile().read() == "50%\n"
    long = in_flight(tcp, 3.0)
    as_user("systemctl --user restart web; systemctl --user stop web.service web.socket")
    assert answer(long).startswith(b"HTTP/1.1 200 OK")
    assert machine.run("pgrep", "--uid", "web", "gunicorn", check=False).stdout == ""
    figure(f"3 restarts, {load.requests} requests, 0 failed, longest wait {load.longest_wait():.2f} s")


def commands_work(as_user: Callable[[str], CompletedProcess[str]]) -> None:
    """A user can run status, lb, rehearse and deploy for a service of their own."""
    cli = "/srv/app/venv/bin/flask-socketact"
    assert len(json.loads(as_user(f"{cli} status --user-manager web --json").stdout)["workers"]) == 2
    assert "50%" in as_user(f"{cli} lb --user-manager web weight 50%").stdout
    rehearsed = as_user(f"{cli} rehearse --url http://127.0.0.1:{PORT}/ --restarts 1 --every 1").stdout.splitlines()
    assert rehearsed[0].endswith("1 restart by: systemctl --user restart web.service")
    assert rehearsed[-1] == "Kept: no client noticed."
    assert "Deployed the release in place" in as_user(f"{cli} deploy --user-manager web --healthy 1").stdout
    assert "/home/web/.local/state/flask-socketact/web.lock" in as_user("find /home/web -name web.lock").stdout


def test_a_shutdown_of_the_machine_finishes_requests(request: pytest.FixtureRequest) -> None:
    """Of old and new workers; no process is killed."""
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine, "app")
        tcp: Connect = partial(machine.connect, ("127.0.0.1", 8000))
        assert ask(tcp)[0] == 200
        machine.systemctl("start", "app")
        old = in_flight(tcp, 6.0)
        machine.systemctl("restart", "app")
        new = in_flight(tcp, 4.0)
        machine.systemctl("poweroff")
        assert answer(new).startswith(b"HTTP/1.1 200 OK")
        assert answer(old).startswith(b"HTTP/1.1 200 OK")
        machine.wait_until_off(30)
