"""The report: one self-contained HTML file, in the style of ``flask-socketact rehearse``, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any

import jinja2

from flask_socketact import files
from flask_socketact.text import duration
from tests.soak import plan, results
from tests.soak.latency import PERCENTILES, Latency
from tests.soak.levels import LINES
from tests.soak.plan import WITH, WITHOUT
from tests.soak.report.charts import Points, Scale, nines, thin
from tests.soak.results import Results
from tests.soak.slope import LEAST, Slope
from tests.soak.verdict import JUDGED, Verdict, level_points

NAME = "report.html"
_HERE = Path(__file__).parent
_LISTED = 20  #: failed restarts, and messages of the journal
#: Points of the curve of percentiles.
_CURVE = [100 * (1 - 10 ** (-step / 20)) for step in range(101)]


@dataclass(frozen=True)
class Chart:
    """Paths, each with a class of CSS; what stands at the left, and below."""

    paths: list[tuple[str, str]]
    top: str
    bottom: str
    marks: list[str]  #: below, at the same distance from each other
    meaning: str  #: for screen readers


def write(kept: Results, verdict: Verdict) -> Path:
    """Write the report into the folder of the results; return its path."""
    path = kept.folder / NAME
    files.write(path, render(kept, verdict))
    return path


def render(kept: Results, verdict: Verdict) -> str:
    """Return the report as HTML."""
    loaders = [
        jinja2.FileSystemLoader(_HERE),
        jinja2.PackageLoader("flask_socketact.cli.rehearse", "report"),  # its style
    ]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["duration"] = duration
    restarts = kept.of(results.RESTART)
    return environment.get_template("soak.html").render(
        settings=kept.settings,
        sessions=kept.of(results.SESSION),
        verdict=verdict,
        percentiles=PERCENTILES,
        parts={WITHOUT: "without restarts", WITH: "with restarts"},
        with_=WITH,
        judged=JUDGED,
        is_complete=len(kept.of(results.PHASE)) == len(plan.phases(kept.settings)),
        restarts=restarts,
        least=LEAST,
        failed_restarts=[restart for restart in restarts if restart["status"] != 0][:_LISTED],
        warnings=_warnings(kept)[:_LISTED],
        curve=_curve(verdict),
        timeline=_timeline(kept),
        durations=_durations(restarts),
        levels=[(*LINES[line], verdict.slopes[line], chart) for line, chart in _levels(kept, verdict.slopes).items()],
    )


def _warnings(kept: Results) -> list[tuple[str, int]]:
    """Return the warnings of the journal, and how often each came; the most frequent first."""
    counted: dict[str, int] = {}
    for sample in kept.of(results.SAMPLE):
        for message in sample["warnings"]:
            counted[message] = counted.get(message, 0) + 1
    return sorted(counted.items(), key=lambda pair: -pair[1])


def _curve(verdict: Verdict) -> Chart:
    """Return the response time of each percentile, with and without restarts, on logarithmic axes."""
    lines = {}
    for name, part in verdict.parts.items():
        known = [percent for percent in _CURVE if len(part.latency) * (1 - percent / 100) >= 1]
        lines[name] = [(nines(percent), _log(part.latency.percentile(percent))) for percent in known]
    scale = Scale.around(lines.values())
    scale = Scale(0.0, 5.0, scale.bottom, scale.top)
    paths = [(name, scale.line(points)) for name, points in lines.items()]
    marks = ["0", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]
    return _logarithmic(paths, scale, marks, "response time of each percentile, with and without restarts")


def _timeline(kept: Results) -> Chart:
    """Return the median and the 99.9th percentile of each interval over the whole run."""
    dots: dict[str, list[tuple[float, float]]] = {}
    now, failed = 0.0, []
    for record in kept.of(results.REQUESTS):
        if record["phase"] in (WITH, WITHOUT) and record["answered"] >= 100:
            latency = Latency.of([record["histogram"]])
            for kind, percent in (("median", 50.0), ("slowest", JUDGED)):
                dots.setdefault(f"{record['phase']} {kind}", []).append((now, _log(latency.percentile(percent))))
        if record["failed"] or record["closed"]:
            failed.append(now)
        now += record["seconds"]
    scale = Scale.around(dots.values())
    paths = [(name, scale.dots(points)) for name, points in dots.items()]
    paths.append(("failure", "".join(f"M{scale.place(at, 0)[0]:.1f} 90v10" for at in failed)))
    marks = [duration(now * part / 4) if part else "0" for part in range(5)]
    return _logarithmic(paths, scale, marks, "median and 99.9th percentile of the response time over the whole run")


def _durations(restarts: Sequence[dict[str, Any]]) -> Chart:
    points = {
        verb: thin([(each["number"], each["seconds"]) for each in restarts if each["verb"] == verb])
        for verb in ("restart", "reload")
    }
    around = Scale.around(points.values())
    scale = Scale(around.left, around.right, 0.0, around.top)
    paths = [(verb, scale.dots(line)) for verb, line in points.items()]
    marks = ["1", f"{len(restarts):,}"]
    return Chart(paths, duration(scale.top), "0", marks, "seconds that each restart and each reload took")


def _levels(kept: Results, slopes: dict[str, Slope]) -> dict[str, Chart]:
    charts = {}
    for line, sessions in level_points(kept).items():
        lines = [thin(points) for points in sessions if points]
        scale = Scale.around(lines)
        paths = [("level", scale.line(points)) for points in lines]
        paths += [("fit", scale.line(_fitted(points, slopes[line].slope))) for points in lines]
        last = max((points[-1][0] for points in lines), default=0.0)
        bottom, top = f"{round(scale.bottom):,}", f"{round(scale.top):,}"
        marks = ["0", f"{last * 1000:,.0f} restarts"]
        charts[line] = Chart(paths, top, bottom, marks, f"{LINES[line][0]} over the restarts")
    return charts


def _fitted(points: Points, slope: float) -> Points:
    middle = sum(x for x, _ in points) / len(points)
    level = sum(y for _, y in points) / len(points)
    return [(x, level + slope * (x - middle)) for x in (points[0][0], points[-1][0])]


def _logarithmic(paths: list[tuple[str, str]], scale: Scale, marks: list[str], meaning: str) -> Chart:
    return Chart(paths, duration(10**scale.top), duration(10**scale.bottom), marks, meaning)


def _log(seconds: float) -> float:
    return log10(max(seconds, 1e-6))
