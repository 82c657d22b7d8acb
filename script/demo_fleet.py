"""Deploy a good and a bad release to three machines behind HAProxy, under load. Run by script/demo fleet."""

from __future__ import annotations

import sys

from tests.support.fleet import Fleet
from tests.support.machine import MachineError, interrupt_on_terminate
from tests.support.playbooks import Playbooks, prepare

CANNOT_BOOT = 3  #: exit status
ROW = "{:<34} {:>8} {:>7} {:>7} {:>9}  {}"
HEADER = ROW.format("deploy", "requests", "failed", "closed", "ansible", "releases")


def main() -> int:
    interrupt_on_terminate()
    say("booting three machines; Ansible prepares them")
    try:
        with Fleet() as fleet:
            return demonstrate(fleet, prepare(fleet))
    except MachineError as error:
        print(f"demo: {error}", file=sys.stderr)
        return CANNOT_BOOT


def demonstrate(fleet: Fleet, playbooks: Playbooks) -> int:
    """Deploy two releases; return 1 if a request failed, or if Ansible was content with the bad one."""
    rows, lost = [HEADER], 0
    statuses = []
    for name, more, what in (
        ("2", "", "release 2"),
        ("3", "raise RuntimeError('no database')\n", "release 3, which does not boot"),
    ):
        say(f"ansible-playbook flask_socketact.fleet.deploy -e release_id={name}")
        with fleet.load() as seen:
            played = playbooks.deploy(name, more)
        failed, closed = seen.failures().total(), seen.closed_by_server
        releases = ", ".join(f"{machine}: {release}" for machine, release in fleet.running().items())
        rows.append(ROW.format(what, seen.requests, failed, closed, f"status {played.status}", releases))
        lost += failed + closed
        statuses.append(played.status)
    print("\n" + "\n".join(rows))
    return int(lost > 0 or statuses[0] != 0 or statuses[1] == 0)


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
