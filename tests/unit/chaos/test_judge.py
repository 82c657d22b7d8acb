"""The judge finds what was planted, and allows what the documentation names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.evidence import Cause, Closed, Evidence, Expected, Halt, Outcome, Request, Window
from tests.chaos.judge import judge
from tests.unit.chaos.planted import OK, RESTART, REUSED, SLOW, evidence, halt, lost, rules


def test_a_run_without_a_response_proves_nothing() -> None:
    assert [violation.rule for violation in judge(Evidence()).violations] == ["no response"]


def test_nothing_is_found_where_nothing_happened() -> None:
    verdict = judge(evidence(OK, REUSED, operations=[RESTART]))
    assert (verdict.violations, verdict.allowed) == ([], {})


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
@pytest.mark.parametrize("request_", [OK, REUSED], ids=["new", "reused"])
def test_a_loss_is_a_violation(outcome: Outcome, request_: Request) -> None:
    assert rules(evidence(lost(outcome, request_))) == ["lost"]


@pytest.mark.parametrize("outcome", [Outcome.EOF, Outcome.RESET, Outcome.CUT, Outcome.TIMEOUT])
def test_a_loss_in_a_killed_process_is_allowed(outcome: Outcome) -> None:
    verdict = judge(evidence(OK, lost(outcome, REUSED), halts=[halt(REUSED.port, killed=True)]))
    assert verdict.violations == []
    assert verdict.allowed == {"lost: worker killed": 1}


@pytest.mark.parametrize(
    "halts",
    [
        [halt(REUSED.port + 1, killed=True)],  # another connection
        [halt(REUSED.port, killed=False)],  # frozen, not killed
        [halt(REUSED.port, killed=True, began=12.0)],  # killed after the loss
        [halt(REUSED.port, killed=True, began=4.0, ended=4.1)],  # an earlier connection of this port
    ],
)
def test_a_loss_next_to_a_kill_is_a_violation(halts: list[Halt]) -> None:
    assert rules(evidence(lost(Outcome.EOF, REUSED), halts=halts)) == ["lost"]


def test_wrong_content_is_a_violation_whatever_was_killed() -> None:
    for outcome in (Outcome.WRONG, Outcome.STATUS):
        assert rules(evidence(lost(outcome, REUSED), halts=[halt(REUSED.port, killed=True)])) == ["lost"]


def test_a_connection_in_a_message_that_a_killed_worker_had_accepted() -> None:
    mail = Halt(77, "worker", "", True, 9.9, 9.95, frozenset(), mail=frozenset({REUSED.port}))
    assert rules(evidence(lost(Outcome.EOF, REUSED), halts=[mail])) == []


def test_a_request_executed_twice() -> None:
    assert rules(evidence(OK, executed=[(OK.name, 77), (OK.name, 78)])) == ["executed twice"]
    # Also of a request that was lost: a server must not repeat it.
    twice = evidence(lost(Outcome.EOF), executed=[(OK.name, 77), (OK.name, 78)], halts=[halt(OK.port, killed=True)])
    assert "executed twice" in rules(twice)


def test_a_response_without_execution() -> None:
    assert rules(evidence(OK, executed=[])) == ["response without execution"]
    assert rules(evidence(OK, executed=[(OK.name, 99)])) == ["response without execution"]  # in another worker


def test_a_wait_is_a_violation() -> None:
    assert rules(evidence(SLOW)) == ["waited"]
    assert rules(evidence(SLOW, operations=[RESTART])) == ["waited"]


def test_its_own_time_and_a_late_client_are_no_wait() -> None:
    assert rules(evidence(replace(SLOW, own=1.5))) == []
    assert rules(evidence(SLOW, late=[(11.0, 1.5)])) == []
    assert rules(evidence(SLOW, starved=[(11.0, 0.8), (11.9, 0.3)])) == []  # others outside used the CPUs
    assert rules(evidence(SLOW, late=[(20.0, 1.5)], starved=[(9.0, 1.5)])) == ["waited"]


def test_only_connections_of_a_frozen_process_wait() -> None:
    frozen = Halt(77, "worker", "", False, 10.0, 11.5, frozenset({SLOW.port}))
    assert rules(evidence(SLOW, halts=[frozen])) == []
    assert rules(evidence(SLOW, halts=[replace(frozen, ports=frozenset({1}))])) == ["waited"]
    assert rules(evidence(replace(SLOW, ended=13.0), halts=[frozen])) == ["waited"]  # too long afterwards
    assert rules(evidence(SLOW, halts=[replace(frozen, killed=True)])) == []  # and cut off, if it was lost


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause not in (Cause.NOT_ACTIVE, Cause.HOSTILE)])
def test_waits_that_the_documentation_names(cause: Cause) -> None:
    assert rules(evidence(SLOW, windows=[Window(cause, 9.0, 11.5)])) == []
    assert rules(evidence(SLOW, windows=[Window(cause, 9.0, 9.9)])) == ["waited"]
    assert rules(evidence(replace(SLOW, ended=20.0), windows=[Window(cause, 9.0, 11.5)])) == ["waited"]


def test_no_client_waits_because_the_service_starts_again() -> None:
    """Old workers serve."""
    assert rules(evidence(SLOW, windows=[Window(Cause.NOT_ACTIVE, 9.0, 11.5)])) == ["waited"]


def test_no_client_waits_because_others_are_hostile() -> None:
    assert rules(evidence(SLOW, windows=[Window(Cause.HOSTILE, 9.0, 11.5)])) == ["waited"]


CLOSED_PORT = [Window(Cause.PORT_CLOSED, 9.0, 11.0)]
STOP = [Window(Cause.STOP, 9.0, 11.0)]


def test_connections_are_refused_only_while_the_port_is_closed() -> None:
    assert rules(evidence(lost(Outcome.REFUSED), windows=CLOSED_PORT)) == []
    assert rules(evidence(lost(Outcome.REFUSED), windows=STOP)) == ["lost"]
    assert rules(evidence(lost(Outcome.REFUSED, began=20.0, ended=20.1), windows=CLOSED_PORT)) == ["lost"]


def test_a_stop_loses_what_crosses_with_the_close_of_an_idle_connection() -> None:
    crossed = lost(Outcome.EOF, REUSED)
    assert rules(evidence(crossed, windows=STOP)) == []
    assert rules(evidence(crossed, executed=[(crossed.name, 77)], windows=STOP)) == ["lost"]
    assert rules(evidence(replace(crossed, received=20), windows=STOP)) == ["lost"]
    assert rules(evidence(replace(crossed, reused=False), windows=STOP)) == ["lost"]
    assert rules(evidence(replace(crossed, began=20.0, ended=20.1), windows=STOP)) == ["lost"]


def test_idle_connections_are_closed_only_for_a_reason() -> None:
    closed = Closed("idle", REUSED.port, 5.0, 10.0)
    assert rules(evidence(closed=[closed])) == ["closed"]
    assert rules(evidence(closed=[closed], operations=[RESTART])) == ["closed"]
    assert rules(evidence(closed=[closed], halts=[halt(REUSED.port, killed=False)])) == ["closed"]
    assert rules(evidence(closed=[closed], halts=[halt(REUSED.port, killed=True)])) == []
    for cause in (Cause.STOP, Cause.PORT_CLOSED, Cause.DRAIN, Cause.DESCRIPTORS):
        assert rules(evidence(closed=[closed], windows=[Window(cause, 9.0, 11.0)])) == []
    assert rules(evidence(closed=[closed], windows=[Window(Cause.MASTER_KILLED, 9.0, 11.0)])) == ["closed"]


BAD = replace(RESTART, expected=Expected.FAILURE, status=1)


def test_commands_succeed_and_fail_as_they_should() -> None:
    assert rules(evidence(operations=[BAD])) == []
    assert rules(evidence(operations=[replace(BAD, status=0)])) == ["succeeded with a release that does not boot"]
    starting = [Window(Cause.NOT_ACTIVE, BAD.began - 1.0, BAD.ended)]
    merged = replace(BAD, command="systemctl reload app", status=0)  # systemd makes it part of the start
    assert rules(evidence(operations=[merged], windows=starting)) == []
    assert rules(evidence(operations=[merged])) == ["succeeded with a release that does not boot"]
    assert rules(evidence(operations=[replace(BAD, status=0)], windows=starting)) != []
    assert rules(evidence(operations=[replace(RESTART, status=1)])) == ["failed"]
    assert rules(evidence(operations=[replace(RESTART, status=1, expected=Expected.ANY)])) == []


@pytest.mark.parametrize(
    "disturbed",
    [
        {"halts": [halt(1, killed=True, began=8.5, ended=8.6)]},
        {"faults": [("full", 8.5, 12.0)]},
        {"windows": [Window(Cause.MASTER_KILLED, 7.0, 8.5)]},
        {"windows": [Window(Cause.NOT_ACTIVE, 7.0, 8.5)]},
    ],
)
def test_a_command_may_fail_in_a_fault(disturbed: dict[str, object]) -> None:
    assert rules(evidence(operations=[replace(RESTART, status=1)], **disturbed)) == []
    later = replace(RESTART, status=1, began=20.0, ended=21.0)
    assert rules(evidence(operations=[later], **disturbed)) == ["failed"]


@pytest.mark.parametrize("fault", ["hostile clients", "journal-full"])
def test_a_command_succeeds_in_these_faults(fault: str) -> None:
    assert rules(evidence(operations=[replace(RESTART, status=1)], faults=[(fault, 8.5, 12.0)])) == ["failed"]


def test_a_reload_fails_after_a_restart_that_has_failed() -> None:
    reload = replace(RESTART, began=9.1, ended=9.2, status=1, output="app.service is not active, cannot reload.")
    assert rules(evidence(operations=[RESTART, reload])) == ["failed"]
    assert rules(evidence(operations=[replace(RESTART, status=1), reload])) == ["failed"]  # the restart
    failed = replace(RESTART, status=1)
    assert rules(evidence(operations=[failed, reload], faults=[("full", 8.5, 8.6)])) == []
    assert rules(evidence(operations=[failed, replace(reload, output="")], faults=[("full", 8.5, 8.6)])) == ["failed"]
    idle = replace(RESTART, command="systemctl daemon-reload", began=9.05, ended=9.1)
    assert rules(evidence(operations=[failed, idle, reload], faults=[("full", 8.5, 8.6)])) == []


def test_new_connections_get_their_response_from_the_release_that_is_ready() -> None:
    deployed = replace(RESTART, release="1")
    assert rules(evidence(OK, operations=[deployed])) == ["old release"]
    assert rules(evidence(replace(OK, release="1"), operations=[deployed])) == []
    assert rules(evidence(REUSED, operations=[deployed])) == []  # its connection is older
    assert rules(evidence(OK, operations=[replace(deployed, ended=10.5)])) == []  # not yet ready
    assert rules(evidence(OK, operations=[replace(deployed, status=1)])) == ["failed"]
    assert rules(evidence(OK, operations=[deployed, replace(RESTART, began=9.5, ended=11.0)])) == []
    late = replace(OK, ended=10.6)  # it was sent before the next deploy began
    following = replace(deployed, began=10.5, ended=10.55, release="2")
    assert rules(evidence(replace(late, release="2"), operations=[deployed, following])) == []
    assert rules(evidence(late, operations=[deployed, following])) == ["old release"]
    before = replace(RESTART, began=2.0, ended=4.0)
    assert rules(evidence(OK, operations=[before, deployed], faults=[("full", 2.5, 3.0)])) == []  # it had no scoreboard
    assert rules(evidence(OK, operations=[before, deployed], faults=[("full", 1.0, 1.5)])) == ["old release"]
    failed = replace(RESTART, began=5.0, ended=6.0, status=1, expected=Expected.FAILURE)
    assert rules(evidence(OK, operations=[before, failed, deployed], faults=[("full", 2.5, 3.0)])) == []
    long_ago = replace(deployed, began=5.0, ended=6.0)
    assert rules(evidence(OK, operations=[before, long_ago], faults=[("full", 2.5, 3.0)])) == ["old release"]
    two_starts = {"operations": [before, long_ago, deployed], "faults": [("full", 2.5, 3.0)]}
    assert rules(evidence(OK, **two_starts)) == ["old release"]  # the second one told the first one to drain
    killed = Halt(7, "master", "master-retires", True, 6.0, 6.1, frozenset())  # before it could
    assert rules(evidence(OK, **two_starts, halts=[killed])) == []


def test_leftovers_are_violations() -> None:
    assert rules(evidence(leftovers=["app-drain-1-2.scope"])) == ["leftover"]


PLANTS: list[Callable[[Request], Request]] = [
    lambda request: lost(Outcome.EOF, request),
    lambda request: lost(Outcome.RESET, request),
    lambda request: lost(Outcome.CUT, request, received=50),
    lambda request: replace(request, ended=request.ended + 1.5),
]


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("position", range(0, 200, 13))
def test_one_fault_among_many_requests_is_found(plant: Callable[[Request], Request], position: int) -> None:
    """Next to kills of other connections' workers, and restarts."""
    requests = [
        replace(REUSED, name=f"busy-{number}", port=30000 + number % 20, began=number / 10, ended=number / 10 + 0.05)
        for number in range(200)
    ]
    requests[position] = plant(requests[position])
    executed = [(request.name, 77) for request in requests]
    elsewhere = [halt(50000 + number, killed=True, began=float(number), ended=number + 0.1) for number in range(20)]
    verdict = judge(Evidence(requests, executed=executed, halts=elsewhere, operations=[RESTART]))
    assert [violation.what for violation in verdict.violations if requests[position].name in violation.what]
    assert len(verdict.violations) == 1


def test_a_restart_in_a_reload_that_has_overtaken_the_relay_lets_clients_wait() -> None:
    """And lose nothing."""
    reload = replace(RESTART, command="systemctl reload app", began=9.05, ended=11.5)
    restart = replace(RESTART, began=9.45, ended=11.5)
    slow = replace(SLOW, began=9.5)
    assert rules(evidence(slow, operations=[RESTART, reload, restart])) == []
    assert rules(evidence(slow, operations=[replace(RESTART, ended=8.9), reload, restart])) == ["waited"]
    assert rules(evidence(slow, operations=[RESTART, reload])) == ["waited"]
    assert rules(evidence(slow, operations=[RESTART, restart])) == ["waited"]
    assert rules(evidence(lost(Outcome.EOF, slow), operations=[RESTART, reload, restart])) == ["lost"]
