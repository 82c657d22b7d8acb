"""What the judge allows in a fault of the machine, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.clients import KINDS
from tests.chaos.evidence import Cause, Closed, Halt, Outcome, Packet, Segment, Shortage, Stall, Window
from tests.unit.chaos.planted import OK, OTHER, RESTART, REUSED, SLOW, evidence, lost, rules

KILLED_MASTER = Halt(7, "master", "master-retires", True, 9.2, 9.3, frozenset())
STARTS_AGAIN = Window(Cause.NOT_ACTIVE, 9.3, 11.5)
SHORTAGE = Shortage(77, "worker", 9.0, 11.0, frozenset({REUSED.port}))


def test_a_kill_before_the_old_workers_drain_lets_them_go_on() -> None:
    """The new master is dead, so it is ready no longer: the old release serves until the next one is."""
    found = {"operations": [replace(RESTART, release="1")], "halts": [KILLED_MASTER], "windows": [STARTS_AGAIN]}
    assert rules(evidence(OK, **found)) == []
    frozen = replace(KILLED_MASTER, killed=False)
    worker = replace(KILLED_MASTER, role="worker")
    earlier = replace(KILLED_MASTER, began=7.0, ended=7.1)  # the master before
    later = replace(KILLED_MASTER, began=10.2, ended=10.3)
    for other in (frozen, worker, earlier, later):
        assert rules(evidence(OK, **found | {"halts": [other]})) == ["old release"]
    afterwards = replace(OK, opened=12.0, began=12.0, ended=12.1)
    assert rules(evidence(afterwards, **found)) == ["old release"]


def test_a_worker_that_serves_one_request_at_a_time_lets_clients_wait_for_that() -> None:
    long = replace(OTHER, name="long", own=1.0, began=9.5, ended=11.0)
    slow = replace(OK, ended=11.9)
    assert rules(evidence(slow, long, serial=True)) == []
    assert rules(evidence(slow, long)) == ["waited"]
    assert rules(evidence(slow, serial=True)) == ["waited"]  # there was no other one
    assert rules(evidence(replace(slow, ended=12.2), long, serial=True)) == ["waited"]  # more than one
    assert rules(evidence(slow, replace(long, began=2.0, ended=3.0), serial=True)) == ["waited"]
    assert rules(evidence(SLOW, windows=[Window(Cause.HOSTILE, 9.0, 11.5)], serial=True)) == []


@pytest.mark.parametrize("outcome", [Outcome.EOF, Outcome.RESET, Outcome.CUT, Outcome.STATUS])
def test_a_process_without_memory_may_lose_what_it_has(outcome: Outcome) -> None:
    request = lost(outcome, REUSED)
    assert rules(evidence(request, shortages=[SHORTAGE])) == []
    assert rules(evidence(request, executed=[(request.name, 77)], shortages=[SHORTAGE])) == []
    assert rules(evidence(request, executed=[(request.name, 78)], shortages=[SHORTAGE])) == ["lost"]  # another one
    assert rules(evidence(request, shortages=[replace(SHORTAGE, ports=frozenset())])) == ["lost"]
    assert rules(evidence(request, shortages=[replace(SHORTAGE, began=2.0, ended=4.0)])) == ["lost"]


@pytest.mark.parametrize(
    "line",
    [
        "[   10.050000] vm gunicorn[77]: Error handling request /",
        "[   10.050000] vm gunicorn[77]: Unexpected error in the worker's loop",
        "[   10.050000] vm gunicorn[77]: Traceback (most recent call last):",
        "[   10.050000] vm gunicorn[50]: Worker (pid:77) was sent SIGABRT!",
    ],
)
def test_a_process_without_memory_may_lose_what_it_has_just_taken_over(line: str) -> None:
    """Between two looks at its connections. The journal says that it failed at that moment."""
    shortage = replace(SHORTAGE, ports=frozenset())
    request, closed = lost(Outcome.RESET, REUSED), Closed("idle", REUSED.port, 5.0, 10.1)
    assert rules(evidence(request, closed=[closed], shortages=[shortage], journal=line)) == []
    for other in (line.replace("77", "78"), line.replace("10.05", "9.05")):
        assert rules(evidence(request, closed=[closed], shortages=[shortage], journal=other)) == ["lost", "closed"]


def test_a_process_without_memory_may_lose_what_it_accepts() -> None:
    assert rules(evidence(lost(Outcome.RESET), shortages=[SHORTAGE])) == []
    assert rules(evidence(lost(Outcome.RESET, ended=10.1), shortages=[replace(SHORTAGE, began=10.2)])) == ["lost"]
    assert rules(evidence(lost(Outcome.RESET), executed=[(OK.name, 78)], shortages=[SHORTAGE])) == ["lost"]


def test_a_process_without_memory_gives_no_wrong_response() -> None:
    for outcome in (Outcome.WRONG, Outcome.TIMEOUT):
        assert rules(evidence(lost(outcome, REUSED), shortages=[SHORTAGE])) == ["lost"]
    assert rules(evidence(REUSED, executed=[(REUSED.name, 77)] * 2, shortages=[SHORTAGE])) == ["executed twice"]


def test_waits_and_closes_without_memory() -> None:
    slow = replace(REUSED, ended=12.0)
    assert rules(evidence(slow, shortages=[SHORTAGE])) == []
    assert rules(evidence(slow, executed=[(slow.name, 78)], shortages=[SHORTAGE])) == [
        "waited",
        "response without execution",
    ]
    assert rules(evidence(replace(slow, ended=13.0), shortages=[SHORTAGE])) == ["waited"]  # too long afterwards
    closed = Closed("idle", REUSED.port, 5.0, 10.0)
    assert rules(evidence(closed=[closed], shortages=[SHORTAGE])) == []
    assert rules(evidence(closed=[replace(closed, port=1)], shortages=[SHORTAGE])) == ["closed"]


def test_a_lossy_link_lets_its_connection_wait_and_loses_nothing() -> None:
    stalls = [Stall(SLOW.port, 10.2, 11.0), Stall(SLOW.port, 10.8, 11.4)]  # 1.2 s in all
    assert rules(evidence(SLOW, stalls=stalls)) == []
    assert rules(evidence(SLOW, stalls=stalls[:1])) == ["waited"]
    assert rules(evidence(SLOW, stalls=[replace(each, port=1) for each in stalls])) == ["waited"]
    assert rules(evidence(replace(SLOW, began=11.5, ended=13.0), stalls=stalls)) == ["waited"]  # before its time
    assert rules(evidence(lost(Outcome.EOF, SLOW), stalls=stalls)) == ["lost"]
    assert rules(evidence(closed=[Closed("idle", SLOW.port, 5.0, 10.5)], stalls=stalls)) == ["closed"]


def test_a_request_may_take_the_time_that_tcp_takes_on_a_lossy_link() -> None:
    """After a loss its window grows slowly: packets pass, but few at a time."""
    passing = [Packet(at / 10, Segment(SLOW.port, True, True), is_lost=False) for at in range(100, 120, 3)]
    assert rules(evidence(SLOW, packets=passing)) == []
    silent = [each for each in passing if each.at < 10.5]  # and then the service is slow
    acknowledgments = [replace(each, segment=replace(each.segment, needs_acknowledgment=False)) for each in passing]
    others = [replace(each, segment=replace(each.segment, port=1)) for each in passing]
    lost_ones = [replace(each, is_lost=True) for each in passing]
    for packets in (silent, acknowledgments, others, lost_ones):
        assert rules(evidence(SLOW, packets=packets)) == ["waited"]


def test_a_close_that_a_lossy_link_has_dropped_is_noticed_later() -> None:
    closed = Closed("idle", REUSED.port, 5.0, 20.0)
    stop = [Window(Cause.STOP, 9.0, 10.0)]
    assert rules(evidence(closed=[closed], windows=stop)) == ["closed"]
    assert rules(evidence(closed=[closed], windows=stop, stalls=[Stall(REUSED.port, 10.0, 19.9)])) == []
    assert rules(evidence(closed=[closed], windows=stop, stalls=[Stall(REUSED.port, 10.0, 14.0)])) == ["closed"]


def test_a_stop_closes_a_new_connection_whose_request_a_lossy_link_has_dropped() -> None:
    request = lost(Outcome.EOF, ended=13.0)
    found = {"windows": [Window(Cause.STOP, 9.0, 14.0)], "stalls": [Stall(OK.port, 10.1, 20.0)]}
    assert rules(evidence(request, **found)) == []
    assert rules(evidence(request, **found | {"stalls": []})) == ["lost"]
    assert rules(evidence(request, **found | {"windows": []})) == ["lost"]
    assert rules(evidence(request, **found, executed=[(request.name, 77)])) == ["lost"]


def test_an_upload_takes_the_time_that_tcp_needs_on_a_lossy_link() -> None:
    upload = KINDS["upload"]
    assert upload.own(0.2, 0.0, is_new=False) == pytest.approx(8 * 0.15 + 5 * 0.2)
    assert upload.own(0.2, 0.04, is_new=False) == pytest.approx(8 * 4 * 0.2 + 5 * 0.2)
    assert KINDS["idle"].own(0.2, 0.04, is_new=True) == pytest.approx(0.4)


def test_a_client_does_not_notice_a_reset_that_a_lossy_link_has_dropped() -> None:
    request = lost(Outcome.TIMEOUT, ended=50.0)
    found = {"windows": [Window(Cause.PORT_CLOSED, 9.0, 11.0)], "stalls": [Stall(OK.port, 10.2, 60.0)]}
    assert rules(evidence(request, **found)) == []
    assert rules(evidence(request, **found | {"windows": []})) == ["lost"]
    assert rules(evidence(request, **found | {"windows": [], "shortages": [SHORTAGE]})) == []
    assert "lost" in rules(evidence(request, **found | {"stalls": [Stall(OK.port, 10.2, 30.0)]}))  # it was sent again
