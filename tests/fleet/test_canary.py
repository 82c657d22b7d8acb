"""Deploys with a canary by Ansible: good and bad releases, and deploys that are cut off."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.fleet import Fleet
from tests.support.playbooks import Playbooks, prepare

pytestmark = pytest.mark.long

OPTIONS = ["--canary", "10%", "--healthy", "3", "--timeout", "40"]
#: On new connections: a reload of HAProxy closes the others.
CLIENTS = {"new connection": 12}
#: Loads slowly on machines with the file.
SLOW = "\nimport os\nif os.path.exists('/etc/slow'): time.sleep(5)\n"
#: Passes the trial, which sends other requests than clients do.
BAD = """
@app.before_request
def fail():
    if request.headers.get('User-Agent') == 'flask-socketact-rehearse': return 'bad release', 500
"""
#: Seconds in which a bad canary is detected and HAProxy hears of the drain.
EXPOSED = 5.0


@pytest.fixture(scope="module")
def playbooks(fleet: Fleet) -> Playbooks:
    """The first deploy leaves --canary out."""
    return prepare(fleet, release_deploy_options=OPTIONS)


def is_canary(fleet: Fleet, name: str = "web1") -> Callable[[], bool]:
    """Return a condition: a machine runs its new release with the small share."""
    link = fleet.machines[name].path("/srv/app/current")
    old = link.readlink()
    return lambda: fleet.weights()[name] == 10 and link.readlink() != old


def assert_all_run(fleet: Fleet, name: str) -> None:
    """Check that no machine has another release, or a small share."""
    assert fleet.running() == dict.fromkeys(fleet.machines, name)
    fleet.wait_for(lambda: fleet.weights() == dict.fromkeys(fleet.machines, 100), "HAProxy to use all machines", 5)


def test_a_good_release_passes_although_haproxy_is_reloaded(
    fleet: Fleet, playbooks: Playbooks, figure: Callable[[str], None]
) -> None:
    with fleet.load(CLIENTS) as seen:
        started = playbooks.start_deploy("2", SLOW)
        fleet.wait_for(is_canary(fleet), "the canary", 120)
        began = time.monotonic()
        fleet.reload_haproxy()
        fleet.wait_for(lambda: fleet.weights()["web1"] == 10, "the new process to hear of the canary", 5)
        waited = time.monotonic() - began
        before = fleet.servers()
        last = before

        def has_ended() -> bool:
            nonlocal last
            now = fleet.servers()
            if now[0].weight != 10:
                return True
            last = now
            return False

        fleet.wait_for(has_ended, "the end of the first canary", 60)
        played = playbooks.wait("deploy", started)
    assert played.status == 0, played.output
    assert_all_run(fleet, "2")
    assert not seen.failures()
    assert fleet.downs() == dict.fromkeys(fleet.machines, 0)
    got = [now.chosen - then.chosen for then, now in zip(before, last, strict=True)]
    assert 0 < got[0] < sum(got) / 8  # 10 of 210
    figure(
        f"{seen.requests} requests, 0 failed; the canary got {got[0]} of {sum(got)} (HAProxy was reloaded, and had the "
        f"small share again after {waited:.1f} s)"
    )


def test_a_bad_release_reaches_few_clients_of_one_machine(
    fleet: Fleet, playbooks: Playbooks, figure: Callable[[str], None]
) -> None:
    """Although the old release takes five seconds to load again."""
    fleet.machines["web1"].path("/etc/slow").touch()
    untouched = [fleet.machines[name].show("app", "MainPID") for name in ("web2", "web3")]
    began = time.monotonic()
    with fleet.load(CLIENTS) as seen:
        played = playbooks.deploy("bad", SLOW + BAD)
        rate = seen.requests / (time.monotonic() - began)
    assert played.status != 0
    assert "had a status of 5xx" in played.output
    assert played.releases() == {"web1": "2, did not take bad", "web2": "2", "web3": "2"}
    assert_all_run(fleet, "2")
    assert [fleet.machines[name].show("app", "MainPID") for name in ("web2", "web3")] == untouched
    failures = seen.failures()
    assert all("500 b'bad release'" in text for text in failures), failures
    assert 3 <= failures.total() <= 3 + 2 * EXPOSED * rate * 10 / 210
    assert fleet.downs() == dict.fromkeys(fleet.machines, 0)
    figure(f"{failures.total()} of {seen.requests} requests failed, {rate:.0f} requests/s")


def test_a_controller_that_is_killed_leaves_no_small_share(fleet: Fleet, playbooks: Playbooks) -> None:
    """The deploy on the machine goes on, and the next run waits for it."""
    with fleet.load(CLIENTS) as seen:
        started = playbooks.start_deploy("3")
        fleet.wait_for(is_canary(fleet), "the canary", 120)
        playbooks.kill(started)
        played = playbooks.deploy("3")
    assert played.status == 0, played.output
    assert_all_run(fleet, "3")
    assert not seen.failures()


def test_a_release_that_was_never_judged_keeps_its_small_share(fleet: Fleet, playbooks: Playbooks) -> None:
    """The deploy on the machine is killed. The next run takes the old release back first."""
    machine = fleet.machines["web1"]
    with fleet.load(CLIENTS) as seen:
        started = playbooks.start_deploy("4")
        fleet.wait_for(is_canary(fleet), "the canary", 120)
        machine.run("pkill", "--signal", "KILL", "--full", "deploy app --release")
        played = playbooks.wait("deploy", started)
        assert played.status != 0
        assert played.releases()["web1"] == "did not take 4, and 3 may not serve: see the error"
        assert fleet.weights() == {"web1": 10, "web2": 100, "web3": 100}
        played = playbooks.deploy("4")
    assert played.status == 0, played.output
    assert "was killed: rolling back to " in machine.run("journalctl", "--unit=app", "--no-pager").stdout
    assert_all_run(fleet, "4")
    assert not seen.failures()


def test_a_rollback_needs_no_clients(fleet: Fleet, playbooks: Playbooks) -> None:
    """Without a canary, which would be inconclusive, as is the deploy of the next release."""
    played = playbooks.play("rollback")
    assert played.status == 0, played.output
    assert_all_run(fleet, "3")
    played = playbooks.deploy("5", release_deploy_options=["--canary", "10%", "--healthy", "1", "--timeout", "20"])
    assert played.status != 0
    assert "inconclusive: clients got 0 responses" in played.output
    assert_all_run(fleet, "3")
