"""The service's user attacks root: nothing that it can write runs as root."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Connect, ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, drop_in, release
from tests.support.operations import WATCHDOG, kill, wait_for_old, wait_until_restarted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Notes the user and the program that have run it; as root, it also proves that it could have done anything.
LIBRARY = """
#include <errno.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) {
    char name[64];
    FILE *file;
    snprintf(name, sizeof name, "/var/lib/app/ran-%u-%s", geteuid(), WHAT);
    if ((file = fopen(name, "a")))
        fclose(file);
    if (geteuid() == 0 && (file = fopen("/root/taken", "a")))
        fclose(file);
}
unsigned int la_version(unsigned int version) { return version; }
"""
SCRIPT = """#!/bin/sh
/usr/bin/touch "/var/lib/app/ran-$(/usr/bin/id -u)-{what}" /root/taken 2>/dev/null
exec /usr/bin/{program} "$@"
"""
PROGRAMS = ("systemctl", "busctl", "sh", "id", "sleep", "logger", "cat", "kill")
ENVIRONMENT = """
LD_PRELOAD=/srv/app/evil/preload.so
LD_AUDIT=/srv/app/evil/audit.so
PATH=/srv/app/evil/bin:/usr/bin:/bin
ENV=/srv/app/evil/bin/env.sh
BASH_ENV=/srv/app/evil/bin/env.sh
SYSTEMD_PAGER=/srv/app/evil/bin/cat
SYSTEMD_LESS=F
SYSTEMD_BUS_ADDRESS=unix:path=/srv/app/evil/bus
SYSTEMD_LOG_TARGET=console
DBUS_SYSTEM_BUS_ADDRESS=unixexec:path=/srv/app/evil/bin/sh
DBUS_SESSION_BUS_ADDRESS=unixexec:path=/srv/app/evil/bin/sh
IFS=/
PS4=$(/srv/app/evil/bin/id)
"""
NAMES = " ".join(line.partition("=")[0] for line in ENVIRONMENT.split())


@pytest.fixture
def attacked(machine: Machine) -> Iterator[Machine]:
    """A machine whose service user has set all traps that it can; the unit names its .env file."""
    evil = machine.path("/srv/app/evil")
    (evil / "bin").mkdir(parents=True, exist_ok=True)
    for name in ("preload", "audit"):
        build(evil / f"{name}.so", name)
    for program in PROGRAMS:
        write(evil / "bin" / program, SCRIPT.format(what=program, program=program))
    write(evil / "bin/env.sh", "/usr/bin/touch /var/lib/app/ran-$(/usr/bin/id -u)-env /root/taken 2>/dev/null\n")
    machine.path("/srv/app/.env").write_text(ENVIRONMENT)
    machine.run("sh", "-c", "chown -R app /srv/app/evil /srv/app/.env; rm -f /var/lib/app/* /root/taken")
    yield machine
    machine.run("sh", "-c", "rm -rf /srv/app/evil /srv/app/.env /root/taken")


def build(path: Path, what: str) -> None:
    command = ["gcc", "-shared", "-fPIC", f'-DWHAT="{what}"', "-o", str(path), "-x", "c", "-"]
    subprocess.run(command, input=LIBRARY, text=True, check=True)


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    "setting",
    [
        "EnvironmentFile=/srv/app/.env",
        f"EnvironmentFile=/srv/app/.env\nPassEnvironment={NAMES}",
        'Environment="LD_PRELOAD=/srv/app/evil/preload.so" "LD_AUDIT=/srv/app/evil/audit.so"\n'
        'Environment="PATH=/srv/app/evil/bin:/usr/bin:/bin" "BASH_ENV=/srv/app/evil/bin/env.sh"',
    ],
    ids=["EnvironmentFile", "PassEnvironment", "Environment"],
)
def test_the_environment_of_the_service_does_not_reach_root(attacked: Machine, tcp: Connect, setting: str) -> None:
    drop_in(attacked, "app.service", f"[Service]\n{setting}\nWatchdogSec={WATCHDOG}\n")
    attacked.systemctl("start", "app")
    for verb in ("reload", "restart", "try-restart", "restart"):
        attacked.systemctl(verb, "app")
        assert ask(tcp)[0] == 200
    kill(attacked, signal.SIGSTOP, int(attacked.show("app", "MainPID")))
    wait_until_restarted(attacked)
    kill(attacked, signal.SIGKILL, int(attacked.show("app", "MainPID")))
    attacked.wait_for(lambda: attacked.show("app", "NRestarts") == "2", "another restart")
    attacked.wait_for(lambda: attacked.show("app", "ActiveState") == "active", "the service to be up again")
    attacked.systemctl("restart", "app.socket")
    attacked.systemctl("stop", "app")
    wait_for_old(attacked)
    ran = attacked.run("ls", "/var/lib/app").stdout.split()
    assert any(name.endswith("-preload") for name in ran)  # the traps work
    assert [name for name in ran if name.startswith("ran-0-")] == []
    assert not attacked.path("/root/taken").exists()


def test_a_flood_of_relay_requests_does_not_stop_the_service(machine: Machine, tcp: Connect) -> None:
    """The service's user asks for relays as fast as it can: root handles a few, and the service keeps serving."""
    release(
        machine,
        machine.path("/srv/app/app.py").read_text()
        + """
@app.get("/flood")
def flood():
    import time
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        open("/run/app-metrics/watchdog", "w").write("x")
    return "done"
""",
    )
    machine.systemctl("start", "app")
    with Load(tcp, {"new connection": 2, "keep-alive": 2}) as load:
        assert ask(tcp, "/flood")[1] == b"done"
        machine.systemctl("restart", "app")
        wait_for_old(machine)
    assert not load.failures()
    assert load.closed_by_server == 0
    asked = machine.run("journalctl", "--no-pager", "--unit=app-watchdog.service").stdout.count("Finished")
    assert asked <= 20
    assert machine.show("app", "NRestarts") == "0"
    assert machine.show("app-watchdog.path", "ActiveState") == "active"  # the restart has mended it


