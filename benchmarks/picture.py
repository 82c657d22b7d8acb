"""A picture of how servers compare: a bar for each, with a line from its worst to its best start. SVG."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2

#: Sizes in the picture, in its own units.
WIDTH, BAR, GAP, LEFT, TOP, RIGHT = 760, 22, 14, 150, 64, 110

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ title }}"
  font-family="system-ui, sans-serif" font-size="14">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="16" y="26" font-size="17" font-weight="600" fill="#1a1a1a">{{ title }}</text>
<text x="16" y="46" fill="#555555">{{ subtitle }}</text>
{% for bar in bars -%}
<text x="{{ left - 10 }}" y="{{ bar.y + 16 }}" text-anchor="end" fill="#1a1a1a"
  {%- if bar.is_ours %} font-weight="600"{% endif %}>{{ bar.name }}</text>
<rect x="{{ left }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ thickness }}" rx="2"
  fill="{{ '#0b6e4f' if bar.is_ours else '#9aa5b1' }}"/>
<path d="M{{ bar.worst }} {{ bar.y + 11 }}H{{ bar.best }}" stroke="#1a1a1a" stroke-width="2"/>
<text x="{{ [left + bar.width, bar.best] | max + 8 }}" y="{{ bar.y + 16 }}" fill="#1a1a1a">{{ bar.label }}</text>
{% endfor -%}
</svg>
"""


@dataclass(frozen=True)
class Bar:
    """One server: requests per second, the median of its starts and the extremes."""

    name: str
    median: float
    worst: float
    best: float


def draw(title: str, subtitle: str, bars: list[Bar], ours: str) -> str:
    """Return the picture. The bar of `ours` stands out."""
    scale = (WIDTH - LEFT - RIGHT) / max(bar.best for bar in bars)
    shown = [
        {
            "name": bar.name,
            "is_ours": bar.name == ours,
            "y": TOP + number * (BAR + GAP),
            "width": round(bar.median * scale, 1),
            "worst": round(LEFT + bar.worst * scale, 1),
            "best": round(LEFT + bar.best * scale, 1),
            "label": f"{bar.median:,.0f}",
        }
        for number, bar in enumerate(sorted(bars, key=lambda bar: -bar.median))
    ]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    height = TOP + len(bars) * (BAR + GAP) + 4
    return template.render(
        title=title, subtitle=subtitle, bars=shown, width=WIDTH, height=height, left=LEFT, thickness=BAR
    )
