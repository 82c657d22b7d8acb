"""Evidence with something planted, for the judge."""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.evidence import Evidence, Expected, Halt, Operation, Outcome, Request
from tests.chaos.judge import judge

OK = Request("new-0-1", "new", 40001, 10.0, False, 10.0, 10.1, 0.0, Outcome.OK, 100, 77, "0")
REUSED = replace(OK, name="idle-0-1", port=40002, opened=5.0, reused=True)
SLOW = replace(OK, ended=12.0)
OTHER = replace(OK, name="other", port=40003, opened=1.0, began=1.0, ended=1.1)
RESTART = Operation("systemctl restart app", 8.0, 9.0, 0, Expected.SUCCESS)


def lost(outcome: Outcome, request: Request = OK, **changes: object) -> Request:
    return replace(request, **({"outcome": outcome, "received": 0, "pid": 0, "release": ""} | changes))  # type: ignore[arg-type]


def halt(port: int, *, killed: bool, began: float = 9.9, ended: float = 9.95) -> Halt:
    return Halt(77, "worker", "", killed, began, ended, frozenset({port}))


def evidence(*requests: Request, **more: object) -> Evidence:
    executed = [(request.name, 77) for request in requests if request.outcome is Outcome.OK]
    return Evidence(list(requests), **({"executed": executed} | more))  # type: ignore[arg-type]


def rules(found: Evidence) -> list[str]:
    """Return the rules that are broken, in a run that has another request."""
    found.requests.append(OTHER)
    found.executed.append((OTHER.name, OTHER.pid))
    return [violation.rule for violation in judge(found).violations]
