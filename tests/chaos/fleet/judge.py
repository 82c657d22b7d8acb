"""The judge of a fleet: compares ledger, HAProxy's log, and what was done with the table in docs/evidence.md.

It sees evidence only, no machine.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from tests.chaos.evidence import Expected, Outcome, Request
from tests.chaos.fleet.evidence import Deed, FleetEvidence, FleetOperation
from tests.chaos.judge import Verdict

#: Of the requests to three machines, what a canary of 10 % gets: 10 of 210.
SHARE = 0.05
#: From the first error of a bad release to the last one, with a canary, in seconds.
DETECTION = 5.0
#: Few requests are no share of anything.
FEW = 3
#: What a request may wait without a reason, beyond its own time and the lateness of its client, in seconds.
LIMIT = 5.0
#: After a fault, until HAProxy has noticed that it has ended (checks, keep-alive, retries), in seconds.
NOTICE = 15.0
#: A deed, and what clients or HAProxy see of it, are noted by different threads. Seconds.
CLOCK_SLACK = 0.5
#: With these, processes die, or are cut off: what they were doing is lost.
LETHAL = frozenset({"crash", "network", "kill", "relay"})
#: With these, HAProxy may find a machine down.
DOWN = LETHAL | {"freeze", "slow"}
_BAD = re.compile(r"500 bad release (\S+)@(web\d)")
NOTHING_TO_GO_BACK_TO = "there is no release that all machines ran before"
_DRAIN = re.compile(r"lb app drain --for (\d+) --wait")


def judge(evidence: FleetEvidence) -> Verdict:
    """Return what in a run was allowed, and what was not."""
    verdict = Verdict()
    if not any(request.outcome is Outcome.OK for request in evidence.requests):
        verdict.note("no response", 0.0, "there is nothing to judge", None)
    for request in evidence.requests:
        _judge_request(evidence, request, verdict)
    _judge_executions(evidence, verdict)
    for closed in evidence.closed:
        verdict.note("closed", closed.at, closed, None)
    for operation in evidence.operations:
        _judge_operation(evidence, operation, verdict)
        _judge_errors(evidence, operation, verdict)
    for request, release in _from_old_release(evidence):
        verdict.note("old release", request.ended, f"{request}: {release} was deployed", None)
    for look in evidence.looks:
        if look.status != "UP" and not look.status.startswith("UP "):
            reason = _during(evidence, look.at, look.at, DOWN, look.server, NOTICE)
            verdict.note("down", look.at, look, reason)
    for leftover in evidence.leftovers:
        verdict.note("leftover", 0.0, leftover, None)
    return verdict


def _during(
    evidence: FleetEvidence, began: float, ended: float, kinds: frozenset[str], machine: str, after: float = CLOCK_SLACK
) -> str | None:
    """Return the fault that had begun, and whose consequences had not ended; on one machine, or (empty) on any."""
    for deed in evidence.deeds:
        if deed.what in kinds and machine in ("", deed.machine) and _overlaps(deed, began, ended, after):
            return f"{deed.what} {deed.detail}".strip()
    return None


def _overlaps(deed: Deed, began: float, ended: float, after: float) -> bool:
    return deed.began <= ended + CLOCK_SLACK and deed.ended + after >= began


def _judge_request(evidence: FleetEvidence, request: Request, verdict: Verdict) -> None:
    wait = request.ended - request.began - request.own - evidence.lateness(request.began, request.ended)
    if wait > LIMIT:
        last = request.ended - request.own - LIMIT  # the fault must not have ended long before
        verdict.note("waited", request.ended, request, _during(evidence, last, request.ended, DOWN, "", NOTICE))
    if request.outcome is Outcome.OK:
        return
    if found := _BAD.match(request.detail):
        verdict.note("error of a bad release", request.ended, request, _why_bad(evidence, request, *found.groups()))
        return
    verdict.note("lost", request.ended, request, _why_lost(evidence, request))


def _why_bad(evidence: FleetEvidence, request: Request, release: str, machine: str) -> str | None:
    """Return the deploy of the release, if it has sent the response from the machine that is switched first."""
    for operation in evidence.operations:
        if operation.bad != release or not operation.responds or operation.first != machine:
            continue
        if operation.began <= request.ended and request.began <= operation.ended + CLOCK_SLACK:
            return operation.command
        if _was_cut_off(evidence, operation) and operation.ended < request.began < _repaired(evidence, operation):
            return "deploy that was cut off"  # docs/fleet.md: deploy again
    return None


def _was_cut_off(evidence: FleetEvidence, operation: FleetOperation) -> bool:
    """Return whether the controller was killed, or lost a machine."""
    lost = _during(evidence, operation.began, operation.ended, frozenset({"crash", "network", "freeze"}), "")
    return operation.expected is Expected.ANY or lost is not None


def _repaired(evidence: FleetEvidence, operation: FleetOperation) -> float:
    """Return when the next deploy had succeeded."""
    following = (each for each in evidence.operations if each.began >= operation.ended)
    return min((each.ended for each in following if each.status == 0 and each.release), default=math.inf)


def _why_lost(evidence: FleetEvidence, request: Request) -> str | None:
    passed = evidence.passed.get(request.name)
    server = passed.server if passed and passed.server.startswith("web") else ""
    if request.outcome is Outcome.WRONG:
        return None
    if evidence.is_post(request) or (request.received > 0 and request.outcome is Outcome.CUT):
        return _during(evidence, request.began, request.ended, LETHAL, server)
    if request.outcome is Outcome.TIMEOUT or request.detail.startswith("504"):
        return _during(evidence, request.began, request.ended, frozenset({"network"}), server)
    return None


def _judge_executions(evidence: FleetEvidence, verdict: Verdict) -> None:
    """A request is executed twice only if HAProxy may send it twice: a GET whose machine died."""
    requests = {request.name: request for request in evidence.requests}
    for name, times in Counter(name for name, _ in evidence.executed).items():
        request = requests.get(name)
        if times > 1 and request is not None:
            reason = None
            if not evidence.is_post(request):
                reason = _during(evidence, request.began, request.ended, LETHAL, "")
            verdict.note("executed twice", request.ended, f"{times} times: {request}", reason)


def _judge_operation(evidence: FleetEvidence, operation: FleetOperation, verdict: Verdict) -> None:
    if operation.expected is Expected.FAILURE and operation.status == 0:
        verdict.note("succeeded with a bad release", operation.ended, operation, None)
    if operation.expected is Expected.SUCCESS and operation.status != 0:
        verdict.note("failed", operation.ended, operation, _why_failed(evidence, operation))
    if operation.status == 0 and operation.release:
        wrong = [f"{name} runs {runs}" for name, runs in operation.running if runs != operation.release]
        if wrong:
            kinds = frozenset({"crash", "kill"})
            reason = _during(evidence, operation.began, operation.ended, kinds, "", NOTICE)
            verdict.note("did not deploy", operation.ended, f"{operation}: {', '.join(wrong)}", reason)
    for name, runs in operation.running:
        if operation.bad and runs == operation.bad and name != operation.first:
            verdict.note("went on", operation.ended, f"{operation}: {name} runs {runs}", None)


def _why_failed(evidence: FleetEvidence, operation: FleetOperation) -> str | None:
    if NOTHING_TO_GO_BACK_TO in operation.output:
        return NOTHING_TO_GO_BACK_TO
    drain = _DRAIN.search(operation.command)
    if drain and "--for is over" in operation.output and operation.ended - operation.began >= float(drain[1]):
        return "--for of a drain is over before the requests have ended"
    kinds = DOWN | {"agent", "full"}
    return _during(evidence, operation.began, operation.ended, kinds, "", NOTICE)


def _judge_errors(evidence: FleetEvidence, operation: FleetOperation, verdict: Verdict) -> None:
    """With a canary, a bad release costs at most its share of the requests, for the time that it takes to detect it."""
    if not operation.responds or not operation.canary:
        return
    found = [each for each in evidence.requests if f"bad release {operation.bad}@" in each.detail]
    if not found:
        return
    first, last = min(each.ended for each in found), max(each.ended for each in found)
    late = evidence.lateness(first, last)
    reason = _during(evidence, operation.began, operation.ended, DOWN | {"agent", "haproxy", "controller"}, "")
    if last - first > DETECTION + late:
        what = f"{operation}: {len(found)} errors within {last - first:.1f} s"
        verdict.note("errors for too long", last, what, reason)
    near = sum(first - DETECTION / 2 <= each.ended <= first + DETECTION + late for each in evidence.requests)
    if len(found) > max(FEW, math.ceil(SHARE * near)):
        what = f"{operation}: {len(found)} errors, of {near} requests to all machines"
        verdict.note("more errors than the canary's share", last, what, reason)


def _from_old_release(evidence: FleetEvidence) -> Iterator[tuple[Request, str]]:
    """Yield requests that got their response from another release than the one that was deployed to all machines."""
    for operation in evidence.operations:
        if operation.status != 0 or not operation.release:
            continue
        following = (each.began for each in evidence.operations if each.ended > operation.ended)
        until = min(following, default=math.inf)
        for request in evidence.requests:
            is_later = operation.ended < request.began < until and request.outcome is Outcome.OK
            if is_later and request.release.partition("@")[0] != operation.release:
                yield request, operation.release
