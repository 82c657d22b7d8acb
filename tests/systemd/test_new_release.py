"""After ``systemctl restart`` or ``reload`` has returned, new connections reach the new release."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, drop_in, release
from tests.support.operations import LONGEST_WAIT, SLOW, wait_for_old

if TYPE_CHECKING:
    from collections.abc import Callable

#: ``NEW_RELEASE_OPERATIONS=100`` for a longer run by hand.
OPERATIONS = int(os.environ.get("NEW_RELEASE_OPERATIONS", "4"))
ASKED = 100
CLIENTS = {"new connection": 3, "keep-alive": 3}
#: Sends requests at once, from inside the machine, so without a delay after systemctl.
SCRIPT = f"""
import http.client, json, subprocess, sys, time
subprocess.run(["systemctl", sys.argv[1], "app"], check=True)
answers, waits = [], []
for _ in range({ASKED}):
    began = time.monotonic()
    client = http.client.HTTPConnection("127.0.0.1", 8000)
    client.request("GET", "/release")
    answers.append(client.getresponse().read().decode())
    client.close()
    waits.append(time.monotonic() - began)
print(json.dumps([answers, max(waits)]))
"""
#: Restarts again, for the next release, and sends requests until that restart has ended.
SECOND_SCRIPT = """
import http.client, json, os, subprocess
subprocess.run(["systemctl", "restart", "app"], check=True)
os.replace("/srv/app/next.py", "/srv/app/app.py")
answers = set()
with subprocess.Popen(["systemctl", "restart", "app"]) as restart:
    while restart.poll() is None:
        client = http.client.HTTPConnection("127.0.0.1", 8000)
        client.request("GET", "/release")
        answers.add(client.getresponse().read().decode())
        client.close()
print(json.dumps(sorted(answers)))
"""


def test_after_two_restarts_no_client_reaches_the_first_release(rendered: Machine, tcp: Connect) -> None:
    """Though its workers may still run."""
    machine = rendered
    drop_in(machine, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--threads 8"\n')
    machine.systemctl("start", "app")
    with Load(tcp, CLIENTS | {"long request": 2}) as load:
        for number in (10, 20, 30):
            view = "app.add_url_rule('/release', view_func=lambda: '{}')"
            first, second = (f"{SLOW}\n{view.format(number + i)}\n" for i in (1, 2))
            release(machine, first)
            machine.path("/srv/app/next.py").write_text(second)
            answers = json.loads(machine.run("/srv/app/venv/bin/python", "-c", SECOND_SCRIPT).stdout)
            assert set(answers) <= {str(number + 1), str(number + 2)}
    assert not load.failures(), machine.journal("app")[-3000:]
    assert load.closed_by_server == 0


@pytest.mark.parametrize("verb", ["restart", "reload"])
@pytest.mark.parametrize("worker", ["thread.ThreadWorker", "sync.SyncWorker", "gevent.GeventWorker"])
def test_new_connections_reach_the_new_release(
    rendered: Machine, tcp: Connect, figure: Callable[[str], None], worker: str, verb: str
) -> None:
    machine = rendered
    arguments = f"--threads 8 -k flask_socketact.workers.{worker}"
    drop_in(machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={arguments}"\n')
    source = (EXAMPLES / "app.py").read_text()
    machine.systemctl("start", "app")
    old, longest = 0, 0.0
    with Load(tcp, CLIENTS) as load:
        for number in range(OPERATIONS):
            release(machine, f"{source}\napp.add_url_rule('/release', view_func=lambda: 'release {number}')\n")
            done = machine.run("/srv/app/venv/bin/python", "-c", SCRIPT, verb)
            answers, wait = json.loads(done.stdout)
            old += sum(answer != f"release {number}" for answer in answers)
            longest = max(longest, wait)
            wait_for_old(machine)
    figure(
        f"{OPERATIONS} times {verb}, {worker}: {old} of {ASKED * OPERATIONS} first requests answered by the release "
        f"before, longest {longest:.3f} s"
    )
    assert old == 0
    assert longest < LONGEST_WAIT
    assert not load.failures(), machine.journal("app")[-3000:]
    assert worker.startswith("sync") or load.closed_by_server == 0