def test_root_follows_no_link_of_the_service_s_user(machine: Machine, tcp: Connect) -> None:
    machine.systemctl("start", "app")
    before = machine.run("stat", "--format=%Y %Z %s", "/etc/shadow").stdout
    machine.run("setpriv", "--reuid=app", "--clear-groups", "ln", "-sf", "/etc/shadow", "/run/app-metrics/watchdog")
    machine.systemctl("restart", "app")
    assert ask(tcp)[0] == 200
    assert machine.run("stat", "--format=%Y %Z %s", "/etc/shadow").stdout == before


def test_a_status_text_cannot_forge_properties(machine: Machine) -> None:
    """It has line separators that are not systemd's, and properties after them. A drop-in lets the workers send it."""
    forged = "x\u2028User=root\u2028Group=root\u2028WorkingDirectory=/bin\u2028ActiveState=failed"
    release(
        machine,
        f"""from __future__ import annotations
import socket, threading, time

def forge():
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    while True:
        manager.sendto({f"STATUS={forged}".encode()!r}, "/run/systemd/notify")
        time.sleep(0.01)

threading.Thread(target=forge, daemon=True).start()
"""
        + (EXAMPLES / "app.py").read_text().replace("from __future__ import annotations\n", ""),
    )
    drop_in(machine, "app.service", "[Service]\nNotifyAccess=all\n")
    machine.systemctl("start", "app")
    look = (
        "from flask_socketact.systemd.manager import Manager\n"
        "names = ('StatusText', 'User', 'Group', 'WorkingDirectory', 'ActiveState')\n"
        "unit = Manager(user=False).show('app.service', *names)\n"
        "print(*(unit[name] for name in names), sep='|')"
    )
    expected = f"{forged}|app||/srv/app|active\n"
    machine.wait_for(
        lambda: machine.run("/srv/app/venv/bin/python", "-c", look).stdout == expected, "the forged status"
    )
