"""Deploy a good and a bad release to three machines behind HAProxy, under load. Run by script/demo fleet."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.machine import MachineError, interrupt_on_terminate
from tests.support.network import GATEWAY
from tests.support.playbooks import Playbooks, prepare

CHECKOUT = Path(__file__).parent.parent
GOOD_REPORT, REPORT = CHECKOUT / "demo-fleet-good.html", CHECKOUT / "demo-fleet.html"
CANNOT_BOOT, INTERRUPTED = 3, 130  #: exit statuses
REHEARSE = ("rehearse", "--allow-remote", f"--url=http://{GATEWAY}/", "--restarts=1", "--fail-on=failed>0,closed>0")
LOAD = ("--every=3", "--idle-think=4", "--long-path=/sleep/3.0", "--upload-path=/upload")
#: A script that keeps the output and the exit status of a command in files.
KEEP = '#!/bin/sh\n{command} >"$0.log" 2>&1\nstatus=$?\necho $status >"$0.status"\nexit $status\n'
BAD = "raise RuntimeError('no database')\n"
ROW = "{:<32} {:<16} {:<10} {}"


@dataclass
class Deployed:
    """What became of a deploy."""

    title: str
    noticed: bool  #: by a client
    ansible: int  #: exit status
    output: str
    running: dict[str, str]  #: the release of each machine

    def row(self) -> str:
        releases = ", ".join(f"{machine}: {release}" for machine, release in self.running.items())
        return ROW.format(self.title, "see above" if self.noticed else "nothing", f"status {self.ansible}", releases)


def main() -> int:
    interrupt_on_terminate()
    say("booting three machines, which Ansible prepares: a minute or two")
    try:
        with Fleet() as fleet:
            return demonstrate(fleet, prepare(fleet))
    except MachineError as error:
        print(f"demo: {error}", file=sys.stderr)
        return CANNOT_BOOT
    except KeyboardInterrupt:
        return INTERRUPTED


def demonstrate(fleet: Fleet, playbooks: Playbooks) -> int:
    """Deploy two releases; return 1 if a client noticed it, or if Ansible did not do what it should."""
    good = deploy(fleet, playbooks, ("2", ""), "release 2", f"--report={GOOD_REPORT}")
    bad = deploy(
        fleet, playbooks, ("3", BAD), "release 3, which does not boot", f"--report={REPORT}", f"--compare={GOOD_REPORT}"
    )
    say("what Ansible said about release 3, at its end:\n")
    print("\n".join(bad.output.splitlines()[-12:]))
    print(
        "\n".join(["", ROW.format("deploy", "clients noticed", "Ansible", "the machines run"), good.row(), bad.row()])
    )
    say(f"open {REPORT} in a browser to see every request of both deploys")
    return int(good.noticed or bad.noticed or good.ansible != 0 or bad.ansible == 0)


def deploy(fleet: Fleet, playbooks: Playbooks, release: tuple[str, str], title: str, *options: str) -> Deployed:
    """Deploy a release, its name and code, under load; what clients see goes to this terminal."""
    name, code = release
    say(f"{title}: ansible-playbook flask_socketact.fleet.deploy -e release_id={name}")
    command = playbooks.command("deploy", release_id=name, release_source=playbooks.release(name, code))
    kept = fleet.folder / f"deploy-{name}"
    kept.write_text(KEEP.format(command=shlex.join(command)))
    kept.chmod(0o700)
    program = str(Path(sys.executable).with_name("flask-socketact"))
    load = fleet.network.start(
        *(program, *REHEARSE, *LOAD, f"--do={kept}", f"--title={title}", *options),
        env=playbooks.environment(),
        output=sys.stdout,
    )
    noticed = load.wait() != 0
    status, log = kept.with_suffix(".status"), kept.with_suffix(".log")
    if not status.exists():
        raise MachineError(f"the deploy did not end\n{log.read_text() if log.exists() else ''}")
    return Deployed(title, noticed, int(status.read_text()), log.read_text(), fleet.running())


def say(text: str) -> None:
    print(f"\ndemo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
