"""What breaks the verdict, and the report that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.soak import report
from tests.soak.latency import Latency
from tests.soak.levels import LINES, OLD
from tests.soak.plan import WITH, WITHOUT, phases
from tests.soak.results import PHASE, REQUESTS, RESTART, SAMPLE, SESSION, Results
from tests.soak.verdict import Verdict, judge
from tests.unit.soak.test_plan import settings

RESTARTS = 60
HOSTILE = "</style><script>alert(1)</script>"


def histogram(requests: int, slow: float) -> str:
    """Return response times of a millisecond, of which 0.5 % take `slow` seconds."""
    latency = Latency()
    for number in range(requests):
        latency.record(slow if number % 200 == 0 else 0.001)
    return latency.encode()


def account(phase: str, slow: float = 0.01, **values: Any) -> dict[str, Any]:
    record = {"session": 0, "phase": phase, "seconds": 12.0, "sent": 12_000, "skipped": 0, "answered": 12_000}
    record |= {"failed": {}, "closed": 0, "opened": 0, "in_flight": 0, "waiting": 0, "late": 0.0, "processes": 2}
    return record | {"histogram": histogram(12_000, slow), "is_last": False} | values


def results(folder: Path, *, with_: dict[str, Any], leak: float = 0.0, status: int = 0) -> Results:
    """Return the results of a complete run; `leak` is the growth of each line by a restart."""
    kept = Results.begin(folder, settings(RESTARTS))
    kept.add(SESSION, date="2026-01-01T00:00:00+00:00", about={"kernel": HOSTILE}, load=[1.0, 1.0, 1.0])
    kept.add(REQUESTS, **account(WITHOUT))
    kept.add(REQUESTS, **with_)
    for number in range(RESTARTS):
        lines = dict.fromkeys(LINES, 100 + number % 3 + leak * number) | {OLD: 0}
        if number % 10 == 9:  # an old worker still drains
            lines = dict.fromkeys(LINES, 10_000.0) | {OLD: 1}
        kept.add(SAMPLE, session=0, phase=WITH, restarts=number, at=0.0, lines=lines, warnings=[HOSTILE])
        verb = "restart" if number % 3 else "reload"
        kept.add(RESTART, session=0, number=number + 1, verb=verb, at=0.0, seconds=0.5, status=status, error=HOSTILE)
    for phase in phases(kept.settings):
        kept.add(PHASE, index=phase.index, name=phase.name, session=0)
    kept.close()
    return kept


def broken(verdict: Verdict) -> list[str]:
    return [check.name for check in (*verdict.checks, *verdict.levels) if check.is_kept is False]


def test_a_good_run(tmp_path: Path) -> None:
    verdict = judge(results(tmp_path, with_=account(WITH, slow=0.014, is_last=True)))
    assert verdict.is_kept
    assert [check.is_kept for check in (*verdict.checks, *verdict.levels)] == [True] * (6 + len(LINES))
    assert verdict.ratio(99.9) == pytest.approx(1.4, rel=0.01)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"failed": {"receiving: reset": 1}, "answered": 11_999}, "failed requests"),
        ({"closed": 1}, "connections closed by the server"),
        ({"answered": 11_999}, "requests not accounted for"),
        ({"sent": 11_000, "answered": 11_000}, "requests sent"),
        ({"skipped": 1}, "requests sent"),
        ({"slow": 0.016}, "response time of 99.9 % of the requests: 1.60 times as long with restarts"),
    ],
)
def test_one_is_enough(tmp_path: Path, values: dict[str, Any], name: str) -> None:
    verdict = judge(results(tmp_path, with_=account(WITH, **values)))
    assert broken(verdict) == [name]
    assert not verdict.is_kept


def test_failed_restarts_and_rising_lines(tmp_path: Path) -> None:
    verdict = judge(results(tmp_path, with_=account(WITH), leak=1.0, status=1))
    assert broken(verdict) == [
        "failed restarts and reloads",
        *(name for line, (name, _) in LINES.items() if line != OLD),
    ]


def test_requests_in_flight_when_the_run_was_killed_are_not_failures(tmp_path: Path) -> None:
    verdict = judge(results(tmp_path, with_=account(WITH, sent=12_003, in_flight=3)))
    assert verdict.total.unknown == 3
    assert verdict.is_kept


def test_too_little_is_not_judged(tmp_path: Path) -> None:
    kept = Results.begin(tmp_path, settings(RESTARTS))
    kept.close()
    verdict = judge(kept)
    assert {check.is_kept for check in (*verdict.checks, *verdict.levels)} == {None}
    assert "so far: the run is not complete" in report.render(kept, verdict)


def test_report_shows_text_of_the_service_as_text(tmp_path: Path) -> None:
    kept = results(tmp_path, with_=account(WITH, failed={HOSTILE: 2}, answered=11_998), leak=1.0, status=1)
    text = report.write(kept, judge(kept)).read_text()
    assert "overloaded" not in text
    assert "✘ Broken" in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 4
