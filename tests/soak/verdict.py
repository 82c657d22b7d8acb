"""What the results say: an account of all requests, the response times, the level lines, and whether all is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flask_socketact.text import duration
from tests.soak import results
from tests.soak.latency import PERCENTILES, Latency
from tests.soak.levels import LINES, OLD
from tests.soak.plan import WARM_UP, WITH, WITHOUT
from tests.soak.results import Results
from tests.soak.slope import Slope, fit

#: Most that the response time of 999 requests of 1,000 may grow by restarts.
RATIO, JUDGED = 1.5, 99.9
#: Fewer requests of a part do not tell its 99.9th percentile.
_LEAST = 10_000
#: The part of the rate that must have been sent.
_HELD = 0.99
#: Restarts per unit of a slope.
PER = 1000


@dataclass(frozen=True)
class Account:
    """The requests of some phases."""

    seconds: float
    sent: int
    skipped: int
    answered: int
    failed: Counter[str]  #: by reason
    closed: int
    opened: int
    unknown: int  #: in flight when the client was killed
    waiting: int  #: most requests that were due and had no connection, at the end of an interval
    late: float
    latency: Latency

    @property
    def unaccounted(self) -> int:
        """Requests that were sent, and no record tells what became of them. It is meant for all phases together."""
        return self.sent - self.answered - self.failed.total() - self.unknown


@dataclass(frozen=True)
class Check:
    """A condition, what was found, and whether it is kept; None: too little to tell."""

    name: str
    found: str
    wanted: str
    is_kept: bool | None


@dataclass(frozen=True)
class Verdict:
    """All that the report shows, but the charts."""

    total: Account  #: of all phases, the warm-up included
    parts: dict[str, Account]  #: without, and with restarts
    slopes: dict[str, Slope]  #: of each line, per 1,000 restarts
    checks: list[Check]
    levels: list[Check]  #: one for each line

    @property
    def is_kept(self) -> bool:
        """Return whether no condition is broken."""
        return all(check.is_kept is not False for check in (*self.checks, *self.levels))

    def ratio(self, percent: float) -> float:
        """Return the response time with restarts divided by that without; 0.0 if there is none."""
        without = self.parts[WITHOUT].latency.percentile(percent)
        return self.parts[WITH].latency.percentile(percent) / without if without else 0.0


def judge(kept: Results) -> Verdict:
    """Return the verdict on a run, complete or not."""
    requests = kept.of(results.REQUESTS)
    total = _account(requests)
    parts = {name: _account(r for r in requests if r["phase"] == name) for name in (WITHOUT, WITH)}
    slopes = {line: fit(points) for line, points in level_points(kept).items()}
    levels = [_check_level(line, slope) for line, slope in slopes.items()]
    verdict = Verdict(total, parts, slopes, [], levels)
    verdict.checks.extend(
        [
            *_check_requests(total),
            _check_restarts(kept.of(results.RESTART)),
            _check_rate(kept.settings.rate, total, requests),
            _check_latency(verdict),
        ]
    )
    return verdict


def level_points(kept: Results) -> dict[str, list[list[tuple[float, float]]]]:
    """Return each line: for each session, points of restarts / 1,000 and the value; without those of the warm-up.

    Samples with old workers count for :data:`OLD` only: on a busy machine they may still drain, and use memory.
    """
    samples = [sample for sample in kept.of(results.SAMPLE) if sample["phase"] == WITH]
    sessions: dict[int, list[dict[str, Any]]] = {}
    for sample in samples:
        sessions.setdefault(sample["session"], []).append(sample)
    warm = [session[_warm_up(len(session)) :] for session in sessions.values()]
    return {
        line: [
            [(each["restarts"] / PER, each["lines"][line]) for each in session if line == OLD or not each["lines"][OLD]]
            for session in warm
        ]
        for line in LINES
    }


def _warm_up(samples: int) -> int:
    """Return how many of the first samples of a session do not count."""
    return min(20, max(3, samples // 10))


def _account(records: Iterable[dict[str, Any]]) -> Account:
    listed = list(records)
    failed: Counter[str] = Counter()
    for record in listed:
        failed.update(record["failed"])
    last = {record["session"]: record for record in listed}.values()
    return Account(
        sum(record["seconds"] for record in listed),
        sum(record["sent"] for record in listed),
        sum(record["skipped"] for record in listed),
        sum(record["answered"] for record in listed),
        failed,
        sum(record["closed"] for record in listed),
        sum(record["opened"] for record in listed),
        sum(record["in_flight"] for record in last if not record["is_last"]),
        max((record["waiting"] for record in listed), default=0),
        max((record["late"] for record in listed), default=0.0),
        Latency.of(record["histogram"] for record in listed),
    )


def _check_requests(total: Account) -> list[Check]:
    failed, lost = total.failed.total(), total.unaccounted
    return [
        Check("failed requests", f"{failed:,} of {total.sent:,}", "0", failed == 0 if total.sent else None),
        Check("connections closed by the server", f"{total.closed:,}", "0", total.closed == 0 if total.sent else None),
        Check("requests not accounted for", f"{lost:,}", "0", lost == 0 if total.sent else None),
    ]


def _check_restarts(restarts: Sequence[dict[str, Any]]) -> Check:
    failed = sum(restart["status"] != 0 for restart in restarts)
    return Check(
        "failed restarts and reloads", f"{failed:,} of {len(restarts):,}", "0", not failed if restarts else None
    )


def _check_rate(rate: float, total: Account, requests: Sequence[dict[str, Any]]) -> Check:
    """Check that the load was steady: requests that were due were sent."""
    measured = [record for record in requests if record["phase"] != WARM_UP]
    seconds, sent = sum(r["seconds"] for r in measured), sum(r["sent"] for r in measured)
    found = f"{sent / seconds if seconds else 0.0:,.0f} per second"
    if not rate:
        return Check("requests sent", found, "as many as the server takes", None)
    held = sent >= _HELD * rate * seconds and not total.skipped
    return Check("requests sent", found, f"{rate:,.0f} per second", held if seconds else None)


def _check_latency(verdict: Verdict) -> Check:
    with_, without = (verdict.parts[name].latency for name in (WITH, WITHOUT))
    found = f"{duration(with_.percentile(JUDGED))} with, {duration(without.percentile(JUDGED))} without"
    is_enough = min(len(with_), len(without)) >= _LEAST
    ratio = verdict.ratio(JUDGED)
    return Check(
        f"response time of 99.9 % of the requests: {ratio:.2f} times as long with restarts",
        found,
        f"at most {RATIO} times",
        ratio <= RATIO if is_enough else None,
    )


def _check_level(line: str, slope: Slope) -> Check:
    name, unit = LINES[line]
    found = f"{slope.slope:+,.1f} ± {slope.error:,.1f} {unit}".rstrip() + f" per {PER:,} restarts"
    return Check(name, found, "level", not slope.rises if slope.is_judged else None)


def percentiles(latency: Latency) -> list[float]:
    """Return the seconds of the percentiles that are shown."""
    return [latency.percentile(percent) for percent in PERCENTILES]
