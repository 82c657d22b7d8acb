"""Lines of charts, as paths of SVG. A chart is 1,000 wide and 100 high, and stretched to its place on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log10

WIDTH, HEIGHT = 1000, 100
#: More points are thinned out to means.
_MOST = 400

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """Maps values to a chart."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def around(cls, lines: Iterable[Points]) -> Scale:
        """Return a scale that shows all lines, with a margin; a level one is in the middle."""
        points = [point for line in lines for point in line] or [(0.0, 0.0)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        margin = (max(ys) - min(ys)) * 0.1 or max(abs(max(ys)) * 0.1, 0.5)
        return cls(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, min(ys) - margin, max(ys) + margin)

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.left) / (self.right - self.left) * WIDTH
        down = (self.top - y) / (self.top - self.bottom) * HEIGHT
        return across, down

    def line(self, points: Points) -> str:
        """Return a path through points."""
        placed = [self.place(x, y) for x, y in points]
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed) if placed else ""

    def dots(self, points: Points) -> str:
        """Return a path of dots: lines without a length, whose ends are round."""
        return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in (self.place(x, y) for x, y in points))


def thin(points: Points) -> list[tuple[float, float]]:
    """Return at most 400 points: means of neighbors."""
    size = -(-len(points) // _MOST) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def nines(percent: float) -> float:
    """Return where a percentile is on an axis on which 90, 99, 99.9 … have the same distance."""
    return -log10(1 - percent / 100)
