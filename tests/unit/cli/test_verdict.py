"""The verdict on a rehearsal: no part of it contradicts another, whatever happened and whatever breaks the promise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

import pytest

from flask_socketact.cli.rehearse import output, report, target
from flask_socketact.cli.rehearse.clients import NEW, Group
from flask_socketact.cli.rehearse.command import FAIL_ON
from flask_socketact.cli.rehearse.outcome import MEASURES, NOTICED, Verdict, judge, parse_conditions
from flask_socketact.cli.rehearse.recording import Recording, Restart
from flask_socketact.cli.rehearse.run import Plan

#: A condition for each measure.
CONDITIONS = {name: f"{name}>{0.5 if name in ('wait', 'p99') else 0}" for name in MEASURES}


def recorded(what: Sequence[str], *, took: float = 0.1) -> Recording:
    """Return the recording of a restart in which this happened: these measures are above 0, or above 0.5 s."""
    recording = Recording(["new connection"], seconds=9.0)
    took = 0.9 if "p99" in what else took  # also before the restart: clients do not wait longer than usual
    recording.add(0, 0.0, took, 0.0)
    recording.add(0, 2.0, took + (4.0 if "wait" in what else 0.0), 0.0, "status 502" if "failed" in what else "")
    recording.restarts = [Restart(1.0, 1.5, 1 if "failed-restarts" in what else 0, "no database")]
    if "closed" in what:
        recording.add_closed(0, 1.2)
    return recording


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [some for size in range(len(names) + 1) for some in combinations(names, size)]


def described(recording: Recording, verdicts: Sequence[Verdict]) -> tuple[list[str], list[str]]:
    """Return the parts of a report on each of the verdicts: with its banner, and on failed requests."""
    plan = Plan([Group(NEW, 1, target.parse("http://127.0.0.1:8000/"))], ["systemctl", "restart", "app"])
    page = report.render([report.describe("app", plan, recording, verdict) for verdict in verdicts])
    failed = page.partition('<div id="failed">')[2].partition("</section>")[0]
    return re.findall(r'<section class="run".*?</section>', page, re.DOTALL), re.findall(
        r"<div>(.*?)</div>", failed, re.DOTALL
    )


@pytest.mark.parametrize("what", subsets(list(MEASURES)), ids=" ".join)
def test_a_report_does_not_contradict_itself(what: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    recording = recorded(what)
    chosen = subsets(list(MEASURES))[1:]
    verdicts = [judge(recording, parse_conditions(",".join(CONDITIONS[name] for name in names))) for names in chosen]
    for names, verdict, part, failed in zip(chosen, verdicts, *described(recording, verdicts), strict=True):
        above = {*what, "p99"} if "wait" in what else set(what)
        broken = above.intersection(names)
        noticed = bool(above.intersection(("failed", "closed", "wait"))) or "p99" in broken
        assert verdict.is_kept == (not broken)
        headline = re.search(r"<strong>. (.*)</strong>", part)
        assert headline
        assert headline[1].startswith("Broken" if broken else "Kept")
        assert ("no client noticed" in headline[1]) == (not noticed)
        told = part.partition("</strong>")[2].partition("<div")[0].replace("&gt;", ">")
        assert all(f"{CONDITIONS[name]}: " in told for name in broken)
        bad = set(re.findall(r'"([\w ]+)" class="bad"', part.partition('class="all"')[2]))
        assert {"longest wait" if name == "wait" else name for name in broken - {"failed-restarts"}} <= bad
        assert ("none." in failed) == (not noticed and "failed-restarts" not in what)
        assert ("connection" in failed) == ("closed" in what and "failed" not in what)
        assert ("longest wait" in failed) == ("wait" in what and "failed" not in what)
        assert ("1 restart failed" in failed) == ("failed-restarts" in what and "failed" not in what)
        output.show(recording, verdict)
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("Broken: " if broken else "Kept")
        assert broken or ("no client noticed" in last) == (not noticed)


def test_usually_the_promise_is_that_clients_notice_nothing() -> None:
    assert parse_conditions(FAIL_ON) == [*NOTICED, *parse_conditions("failed-restarts>0")]


def test_a_limit_that_is_always_reached_is_nothing_that_clients_notice() -> None:
    verdict = judge(recorded([]), parse_conditions("failed>=0"))
    assert verdict.headline == "Broken, but no client noticed"


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("p99>0.5", "p99>0.5: 0.50001"),
        ("p99>0.4", "p99>0.4: 0.5"),
        ("p99>=0.50001", "p99>=0.50001: 0.50001"),
        ("closed>0", "closed>0: 12,345"),
    ],
)
def test_the_digits_of_a_value_show_that_a_condition_holds(condition: str, told: str) -> None:
    recording = recorded([], took=0.50001)
    for _ in range(12_345):
        recording.add_closed(0, 1.2)
    assert judge(recording, parse_conditions(condition)).broken == [told]
