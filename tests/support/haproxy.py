"""HAProxy of the example in front of two services of a machine, and what it tells of them."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from tests.support.machine import EXAMPLES, install_debs

if TYPE_CHECKING:
    from tests.support.machine import Machine


def install(machine: Machine) -> None:
    install_debs(machine, "/usr/sbin/haproxy", "haproxy_*", "liblua*", "libopentracing*")


def configure(machine: Machine, inter: str = "1s") -> None:
    """Write the example's configuration, with addresses of the loopback interface, and the time between checks."""
    text = (EXAMPLES / "haproxy.cfg").read_text().replace(" 10.0.0.", " 127.0.0.")
    machine.path("/etc/haproxy/haproxy.cfg").write_text(text.replace("inter 1s", f"inter {inter}"))


def admin(machine: Machine, command: str) -> str:
    """Send a command to HAProxy's runtime API."""
    with machine.connect("/run/haproxy/admin.sock") as client:
        client.sendall(f"{command}\n".encode())
        return client.makefile().read()


def reload(machine: Machine) -> None:
    """Reload HAProxy, and wait until its new process answers: ``systemctl reload`` does not."""
    before = _pid(machine)
    machine.systemctl("reload", "haproxy")
    machine.wait_for(lambda: _pid(machine) != before, "a new process of HAProxy")


def _pid(machine: Machine) -> str:
    return next(line for line in admin(machine, "show info").splitlines() if line.startswith("Pid:"))


def rows(machine: Machine) -> dict[str, dict[str, str]]:
    text = admin(machine, "show stat app 4 -1").removeprefix("# ")
    return {row["svname"]: row for row in csv.DictReader(io.StringIO(text))}


def servers(machine: Machine) -> dict[str, tuple[str, int]]:
    """Return state and weight of each server in HAProxy."""
    return {name: (row["status"], int(row["weight"])) for name, row in rows(machine).items()}


def chosen(machine: Machine) -> dict[str, int]:
    """Return how many requests HAProxy has sent to each server."""
    return {name: int(row["lbtot"]) for name, row in rows(machine).items()}


def asked(machine: Machine, name: str) -> int:
    return int(machine.show(f"{name}-agent.socket", "NAccepted"))


def wait_until_asked(machine: Machine, times: int = 2) -> None:
    """Wait until HAProxy has asked both agents, and has acted on all but the last answer."""
    before = {name: asked(machine, name) for name in ("one", "two")}
    machine.wait_for(lambda: all(asked(machine, name) > before[name] + times for name in before), "HAProxy to ask")
