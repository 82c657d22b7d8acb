"""The judge of a fleet finds what was planted, and allows what docs/fleet.md names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.evidence import Closed, Expected, Outcome, Request
from tests.chaos.fleet.evidence import Deed, FleetEvidence, FleetOperation, Look, Passed, read_log
from tests.chaos.fleet.judge import NOTHING_TO_GO_BACK_TO, judge
from tests.chaos.fleet.schedule import EVENTS, OUTAGES, generate
from tests.chaos.schedule import ScheduleError, parse

GET = Request("new-0-1", "new", 40001, 20.0, False, 20.0, 20.1, 0.0, Outcome.OK, 100, 77, "1@web2")
POST = replace(GET, name="upload-0-1", kind="upload")
OTHER = replace(GET, name="other", port=40003, opened=1.0, began=1.0, ended=1.1)
DEPLOY = FleetOperation("deploy 1", 2.0, 15.0, 0, Expected.SUCCESS, "1", first="web1")
BAD = FleetOperation("deploy 2", 18.0, 30.0, 2, Expected.FAILURE, bad="2", responds=True, canary=True, first="web1")
MACHINES = ("web1", "web2", "web3")


def lost(outcome: Outcome, request: Request = GET, detail: str = "") -> Request:
    return replace(request, outcome=outcome, received=0, pid=0, release="", detail=detail)


def error(number: int, at: float = 20.0, machine: str = "web1", release: str = "2") -> Request:
    """Return a response of a bad release."""
    failed = lost(Outcome.STATUS, GET, f"500 bad release {release}@{machine}")
    return replace(failed, name=f"new-1-{number}", began=at, ended=at)


def deed(what: str, machine: str = "web2", began: float = 19.0, ended: float = 21.0) -> Deed:
    return Deed(what, machine, began, ended)


def rules(*requests: Request, **more: object) -> list[str]:
    """Return the rules that are broken, in a run that has another request."""
    evidence = FleetEvidence([OTHER, *requests], **more)  # type: ignore[arg-type]
    return [violation.rule for violation in judge(evidence).violations]


def test_a_run_without_a_response_proves_nothing() -> None:
    assert [violation.rule for violation in judge(FleetEvidence()).violations] == ["no response"]


def test_nothing_is_found_where_nothing_happened() -> None:
    looks = [Look(1.0, name, "UP", 100) for name in MACHINES]
    assert rules(GET, POST, operations=[DEPLOY], looks=looks) == []


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
def test_a_loss_is_a_violation(outcome: Outcome, request_: Request) -> None:
    assert rules(lost(outcome, request_)) == ["lost"]
    assert rules(lost(outcome, request_), deeds=[deed("agent"), deed("haproxy", ""), deed("controller", "")]) == [
        "lost"
    ]


@pytest.mark.parametrize("what", ["crash", "network", "kill"])
def test_only_a_post_may_be_lost_with_its_machine(what: str) -> None:
    gateway = "502 <html>Bad Gateway"
    assert rules(lost(Outcome.STATUS, POST, gateway), deeds=[deed(what)]) == []
    assert rules(lost(Outcome.STATUS, GET, gateway), deeds=[deed(what)]) == ["lost"]
    assert rules(lost(Outcome.STATUS, POST, gateway), deeds=[deed(what, began=30.0, ended=31.0)]) == ["lost"]
    assert rules(lost(Outcome.STATUS, POST, gateway), deeds=[deed(what, began=10.0, ended=11.0)]) == ["lost"]


def test_a_post_on_another_machine_may_not_be_lost() -> None:
    elsewhere = {POST.name: Passed("web3", 502, "SH--", "0")}
    assert rules(lost(Outcome.STATUS, POST), deeds=[deed("crash")], passed=elsewhere) == ["lost"]
    assert rules(lost(Outcome.STATUS, POST), deeds=[deed("crash", "web3")], passed=elsewhere) == []


def test_a_response_that_has_begun_is_lost_with_its_machine() -> None:
    cut = replace(lost(Outcome.CUT), received=50)
    assert rules(cut, deeds=[deed("crash")]) == []
    assert rules(cut, deeds=[deed("freeze")]) == ["lost"]


def test_a_machine_without_network_may_cost_a_timeout() -> None:
    assert rules(lost(Outcome.STATUS, GET, "504 <html>Gateway Time-out"), deeds=[deed("network")]) == []
    assert rules(lost(Outcome.STATUS, GET, "504 <html>Gateway Time-out"), deeds=[deed("crash")]) == ["lost"]
    assert rules(lost(Outcome.STATUS, GET, "503 <html>Service Unavailable"), deeds=[deed("network")]) == ["lost"]


def test_wrong_content_is_a_violation_whatever_has_died() -> None:
    assert rules(lost(Outcome.WRONG, POST), deeds=[deed("crash")]) == ["lost"]


def test_a_bad_release_responds_from_the_first_machine_only() -> None:
    assert rules(error(1), operations=[BAD]) == []
    assert rules(error(1, machine="web2"), operations=[BAD]) == ["error of a bad release"]
    assert rules(error(1, release="3"), operations=[BAD]) == ["error of a bad release"]
    assert rules(error(1, at=40.0), operations=[BAD]) == ["error of a bad release"]  # after the deploy
    assert rules(error(1), operations=[replace(BAD, responds=False)]) == ["error of a bad release"]  # it does not boot
    first = replace(BAD, first="web2")  # web1 has crashed
    assert rules(error(1, machine="web2"), operations=[first]) == []


def test_a_deploy_that_was_cut_off_leaves_the_bad_release_until_the_next_one() -> None:
    cut = replace(BAD, ended=19.0, status=-9, expected=Expected.ANY)
    assert rules(error(1, at=25.0), operations=[cut]) == []
    assert rules(error(1, at=25.0, machine="web3"), operations=[cut]) == ["error of a bad release"]
    repair = replace(DEPLOY, began=20.0, ended=23.0, release="3")
    assert rules(error(1, at=25.0), operations=[cut, repair]) == ["error of a bad release"]
    failed = replace(BAD, ended=19.0)
    assert rules(error(1, at=25.0), operations=[failed]) == ["error of a bad release"]
    assert rules(error(1, at=25.0), operations=[failed], deeds=[deed("network", began=10.0, ended=18.9)]) == []


def test_a_canary_bounds_the_time_and_the_number_of_errors() -> None:
    others = [replace(GET, name=f"keep-alive-0-{n}", began=20.0, ended=20.1) for n in range(100)]
    short = [error(n, at=20.0) for n in range(6)]
    assert rules(*others, *short, operations=[BAD]) == []
    assert rules(*short, operations=[BAD]) == ["more errors than the canary's share"]
    assert rules(*short, operations=[replace(BAD, canary=False)]) == []
    long = [error(1, at=20.0), error(2, at=26.0)]
    assert rules(*long, operations=[BAD]) == ["errors for too long"]
    assert rules(*long, operations=[BAD], late=[(21.0, 2.0)]) == []
    assert rules(*long, operations=[replace(BAD, canary=False)]) == []


def test_deploys_succeed_and_fail_as_they_should() -> None:
    assert rules(operations=[replace(BAD, status=0)]) == ["succeeded with a bad release"]
    failed = replace(DEPLOY, status=2)
    assert rules(operations=[failed]) == ["failed"]
    assert rules(operations=[failed], deeds=[deed("network", began=10.0, ended=11.0)]) == []
    assert rules(operations=[failed], deeds=[deed("network", began=40.0, ended=41.0)]) == ["failed"]
    assert rules(operations=[failed], deeds=[deed("haproxy", "", 10.0, 11.0)]) == ["failed"]
    assert rules(operations=[failed], deeds=[deed("controller", "", 10.0, 10.0)]) == ["failed"]  # it runs again
    assert rules(operations=[replace(failed, output=NOTHING_TO_GO_BACK_TO)]) == []
    assert rules(operations=[replace(failed, expected=Expected.ANY)]) == []


def test_a_drain_that_is_too_short_for_the_requests_is_no_failure() -> None:
    output = "Error: app is no longer drained, since --for is over or another command has changed it"
    drain = FleetOperation("web1 flask-socketact lb app drain --for 4 --wait", 2.0, 7.0, 1, Expected.SUCCESS)
    assert rules(operations=[replace(drain, output=output)]) == []
    assert rules(operations=[replace(drain, output=output, ended=5.0)]) == ["failed"]
    assert rules(operations=[drain]) == ["failed"]


def test_all_machines_run_what_was_deployed_and_no_other_what_is_bad() -> None:
    running = tuple((name, "1") for name in MACHINES)
    assert rules(operations=[replace(DEPLOY, running=running)]) == []
    assert rules(operations=[replace(DEPLOY, running=(*running[:2], ("web3", "0")))]) == ["did not deploy"]
    assert rules(operations=[replace(BAD, running=(("web1", "2"), ("web2", "1")))]) == []
    assert rules(operations=[replace(BAD, running=(("web1", "1"), ("web2", "2")))]) == ["went on"]


def test_responses_come_from_the_release_that_was_deployed() -> None:
    assert rules(replace(GET, release="0@web3"), operations=[DEPLOY]) == ["old release"]
    assert rules(replace(GET, release="0@web3", began=14.9, ended=15.1), operations=[DEPLOY]) == []
    assert rules(replace(GET, release="0@web3"), operations=[DEPLOY, replace(DEPLOY, began=19.0, ended=30.0)]) == []


def test_a_server_is_down_only_after_a_fault_of_its_machine() -> None:
    down = [Look(20.0, "web2", "DOWN", 100)]
    assert rules(operations=[DEPLOY], looks=down) == ["down"]
    assert rules(looks=down, deeds=[deed("freeze")]) == []
    assert rules(looks=down, deeds=[deed("freeze", "web1")]) == ["down"]
    assert rules(looks=down, deeds=[deed("agent")]) == ["down"]
    assert rules(looks=[replace(down[0], at=60.0)], deeds=[deed("freeze")]) == ["down"]
    assert rules(looks=[Look(20.0, "web2", "UP 2/3", 100)]) == []  # a check has failed


def test_idle_connections_of_clients_are_never_closed() -> None:
    closed = [Closed("idle", 40001, 5.0, 20.0)]
    assert rules(closed=closed, deeds=[deed("crash"), deed("haproxy", "")]) == ["closed"]


def test_a_wait_needs_a_fault() -> None:
    slow = replace(GET, ended=26.0)
    assert rules(slow) == ["waited"]
    assert rules(slow, deeds=[deed("haproxy", ""), deed("controller", ""), deed("agent")]) == ["waited"]
    assert rules(slow, late=[(22.0, 2.0)]) == []
    assert rules(replace(slow, own=2.0)) == []
    assert rules(slow, deeds=[deed("freeze", began=21.0, ended=25.0)]) == []
    assert rules(replace(slow, ended=60.0), deeds=[deed("freeze", began=21.0, ended=25.0)]) == ["waited"]


def test_a_post_is_executed_once() -> None:
    twice = [(POST.name, "web1"), (POST.name, "web2")]
    assert rules(POST, executed=twice) == ["executed twice"]
    assert rules(POST, executed=twice, deeds=[deed("crash")]) == ["executed twice"]
    twice = [(GET.name, "web1"), (GET.name, "web2")]
    assert rules(GET, executed=twice) == ["executed twice"]
    assert rules(GET, executed=twice, deeds=[deed("crash")]) == []


def test_leftovers_are_violations() -> None:
    assert rules(leftovers=["web1 is UP with weight 10"]) == ["leftover"]


def test_the_log_of_haproxy_is_read() -> None:
    start = "192.0.2.1:40234 [29/Nov/2026:20:30:01.123] http app"
    log = (
        f'{start}/web1 0/0/0/5/5 200 180 - - ---- 3/3/1/1/0 0/0 "GET /c/new-0-1?ms=0 HTTP/1.1"\n'
        f'{start}/web3 900/0/0/-1/905 502 208 - - SH-- 3/3/1/1/0 0/0 "POST /c/upload-2-14?ms=0 HTTP/1.1"\n'
        f'{start}/web2 0/0/2/1/3 200 180 - - ---- 3/3/1/1/+1 0/0 "GET /c/keep-alive-0-1?ms=0 HTTP/1.1"\n'
        "[WARNING] (7) : Server app/web3 is DOWN, reason: Layer4 timeout\n"
    )
    assert read_log(log) == {
        "new-0-1": Passed("web1", 200, "----", "0"),
        "upload-2-14": Passed("web3", 502, "SH--", "0"),
        "keep-alive-0-1": Passed("web2", 200, "----", "+1"),
    }


@pytest.mark.parametrize("seed", range(50))
def test_schedules_are_repeatable_and_hurt_one_machine_at_a_time(seed: int) -> None:
    schedule = generate(seed, 75.0)
    assert schedule == generate(seed, 75.0) == parse(str(schedule), EVENTS)
    assert all(0 < event.at < 75.0 for event in schedule.events)
    outages = [event for event in schedule.events if event.what in OUTAGES]
    assert len({event.arguments[0] for event in outages}) <= 1
    ends = [float(event.arguments[1]) if event.what != "crash" else 75.0 for event in outages]
    pairs = zip(outages, ends, outages[1:], strict=False)
    assert all(first.at + length < second.at for first, length, second in pairs)


@pytest.mark.parametrize(
    "text", ["1 step master-is-ready kill", "1 drain web9 5", "1 network web1", "1 kill web1 cat 0"]
)
def test_what_is_no_event_of_a_fleet_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError):
        parse(f"seed 1 seconds 75 thread; {text}", EVENTS)
