"""``systemctl reload``, with the unit that ``flask-socketact units`` writes for the installed systemd."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from flask_socketact.systemd import message_ids
from tests.support.http import Client, Connect, ask
from tests.support.load import Load
from tests.support.machine import Machine, drop_in, release
from tests.support.operations import BROKEN, CLIENTS, LONGEST_WAIT, SHORT, SLOW, kill
from tests.support.server import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

RELOADS = 3
SETTLE = 0.5  #: seconds
#: Names the process that loads it.
ENDLESS = SLOW.replace("time.sleep(1.5)", "open('/proc/self/comm', 'w').write('endless')\ntime.sleep(600)")


def version(machine: Machine) -> int:
    return int(machine.run("systemctl", "--version").stdout.split()[1])


def test_the_unit_s_type_fits_the_systemd(rendered: Machine) -> None:
    expected = "notify-reload" if version(rendered) >= 253 else "notify"
    assert rendered.show("app", "Type") == expected


@pytest.mark.parametrize("good", [True, False], ids=["good", "broken"])
def test_no_client_notices_a_reload(
    rendered: Machine, tcp: Connect, figure: Callable[[str], None], *, good: bool
) -> None:
    """Several reloads, of a release that loads for 1.5 s, or fails to load after 1.5 s."""
    drop_in(rendered, "app.service", '[Service]\nEnvironment="GUNICORN_CMD_ARGS=--threads 8"\n')
    release(rendered, SLOW)
    rendered.systemctl("start", "app")
    with Load(tcp, CLIENTS) as quiet:
        time.sleep(5.0)
    if not good:
        release(rendered, SLOW + BROKEN)
    with Load(tcp, CLIENTS) as load:
        for _ in range(RELOADS):
            done = rendered.systemctl("reload", "app", check=False)
            assert (done.returncode == 0) == good
            time.sleep(SETTLE)
    assert not load.failures()
    assert load.closed_by_server == 0
    assert load.longest_wait(*SHORT) < LONGEST_WAIT
    status = rendered.show("app", "StatusText")
    assert status.startswith("Serving with 2 of 2" if good else "Reload failed (RuntimeError at /srv/app/app.py:")
    assert f"generation {RELOADS + 1 if good else 1}," in status
    assert "Traceback" in rendered.journal("app") or good
    event = message_ids.RELOADED if good else message_ids.RELOAD_FAILED
    logged = rendered.run("journalctl", "--no-pager", "--output=cat", "-u", "app", f"MESSAGE_ID={event['MESSAGE_ID']}")
    assert len(logged.stdout.splitlines()) >= RELOADS
    figure(
        f"{RELOADS} reloads, {load.requests} requests, {load.failures().total()} failed, "
        f"{load.closed_by_server} connections closed, longest wait of a short request "
        f"{load.longest_wait(*SHORT):.3f} s, without reloads {quiet.longest_wait(*SHORT):.3f} s"
    )


def test_systemctl_reload_returns_when_the_new_workers_serve(rendered: Machine, tcp: Connect) -> None:
    """On systemd 252, too, where ``ExecReload=`` sends the signal."""
    release(rendered, SLOW)
    rendered.systemctl("start", "app")
    before = ask(tcp)[1]
    began = time.monotonic()
    rendered.systemctl("reload", "app")
    assert time.monotonic() - began > 1.5
    assert ask(tcp)[1] != before


def test_a_configuration_that_cannot_be_read_fails_the_reload(rendered: Machine, tcp: Connect) -> None:
    """The reload has failed before systemd could see that it had begun."""
    machine = rendered
    conf = machine.path("/srv/app/conf.py")
    conf.write_text("from flask_socketact.conf import *\n")
    drop_in(machine, "app.service", "[Service]\nExecStart=\nExecStart=/srv/app/venv/bin/gunicorn -c conf.py app:app\n")
    machine.systemctl("start", "app")
    conf.write_text("from flask_socketact.conf import *\nraise RuntimeError('a slip')\n")
    for _ in range(2):
        assert machine.systemctl("reload", "app", check=False).returncode != 0
        assert "RuntimeError at /srv/app/conf.py:2); still serving with 2 of 2" in machine.show("app", "StatusText")
        assert "keep serving: the configuration cannot be read: RuntimeError: a slip" in machine.journal("app")
        assert ask(tcp)[0] == 200
    conf.write_text("from flask_socketact.conf import *\n")
    machine.systemctl("reload", "app")
    assert machine.show("app", "StatusText").startswith("Serving with 2 of 2")


def test_a_stop_or_restart_during_a_reload_succeeds(rendered: Machine, tcp: Connect) -> None:
    """While new workers load."""
    machine = rendered
    machine.systemctl("start", "app")
    release(machine, ENDLESS)
    for verb in ("restart", "stop"):
        with machine.start("systemctl", "reload", "app") as reload:
            machine.wait_for(lambda: machine.run("pgrep", "-x", "endless", check=False).stdout != "", "it to load")
            assert ask(tcp)[0] == 200
            if verb == "restart":
                release(machine)
            machine.systemctl(verb, "app")
            reload.communicate()
        if verb == "restart":
            assert ask(tcp)[0] == 200
            assert machine.show("app", "StatusText").startswith("Serving with 2 of 2")
            release(machine, ENDLESS)
    machine.systemctl("stop", "app.socket")
    assert not machine.workers("app")


def test_a_master_that_is_killed_in_a_reload_is_started_again(rendered: Machine, tcp: Connect) -> None:
    """systemd waits for the commands of ``ExecReload=`` first: they end when the master is dead."""
    machine = rendered
    machine.systemctl("start", "app")
    release(machine, ENDLESS)
    with machine.start("systemctl", "reload", "app") as reload:
        machine.wait_for(lambda: machine.run("pgrep", "-x", "endless", check=False).stdout != "", "it to load")
        release(machine)
        kill(machine, signal.SIGKILL, int(machine.show("app", "MainPID")))
        began = time.monotonic()
        assert ask(tcp)[0] == 200
        assert time.monotonic() - began < DEADLINE
        reload.communicate()
    if version(machine) < 253:  # a newer one starts it again by a restart, whose result this is then
        assert reload.returncode != 0
    assert "relay: the master has died" in machine.journal("app")


def test_several_reloads_at_once_succeed(rendered: Machine, tcp: Connect) -> None:
    rendered.systemctl("start", "app")
    client = Client(tcp)
    client.exchange("GET", "/")
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(rendered.systemctl("reload", "app", check=False).returncode))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0, 0]
    assert client.exchange("GET", "/")[0] == 200
    assert client.closed_by_server == 0
    client.close()


def test_a_reload_follows_the_link_to_the_current_release(rendered: Machine, tcp: Connect) -> None:
    """A deploy changes the link."""
    machine = rendered
    source = "from flask import Flask\napp = Flask(__name__)\n@app.get('/')\ndef index():\n    return {!r}\n"
    for name in ("one", "two"):
        folder = machine.path(f"/srv/releases/{name}")
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(source.format(name))
    current = machine.path("/srv/current")
    current.symlink_to("releases/one")
    drop_in(machine, "app.service", "[Service]\nWorkingDirectory=/srv/current\nEnvironment=PWD=/srv/current\n")
    machine.systemctl("start", "app")
    assert ask(tcp) == (200, b"one")
    machine.path("/srv/next").symlink_to("releases/two")
    machine.path("/srv/next").rename(current)
    machine.systemctl("reload", "app")
    assert ask(tcp) == (200, b"two")


def test_a_reload_that_ends_before_the_relay_looks(rendered: Machine, tcp: Connect) -> None:
    """``systemctl reload`` returns at once, and knows how the reload ended, also after one that ended otherwise."""
    if version(rendered) >= 253:
        return  # Type=notify-reload: systemd itself waits
    commands = [
        line
        for line in rendered.path("/etc/systemd/system/app.service").read_text().splitlines()
        if line.startswith("ExecReload=")
    ]
    late = "\n".join(["ExecReload=", commands[0], "ExecReload=/bin/sleep 2", *commands[1:]])
    drop_in(rendered, "app.service", f"[Service]\n{late}\n")
    rendered.systemctl("start", "app")
    good = rendered.path("/srv/app/app.py").read_text()
    for number, (source, is_good) in enumerate([(good, True), (BROKEN, False), (BROKEN, False), (good, True)]):
        release(rendered, source)
        began = time.monotonic()
        done = rendered.systemctl("reload", "app", check=False)
        assert (done.returncode == 0) is is_good, f"{number}\n{rendered.journal('app')}"
        assert time.monotonic() - began < 6, rendered.journal("app")
    assert ask(tcp)[0] == 200


def test_a_reload_without_dbus_does_not_fail(rendered: Machine, tcp: Connect) -> None:
    """Without D-Bus, ``ExecReload=`` cannot know how the reload ended."""
    drop_in(rendered, "app.service", "[Service]\nInaccessiblePaths=-/run/dbus\n")
    rendered.systemctl("start", "app")
    before = ask(tcp)[1]
    rendered.systemctl("reload", "app")
    rendered.wait_for(lambda: ask(tcp)[1] != before, "new workers")
