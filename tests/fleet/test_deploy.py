"""Rolling deploys of good and bad releases under load, and what is left of them. Each test continues the one before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from tests.support.fleet import Fleet
from tests.support.playbooks import COLLECTION, DEPLOY_OPTIONS, Playbooks, picky

#: Code of a release that does not boot.
BAD = "raise RuntimeError('no database')\n"


def begun(fleet: Fleet) -> list[float]:
    """Return when the service of each machine was last started, in seconds."""
    return [float(machine.show("app", "ActiveEnterTimestampMonotonic")) / 1e6 for machine in fleet.machines.values()]


def test_a_rolling_deploy_is_noticed_by_no_client(
    fleet: Fleet, playbooks: Playbooks, figure: Callable[[str], None]
) -> None:
    migration = ["sh", "-c", "pwd >> $STATE; id -un >> $STATE; readlink /srv/app/current >> $STATE"]
    for machine in fleet.machines.values():
        machine.path("/etc/app.env").write_text("STATE=/var/lib/app/migrated\n")
    with fleet.load() as seen:
        played = playbooks.deploy("2", release_migration=migration, release_env_files=["/etc/app.env"])
    assert played.status == 0, played.output
    assert played.releases() == fleet.running() == dict.fromkeys(fleet.machines, "2")
    assert not seen.failures()
    assert seen.closed_by_server == 0
    assert fleet.downs() == dict.fromkeys(fleet.machines, 0)
    # One machine after the other: each had to be healthy for a second.
    first, second, third = begun(fleet)
    assert first + 1 < second < third - 1
    # The migration ran once, in the new release, before any machine was switched.
    web1, *others = (machine.path("/var/lib/app/migrated") for machine in fleet.machines.values())
    assert web1.read_text().split() == ["/srv/app/releases/2", "app", "releases/1"]
    assert not any(path.exists() for path in others)
    figure(f"{seen.requests} requests, 0 failed, 0 closed")


def test_a_deploy_that_is_run_again_changes_nothing(fleet: Fleet, playbooks: Playbooks) -> None:
    before = begun(fleet)
    played = playbooks.deploy("2", release_migration=["false"], release_keep=0)
    assert played.status == 0, played.output
    assert played.releases() == dict.fromkeys(fleet.machines, "2")
    assert begun(fleet) == before
    # Whatever is to be kept: a rollback is possible.
    for machine in fleet.machines.values():
        assert machine.run("ls", "/srv/app/releases").stdout.split() == ["1", "2"]


def test_a_release_that_does_not_boot_stops_at_the_first_machine(fleet: Fleet, playbooks: Playbooks) -> None:
    before = begun(fleet)
    # Whatever happens, a machine that was drained is ready afterwards.
    fleet.machines["web1"].run("flask-socketact", "lb", "app", "drain")
    fleet.wait_for(lambda: fleet.weights()["web1"] == 0, "HAProxy to drain the machine")
    with fleet.load() as seen:
        played = playbooks.deploy("bad", BAD)
    assert played.status != 0
    assert "RuntimeError: no database" in played.output
    assert played.releases() == {"web1": "2, did not take bad", "web2": "2", "web3": "2"}
    assert fleet.running() == dict.fromkeys(fleet.machines, "2")
    assert begun(fleet)[1:] == before[1:]
    fleet.wait_for(lambda: fleet.weights() == dict.fromkeys(fleet.machines, 100), "HAProxy to use all machines")
    assert not seen.failures()
    assert seen.closed_by_server == 0
    assert fleet.downs() == dict.fromkeys(fleet.machines, 0)


@pytest.mark.long
def test_it_stops_there_without_a_trial_too(fleet: Fleet, playbooks: Playbooks) -> None:
    before = begun(fleet)
    with fleet.load() as seen:
        played = playbooks.deploy("bad", BAD, release_deploy_options=[*DEPLOY_OPTIONS, "--no-trial"])
    assert played.status != 0
    assert played.releases() == {"web1": "2, did not take bad", "web2": "2", "web3": "2"}
    assert fleet.running() == dict.fromkeys(fleet.machines, "2")
    assert begun(fleet)[0] > before[0]
    assert begun(fleet)[1:] == before[1:]
    assert not seen.failures()
    assert seen.closed_by_server == 0
    assert fleet.downs() == dict.fromkeys(fleet.machines, 0)


def test_a_failed_deploy_is_continued(fleet: Fleet, playbooks: Playbooks) -> None:
    fleet.machines["web3"].path("/etc/no-3").touch()
    played = playbooks.deploy("3", picky("3"))
    assert played.status != 0
    assert played.releases() == {"web1": "3", "web2": "3", "web3": "2, did not take 3"}
    assert fleet.running() == {"web1": "3", "web2": "3", "web3": "2"}
    fleet.machines["web3"].path("/etc/no-3").unlink()
    before = begun(fleet)
    played = playbooks.deploy("3", picky("3"))
    assert played.status == 0, played.output
    assert fleet.running() == dict.fromkeys(fleet.machines, "3")
    assert begun(fleet)[:2] == before[:2]


def test_releases_that_failed_are_removed_and_do_not_count(fleet: Fleet, playbooks: Playbooks) -> None:
    """Of 1, 2, bad and 3, the newest two that all machines ran are left."""
    assert playbooks.output("deploy")
    for machine in fleet.machines.values():
        assert machine.run("ls", "/srv/app/releases").stdout.split() == ["2", "3"]


@pytest.mark.long
def test_machines_that_are_done_go_back_if_you_want(fleet: Fleet, playbooks: Playbooks) -> None:
    before = fleet.running()
    fleet.machines["web3"].path("/etc/no-4").touch()
    played = playbooks.deploy("4", picky("4"), release_on_failure="back")
    assert played.status != 0
    assert played.releases() == {
        "web1": "gone back from 4",
        "web2": "gone back from 4",
        "web3": f"{before['web3']}, did not take 4",
    }
    assert fleet.running() == before


def test_a_machine_that_cannot_take_the_files_stops_the_deploy_before_it_begins(
    fleet: Fleet, playbooks: Playbooks
) -> None:
    before = begun(fleet)
    machine = fleet.machines["web3"]
    machine.run("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/srv/app/releases")
    played = playbooks.deploy("5", "#" * 10_000)
    machine.run("umount", "/srv/app/releases")
    assert played.status != 0
    assert "No space left on device" in played.output
    assert begun(fleet) == before


def test_a_name_is_not_used_twice(fleet: Fleet, playbooks: Playbooks) -> None:
    before = begun(fleet)
    played = playbooks.play("deploy", release_id="2", release_source=playbooks.release("other"))
    assert played.status != 0
    assert "release 2 is there already" in played.output
    assert begun(fleet) == before


def test_a_rollback_leads_to_the_release_that_all_machines_ran_before(fleet: Fleet, playbooks: Playbooks) -> None:
    with fleet.load() as seen:
        played = playbooks.play("rollback")
    assert played.status == 0, played.output
    assert played.releases() == fleet.running() == dict.fromkeys(fleet.machines, "2")
    assert not seen.failures()
    played = playbooks.play("rollback")  # the one before was removed
    assert played.status != 0
    assert "there is no release that all machines ran before" in played.output
    fleet.machines["web1"].run("rm", "/srv/app/.deployed/2")  # no release is left that all machines ran
    played = playbooks.play("rollback")
    assert played.status != 0
    assert "there is no release that all machines ran before" in played.output


def test_the_service_cannot_choose_what_root_removes(fleet: Fleet) -> None:
    """Its processes may run in a folder with any name."""
    look = yaml.safe_load((COLLECTION / "roles/release/vars/main.yml").read_text())["release_look"]
    machine = fleet.machines["web1"]
    folder = "/srv/a\n3"
    machine.run("mkdir", "-p", folder)
    where = ("--unit=evil", "--property=Type=exec", "--uid=app", "--working-directory=" + folder)
    machine.run("systemd-run", *where, "sleep", "60")
    machine.run("mkdir", "-p", "/srv/evil/releases")
    variables = ("ROOT=/srv/evil", "SERVICE=evil", "ID=1")
    printed = machine.run("env", *variables, "sh", "-c", look).stdout
    machine.systemctl("stop", "evil")
    assert printed.splitlines() == ["a3", "", "", "(missing)", "(missing)"]
