"""Whether a line rises: least squares, with a confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import NormalDist, fmean

CONFIDENCE = 0.99
#: Fewer points say too little; these are also enough for the quantile below.
LEAST = 20


@dataclass(frozen=True)
class Slope:
    """A straight line through points; units are those of the points."""

    slope: float
    error: float  #: half of the confidence interval
    growth: float  #: from the first point to the last
    noise: float  #: standard deviation of the points around the line
    points: int

    @property
    def is_judged(self) -> bool:
        """Return whether there are enough points."""
        return self.points >= LEAST

    @property
    def rises(self) -> bool:
        """Return whether the line rises.

        It does if that is hardly chance, and if it has risen by more than the points scatter: otherwise a rise of a
        kilobyte would count, too.
        """
        return self.is_judged and self.slope > self.error and self.growth > self.noise


def fit(groups: Sequence[Sequence[tuple[float, float]]]) -> Slope:
    """Return the common slope of groups of points, each with an offset of its own (a run that was resumed has several).

    Neighbors that resemble each other count as fewer points (lag-1 autocorrelation, as for climate trends).
    """
    pairs = [pair for group in groups for pair in _centered(group)]
    points, spread = len(pairs), sum(x * x for x, _ in pairs)
    if points < 3 or spread == 0:
        return Slope(0.0, 0.0, 0.0, 0.0, points)
    slope = sum(x * y for x, y in pairs) / spread
    rest = [y - slope * x for x, y in pairs]
    squares = sum(r * r for r in rest)
    alike = sum(one * next_ for one, next_ in pairwise(rest)) / squares if squares else 0.0
    alike = min(max(alike, 0.0), 0.99)
    freedom = max(points * (1 - alike) / (1 + alike) - 1 - len(groups), 1.0)
    growth = slope * sum(group[-1][0] - group[0][0] for group in groups if group)
    return Slope(slope, _quantile(freedom) * sqrt(squares / freedom / spread), growth, sqrt(squares / points), points)


def _centered(group: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if not group:
        return []
    middle, level = fmean(x for x, _ in group), fmean(y for _, y in group)
    return [(x - middle, y - level) for x, y in group]


def _quantile(freedom: float) -> float:
    """Return Student's t for :data:`CONFIDENCE`, by Cornish and Fisher's expansion."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
