"""The judge: says of each loss, wait and close in a run whether the promises allow it.

A loss is allowed only if a killed process held its connection, or if the documentation names the case
(docs/restarts.md, docs/workers.md). The judge sees evidence only, no machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.evidence import Cause, Closed, Evidence, Expected, Halt, Operation, Outcome, Request, Window

#: What a request may wait beyond its own time and the lateness of its client, in seconds.
LIMIT = 1.0
#: A kill, and what a client sees of it, are noted by two threads. Seconds.
CLOCK_SLACK = 0.25
#: An idle connection lingers for 2 s in a stop (docs/restarts.md); its close is noted a moment later. Seconds.
LINGER = 3.0
FAILURES = frozenset({Cause.MASTER_KILLED, Cause.NOT_ACTIVE, Cause.DRAIN})
CLOSES = frozenset({Cause.STOP, Cause.PORT_CLOSED, Cause.DRAIN, Cause.DESCRIPTORS})


@dataclass(frozen=True)
class Violation:
    """Something that the promises do not allow."""

    rule: str
    at: float
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@dataclass
class Verdict:
    violations: list[Violation] = field(default_factory=list)
    allowed: Counter[str] = field(default_factory=Counter)  #: reasons of losses, waits and closes

    def note(self, rule: str, at: float, what: object, reason: str | None) -> None:
        """Note what happened: allowed for a reason, or a violation."""
        if reason is None:
            self.violations.append(Violation(rule, at, str(what)))
        else:
            self.allowed[f"{rule}: {reason}"] += 1


def judge(evidence: Evidence) -> Verdict:
    """Return what in a run was allowed, and what was not."""
    verdict = Verdict()
    if not any(request.outcome is Outcome.OK for request in evidence.requests):
        verdict.note("no response", 0.0, "there is nothing to judge", None)
    _judge_requests(evidence, verdict)
    for closed in evidence.closed:
        verdict.note("closed", closed.at, closed, _why_closed(evidence, closed))
    for operation in evidence.operations:
        _judge_operation(evidence, operation, verdict)
    for request, release in _from_old_release(evidence):
        verdict.note("old release", request.ended, f"{request}: {release} was ready", None)
    for leftover in evidence.leftovers:
        verdict.note("leftover", 0.0, leftover, None)
    return verdict


def _judge_requests(evidence: Evidence, verdict: Verdict) -> None:
    executed = Counter(name for name, _ in evidence.executed)
    pids = set(evidence.executed)
    for name, times in executed.items():
        if times > 1:
            verdict.note("executed twice", 0.0, f"{name}: {times} times", None)
    for request in evidence.requests:
        _judge_wait(evidence, request, verdict)
        if request.outcome is not Outcome.OK:
            reason = _why_lost(evidence, request, was_executed=executed[request.name] > 0)
            verdict.note("lost", request.ended, request, reason)
        elif (request.name, request.pid) not in pids:
            verdict.note("response without execution", request.ended, request, None)


def _holder(evidence: Evidence, port: int, opened: float, ended: float) -> Halt | None:
    """Return the killed process that held the connection."""
    for halt in evidence.halts:
        in_time = opened <= halt.ended and ended >= halt.began - CLOCK_SLACK
        if halt.killed and in_time and port in halt.ports | halt.mail:
            return halt
    return None


def _describe(halt: Halt) -> str:
    return f"{halt.role} {'killed' if halt.killed else 'frozen'}"


def _window(evidence: Evidence, causes: frozenset[Cause], began: float, ended: float, slack: float) -> Window | None:
    return next(
        (each for each in evidence.windows if each.cause in causes and each.overlaps(began, ended, slack)), None
    )


def _why_lost(evidence: Evidence, request: Request, *, was_executed: bool) -> str | None:
    began, ended = request.began, request.ended
    if request.outcome in (Outcome.WRONG, Outcome.STATUS):
        return None
    if holder := _holder(evidence, request.port, request.opened, ended):
        return _describe(holder)
    if was_executed or request.received or request.outcome is Outcome.TIMEOUT:
        return None
    if not request.reused and _window(evidence, frozenset({Cause.PORT_CLOSED}), began, ended, CLOCK_SLACK):
        return "port closed"  # refused, or reset in the listener's queue
    if request.reused and _window(evidence, CLOSES, began, ended, LINGER):
        return "crossed with the close of an idle connection"  # docs/restarts.md, Stop
    return None


def _judge_wait(evidence: Evidence, request: Request, verdict: Verdict) -> None:
    wait = request.ended - request.began - request.own - evidence.lateness(request.began, request.ended)
    if wait <= LIMIT or evidence.serial or request.outcome is Outcome.REFUSED:
        return
    verdict.note("waited", request.ended, f"{wait:.2f} s: {request}", _why_waited(evidence, request))


def _why_waited(evidence: Evidence, request: Request) -> str | None:
    """Return what the request has waited for; it must have ended soon after that."""
    for halt in evidence.halts:
        held = request.port in halt.ports | halt.mail and request.opened <= halt.ended
        if held and request.began <= halt.ended and _in_time(request, halt.began, halt.ended):
            return _describe(halt)
    for window in evidence.windows:
        if window.cause is not Cause.NOT_ACTIVE and _in_time(request, window.began, window.ended):
            return str(window.cause.value)
    return None


def _in_time(request: Request, began: float, ended: float) -> bool:
    """Return whether a request ran in this time, and ended soon after it."""
    return request.ended >= began and request.ended - max(ended, request.began) <= request.own + LIMIT


def _why_closed(evidence: Evidence, closed: Closed) -> str | None:
    if holder := _holder(evidence, closed.port, closed.opened, closed.at):
        return _describe(holder)
    window = _window(evidence, CLOSES, closed.at, closed.at, LINGER)
    return None if window is None else window.cause.value


def _judge_operation(evidence: Evidence, operation: Operation, verdict: Verdict) -> None:
    if operation.expected is Expected.FAILURE and operation.status == 0:
        verdict.note("succeeded with a release that does not boot", operation.ended, operation, None)
    if operation.expected is Expected.SUCCESS and operation.status != 0:
        verdict.note("failed", operation.ended, operation, _disturbance(evidence, operation))


def _disturbance(evidence: Evidence, operation: Operation) -> str | None:
    """Return the fault that may have made a command fail."""
    for halt in evidence.halts:
        if halt.began <= operation.ended and halt.ended >= operation.began:
            return _describe(halt)
    for name, began, ended in evidence.faults:
        if began <= operation.ended and ended >= operation.began:
            return name
    for window in evidence.windows:
        if window.cause in FAILURES and window.overlaps(operation.began, operation.ended):
            return str(window.cause.value)
    before = [each for each in evidence.operations if each.ended <= operation.began]
    last = max(before, key=lambda each: each.ended, default=None)
    if last is not None and last.status != 0 and "is not active" in operation.output:
        return "service not active after a command that failed"  # which is judged, too
    return None


def _from_old_release(evidence: Evidence) -> Iterator[tuple[Request, str]]:
    """Yield requests on new connections that got their response from an earlier release than the ready one."""
    for index, operation in enumerate(evidence.operations):
        if operation.status != 0 or not operation.release:
            continue
        following = evidence.operations[index + 1 :]
        until = min((each.began for each in following if each.ended > operation.ended), default=float("inf"))
        for request in evidence.requests:
            is_later = operation.ended < request.opened and request.began < until
            if is_later and request.outcome is Outcome.OK and request.release != operation.release:
                yield request, operation.release
