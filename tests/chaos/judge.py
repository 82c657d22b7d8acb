"""The judge: says of each loss, wait and close in a run whether the promises allow it.

A loss is allowed only if a killed process held its connection, or if the documentation names the case
(docs/restarts.md, docs/workers.md). The judge sees evidence only, no machine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.evidence import Cause, Closed, Evidence, Expected, Halt, Operation, Outcome, Request, Shortage, Window

#: What a request may wait beyond its own time and the lateness of its client, in seconds.
LIMIT = 1.0
#: A kill, and what a client sees of it, are noted by two threads. Seconds.
CLOCK_SLACK = 0.25
#: An idle connection lingers for 2 s in a stop (docs/restarts.md); its close is noted a moment later. Seconds.
LINGER = 3.0
#: A reload that is told so soon after a start may begin before systemd has started the relay. Seconds.
OVERTAKES = 0.1
NOT_ACTIVE = frozenset({Cause.NOT_ACTIVE})
FAILURES = frozenset({Cause.MASTER_KILLED, Cause.NOT_ACTIVE, Cause.DRAIN})
#: A process without memory fails, but does not give the response of another request.
_FAILS_WITHOUT_MEMORY = frozenset({Outcome.STATUS, Outcome.EOF, Outcome.RESET, Outcome.CUT})
#: Faults in which commands succeed, too.
HARMLESS = frozenset({"hostile clients", "journal-full"})
#: A command that changes the state of the service.
_CHANGE = re.compile("systemctl (start|stop|restart|reload) ")
_START = re.compile("systemctl (start|restart) ")
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
    for request, release, ready_at in _from_old_release(evidence):
        reason = _why_old(evidence, request, ready_at)
        verdict.note("old release", request.ended, f"{request}: {release} was ready", reason)
    for leftover in evidence.leftovers:
        verdict.note("leftover", 0.0, leftover, None)
    return verdict


def _judge_requests(evidence: Evidence, verdict: Verdict) -> None:
    executed = Counter(name for name, _ in evidence.executed)
    pids = set(evidence.executed)
    served_by = dict(evidence.executed)
    for name, times in executed.items():
        if times > 1:
            verdict.note("executed twice", 0.0, f"{name}: {times} times", None)
    for request in evidence.requests:
        shortage = _shortage(evidence, request, served_by.get(request.name))
        _judge_wait(evidence, request, shortage, verdict)
        if request.outcome is not Outcome.OK:
            reason = _why_lost(evidence, request, shortage, was_executed=executed[request.name] > 0)
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


def _shortage(evidence: Evidence, request: Request, pid: int | None) -> Shortage | None:
    """Return the shortage of memory in a process that served the request, or had its connection. Which process has
    accepted a new connection is unknown, if the request was not executed."""
    for shortage in evidence.shortages:
        in_time = request.began <= shortage.ended and request.ended >= shortage.began
        had_it = evidence.had(shortage, request.port, request.began, request.ended) or not request.reused
        if in_time and (pid == shortage.pid or (pid is None and had_it)):
            return shortage
    return None


def _describe(halt: Halt) -> str:
    return f"{halt.role} {'killed' if halt.killed else 'frozen'}"


def _window(evidence: Evidence, causes: frozenset[Cause], began: float, ended: float, slack: float) -> Window | None:
    return next(
        (each for each in evidence.windows if each.cause in causes and each.overlaps(began, ended, slack)), None
    )


def _why_lost(evidence: Evidence, request: Request, shortage: Shortage | None, *, was_executed: bool) -> str | None:
    outcome = Outcome.RESET if evidence.lost_reset(request) else request.outcome
    if shortage is not None and outcome in _FAILS_WITHOUT_MEMORY:
        return f"{shortage.role} without memory"
    if outcome in (Outcome.WRONG, Outcome.STATUS):
        return None
    if holder := _holder(evidence, request.port, request.opened, request.ended):
        return _describe(holder)
    if was_executed or request.received or outcome is Outcome.TIMEOUT:
        return None
    return _why_closed_early(evidence, request)


def _why_closed_early(evidence: Evidence, request: Request) -> str | None:
    """Return why a request that was not executed may have got nothing."""
    began, ended = evidence.sent_at(request.port, request.began), request.ended
    if not request.reused and _window(evidence, frozenset({Cause.PORT_CLOSED}), began, ended, CLOCK_SLACK):
        return "port closed"  # refused, or reset in the listener's queue
    is_idle = request.reused or evidence.waits_for_request(request)
    if is_idle and _window(evidence, CLOSES, began, ended, LINGER):
        return "crossed with the close of an idle connection"  # docs/restarts.md, Stop
    return None


def _judge_wait(evidence: Evidence, request: Request, shortage: Shortage | None, verdict: Verdict) -> None:
    late = evidence.lateness(request.began, request.ended, request.port)
    wait = request.ended - request.began - request.own - late
    if wait <= LIMIT or request.outcome is Outcome.REFUSED:
        return
    reason = _why_waited(evidence, request, wait)
    if reason is None and shortage is not None and _in_time(evidence, request, shortage.began, shortage.ended):
        reason = f"{shortage.role} without memory"
    verdict.note("waited", request.ended, f"{wait:.2f} s: {request}", reason)


def _why_waited(evidence: Evidence, request: Request, wait: float) -> str | None:
    """Return what the request has waited for; it must have ended soon after that."""
    for halt in evidence.halts:
        held = request.port in halt.ports | halt.mail and request.opened <= halt.ended
        if held and request.began <= halt.ended and _in_time(evidence, request, halt.began, halt.ended):
            return _describe(halt)
    for window in evidence.windows:
        if _excuses_waits(evidence, window.cause) and _in_time(evidence, request, window.began, window.ended):
            return str(window.cause.value)
    for began, ended in _before_relay(evidence):
        if _in_time(evidence, request, began, ended):
            return "restart in a reload before the relay has started"
    if evidence.silence(request) <= LIMIT:
        return "TCP on a lossy link"  # its window grows slowly after a loss
    if evidence.serial and wait <= LIMIT + _longest_other(evidence, request):
        return "worker busy with another request"
    return None


def _before_relay(evidence: Evidence) -> Iterator[tuple[float, float]]:
    """Yield the times of restarts in a reload that was told at once after a start, before systemd has started the relay
    (docs/restarts.md, Reload)."""
    for reload in evidence.operations:
        starts = (reload.began - each.ended for each in evidence.operations if each.status == 0)
        if reload.command.startswith("systemctl reload") and any(0 <= since < OVERTAKES for since in starts):
            for restart in evidence.operations:
                in_reload = reload.began <= restart.began <= reload.ended
                if in_reload and restart.command.startswith("systemctl restart"):
                    yield restart.began, restart.ended


def _excuses_waits(evidence: Evidence, cause: Cause) -> bool:
    return cause is not Cause.NOT_ACTIVE and (evidence.serial or cause is not Cause.HOSTILE)


def _longest_other(evidence: Evidence, request: Request) -> float:
    """Return the longest own time of the requests that ran at the same time, in seconds."""
    others = (each for each in evidence.requests if each.began < request.ended and each.ended > request.began)
    return max((each.own for each in others if each is not request), default=0.0)


def _in_time(evidence: Evidence, request: Request, began: float, ended: float) -> bool:
    """Return whether a request ran in this time, and ended soon after it."""
    since = max(ended, request.began)
    late = evidence.lateness(since, request.ended, request.port)
    return request.ended >= began and request.ended - since - late <= request.own + LIMIT


def _why_closed(evidence: Evidence, closed: Closed) -> str | None:
    if holder := _holder(evidence, closed.port, closed.opened, closed.at):
        return _describe(holder)
    began = evidence.sent_at(closed.port, closed.at)
    for shortage in evidence.shortages:
        if evidence.had(shortage, closed.port, began - CLOCK_SLACK, closed.at):
            return f"{shortage.role} without memory"
    window = _window(evidence, CLOSES, began, closed.at, LINGER)
    return None if window is None else window.cause.value


def _judge_operation(evidence: Evidence, operation: Operation, verdict: Verdict) -> None:
    if operation.expected is Expected.FAILURE and operation.status == 0:
        verdict.note(
            "succeeded with a release that does not boot", operation.ended, operation, _was_merged(evidence, operation)
        )
    if operation.expected is Expected.SUCCESS and operation.status != 0:
        verdict.note("failed", operation.ended, operation, _disturbance(evidence, operation))


def _was_merged(evidence: Evidence, operation: Operation) -> str | None:
    """Return whether systemd has made a reload part of a start, which had loaded another release before."""
    is_reload = operation.command.startswith("systemctl reload")
    is_starting = _window(evidence, NOT_ACTIVE, operation.began, operation.began, 0.0) is not None
    return "reload in a start after a kill" if is_reload and is_starting else None


def _disturbance(evidence: Evidence, operation: Operation) -> str | None:
    """Return the fault that may have made a command fail."""
    for halt in evidence.halts:
        if halt.began <= operation.ended and halt.ended >= operation.began:
            return _describe(halt)
    for name, began, ended in evidence.faults:
        if name not in HARMLESS and began <= operation.ended and ended >= operation.began:
            return name
    if window := _window(evidence, FAILURES, operation.began, operation.ended, 0.0):
        return window.cause.value
    changes = filter(lambda each: _CHANGE.match(each.command), evidence.operations)
    before = [each for each in changes if each.ended <= operation.began]
    last = max(before, key=lambda each: each.ended, default=None)
    if last is not None and last.status != 0 and "is not active" in operation.output:
        return "service not active after a command that failed"  # which is judged, too
    return None


def _why_old(evidence: Evidence, request: Request, ready_at: float) -> str | None:
    """Return the kill after which the old workers go on: that of a master that has not told them yet to drain."""
    for halt in evidence.halts:
        is_killed_master = halt.killed and halt.role == "master"
        if is_killed_master and ready_at - CLOCK_SLACK <= halt.ended <= request.ended:
            began = max(request.began, halt.ended)
            window = _window(evidence, NOT_ACTIVE, began, request.ended, 0.0)
            if window is not None:
                return _describe(halt)
    if request.opened - ready_at > LIMIT:
        return None
    return _started_without_scoreboard(evidence, ready_at)


def _started_without_scoreboard(evidence: Evidence, ready_at: float) -> str | None:
    """Return the fault in which a generation before had no room for its scoreboard, so that the next one could not
    supersede it. Its workers accept connections until they are told to drain, a moment after READY=1."""
    succeeded = (each for each in evidence.operations if each.status == 0 and each.ended < ready_at)
    starts = [each for each in succeeded if _START.match(each.command)]
    masters = [each for each in evidence.halts if each.killed and each.role == "master"]
    for start in sorted(starts, key=lambda each: each.ended, reverse=True):
        for name, began, ended in evidence.faults:
            if name == "full" and began <= start.ended and ended >= start.began:
                return "started with a full /run"
        if not any(start.ended - CLOCK_SLACK <= each.ended <= ready_at for each in masters):
            break  # its master told all that were before it to drain
    return None


def _from_old_release(evidence: Evidence) -> Iterator[tuple[Request, str, float]]:
    """Yield requests on new connections that got their response from an earlier release than the ready one; that
    release, and when it was ready."""
    for index, operation in enumerate(evidence.operations):
        if operation.status != 0 or not operation.release:
            continue
        following = evidence.operations[index + 1 :]
        until = min((each.began for each in following if each.ended > operation.ended), default=float("inf"))
        for request in evidence.requests:
            is_later = operation.ended < request.opened and request.began < until
            newer = {each.release for each in following if each.began < request.ended}
            is_old = request.release != operation.release and request.release not in newer
            if is_later and is_old and request.outcome is Outcome.OK:
                yield request, operation.release, operation.ended
