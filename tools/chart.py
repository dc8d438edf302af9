"""One line chart as SVG: readable at the width of a phone, in light and in dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 480, 380
_LEFT, _RIGHT, _BOTTOM = 52, 14, 46
_STYLE = """
  text { font: 14px system-ui, sans-serif; fill: var(--ink) }
  .title { font-weight: 600; font-size: 15px }
  svg { --ink: #1f2937; --grid: #d1d5db; --page: #ffffff;
        --c0: #047857; --c1: #b45309; --c2: #1d4ed8; --c3: #be185d; --c4: #6b7280 }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e5e7eb; --grid: #4b5563; --page: #1f2129;
          --c0: #34d399; --c1: #fbbf24; --c2: #60a5fa; --c3: #f472b6; --c4: #9ca3af }
  }
  .page { fill: var(--page) } .grid { stroke: var(--grid); fill: none } .even { stroke: var(--ink); stroke-width: 1.5 }
  .line { fill: none; stroke-width: 2.5 }
"""
_DASH = ("", "", "7 4", "2 4", "10 4 2 4")


@dataclass(frozen=True)
class Chart:
    """Lines by name over a share of zeros in per cent; y on a logarithmic axis. even: a line that is drawn across."""

    name: str
    title: str
    y: str
    lines: Mapping[str, Points]
    says: str
    x: str = "zeros, %"
    even: float | None = None


def svg(chart: Chart) -> str:
    """The chart as the text of an SVG file."""
    xs = sorted({x for points in chart.lines.values() for x, _ in points})
    ys = [y for points in chart.lines.values() for _, y in points]
    ys += [chart.even] if chart.even is not None else []
    ticks = _ticks(min(ys), max(ys))
    top = 40 + 20 * len(_rows(chart))

    def at_x(x: float) -> float:
        return _LEFT + 8 + (x - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - _LEFT - _RIGHT - 24)

    def at_y(y: float) -> float:
        low, high = math.log(ticks[0]), math.log(ticks[-1])
        return HEIGHT - _BOTTOM - (math.log(y) - low) / (high - low) * (HEIGHT - _BOTTOM - top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        f' width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{escape(chart.title)}</title><desc>{escape(chart.says)}</desc><style>{_STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="12" y="24">{escape(chart.title)}</text>',
        *_legend(chart),
    ]
    for tick in ticks:
        y = at_y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 5:.1f}" text-anchor="end">{tick:g}</text>')
    if chart.even is not None:
        parts.append(f'<path class="even" d="M{_LEFT} {at_y(chart.even):.1f}H{WIDTH - _RIGHT}"/>')
    for x in xs:
        parts.append(f'<text x="{at_x(x):.1f}" y="{HEIGHT - _BOTTOM + 20}" text-anchor="middle">{x:g}</text>')
    for i, points in enumerate(chart.lines.values()):
        path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in points)
        parts.append(f'<path class="line" stroke="var(--c{i})" stroke-dasharray="{_DASH[i]}" d="M{path}"/>')
        parts += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.5" fill="var(--c{i})"/>' for x, y in points]
    parts.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(chart.x)}</text>')
    parts.append(f'<text x="12" y="{HEIGHT - 8}">{escape(chart.y)}</text></svg>\n')
    return "\n".join(parts)


def _rows(chart: Chart) -> list[list[int]]:
    """Which lines are named in which row of the legend."""
    rows, used = [list[int]()], 12
    for i, name in enumerate(chart.lines):
        width = 40 + 8 * len(name)
        if rows[-1] and used + width > WIDTH:
            rows.append([])
            used = 12
        rows[-1].append(i)
        used += width
    return rows


def _legend(chart: Chart) -> list[str]:
    names, parts = list(chart.lines), list[str]()
    for row, lines in enumerate(_rows(chart)):
        x, y = 12, 46 + 20 * row
        for i in lines:
            parts.append(
                f'<path class="line" stroke="var(--c{i})" stroke-dasharray="{_DASH[i]}" d="M{x} {y - 5}h24"/>'
                f'<text x="{x + 29}" y="{y}">{escape(names[i])}</text>'
            )
            x += 40 + 8 * len(names[i])
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around the values."""
    all_ticks = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
    first = max(i for i, t in enumerate(all_ticks) if t <= low)
    last = min(i for i, t in enumerate(all_ticks) if t >= high)
    return all_ticks[first : max(last, first + 1) + 1]
