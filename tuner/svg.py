"""Charts as SVG text. Colours are classes and variables of the page, so that they follow its light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 16.0, 14.0, 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar of a bar chart: its name, its value, what stands at its end, and its class."""

    name: str
    value: float
    text: str
    kind: str = "bar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a heat map: 0 is the faintest and 1 the strongest; `title` is shown on hovering."""

    row: str
    column: str
    strength: float
    text: str
    title: str
    is_best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A value with bounds, or without where they are not known; `note` is shown on hovering."""

    name: str
    value: float
    low: float | None
    high: float | None
    kind: str = "dot"
    note: str = ""


def svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    """Return a whole drawing; `label` is what a screen reader says."""
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * index for index in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Return a figure with three significant digits, thousands shortened."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """Return one piece of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def progress_chart(
    scores: Sequence[float],
    best: Sequence[float],
    *,
    axis: str,
    kinds: Mapping[int, str] | None = None,
    width: float = 760,
    height: float = 280,
) -> str:
    """Return points by trial, a line for the best so far, and a mark at the top for every failure.

    Args:
        scores, best: of each trial, infinite for failures and before the first success.
        axis: what they are.
        kinds: of some points by index, `hollow` for a rough figure, which is drawn at the upper edge where it is worse
            than all others, `finalist` for a ring around it.
        width, height: of the drawing.
    """
    kinds = kinds or {}
    finite = [one for one in scores if math.isfinite(one)]
    exact = [one for index, one in enumerate(scores) if math.isfinite(one) and kinds.get(index) != "hollow"]
    low, high = min(finite), max(exact or finite)
    pad = (high - low or low) * 0.06
    low, high = low - pad, high + pad
    span_x, span_y = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def x(index: float) -> float:
        return _LEFT + span_x * (index / max(1, len(scores) - 1))

    def y(value: float) -> float:
        return _TOP + span_y * max(0.0, 1 - (value - low) / (high - low))

    parts = []
    for value in ticks(low, high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(text(_LEFT - 8, y(value) + 4, number(value), "axis", "end"))
    for value in ticks(0, max(1, len(scores) - 1), 8):
        if value == int(value):
            parts.append(text(x(value), height - 20, f"{value + 1:.0f}", "axis", "middle"))
    for index, score in enumerate(scores):
        if math.isfinite(score):
            kind = "hollow" if kinds.get(index) == "hollow" else "dot"
            parts.append(f'<circle class="{kind}" cx="{x(index):.1f}" cy="{y(score):.1f}" r="3"/>')
        else:
            cx = x(index)
            parts.append(f'<path class="fail" d="M{cx - 3:.1f} {_TOP - 6}l6 6m0 -6l-6 6"/>')
    steps = [(x(index), y(value)) for index, value in enumerate(best) if math.isfinite(value)]
    line = f"M{steps[0][0]:.1f} {steps[0][1]:.1f}" + "".join(f"H{one:.1f}V{other:.1f}" for one, other in steps[1:])
    parts.append(f'<path class="best" d="{line}"/>')
    for index, kind in kinds.items():  # rings above the line, where they are found
        if kind == "finalist" and math.isfinite(scores[index]):
            parts.append(f'<circle class="finalist" cx="{x(index):.1f}" cy="{y(scores[index]):.1f}" r="4.5"/>')
    parts.append(text(_LEFT, height - 4, "point, in the order tried", "axis"))
    parts.append(text(width - _RIGHT, height - 4, axis, "axis", "end"))
    return svg(width, height, parts, f"best {axis} so far over {len(scores)} points")


def heat_chart(cells: Sequence[Cell], *, rows: Sequence[str], columns: Sequence[str], axes: tuple[str, str]) -> str:
    """Return a heat map; places without a cell stay empty."""
    side_x, side_y, left, top = 84.0, 44.0, 92.0, 34.0
    width, height = left + side_x * len(columns) + 4, top + side_y * len(rows) + 4
    parts = [text(left + side_x * len(columns) / 2, 12, axes[1], "axis", "middle")]
    for index, name in enumerate(columns):
        parts.append(text(left + side_x * (index + 0.5), top - 7, name, "axis", "middle"))
    for index, name in enumerate(rows):
        parts.append(text(left - 10, top + side_y * (index + 0.5) + 4, name, "axis", "end"))
    parts.append(text(0, top + side_y * len(rows) / 2 + 4, axes[0], "axis"))
    found = {(cell.row, cell.column): cell for cell in cells}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            x, y = left + side_x * j, top + side_y * i
            box = f'x="{x + 1:g}" y="{y + 1:g}" width="{side_x - 2:g}" height="{side_y - 2:g}" rx="4"'
            cell = found.get((row, column))
            if cell is None:
                parts.append(f'<rect class="empty" {box}/>')
                continue
            strength = 0.06 + 0.74 * max(0.0, min(1.0, cell.strength))
            best = " chosen" if cell.is_best else ""
            parts.append(
                f'<g><title>{escape(cell.title)}</title><rect class="heat{best}" {box} '
                f'fill-opacity="{strength:.2f}"/>'
                f"{text(x + side_x / 2, y + side_y / 2 + 5, cell.text, 'value', 'middle')}</g>"
            )
    return svg(width, height, parts, f"heat map of {axes[0]} and {axes[1]}")


def bar_chart(bars: Sequence[Bar], *, most: float | None = None, width: float = 620, left: float = 150) -> str:
    """Return horizontal bars from 0 to `most`, by default the largest."""
    step, right = 26.0, 130.0
    top = most if most is not None else max(bar.value for bar in bars) or 1.0
    parts = []
    for index, bar in enumerate(bars):
        y = 4 + step * index
        length = max(1.5, (width - left - right) * min(1.0, bar.value / top))
        parts.append(text(left - 10, y + 14, bar.name, "name", "end"))
        parts.append(f'<rect class="track" x="{left}" y="{y:g}" width="{width - left - right:g}" height="18" rx="3"/>')
        parts.append(f'<rect class="{bar.kind}" x="{left}" y="{y:g}" width="{length:.1f}" height="18" rx="3"/>')
        parts.append(text(width - right + 8, y + 14, bar.text, "value"))
    return svg(width, 8 + step * len(bars), parts, "bars: " + ", ".join(f"{bar.name} {bar.text}" for bar in bars))


def range_chart(
    ranges: Sequence[Range],
    *,
    axis: str,
    band: tuple[float, float] | None = None,
    width: float = 760,
    left: float = 210,
) -> str:
    """Return values as dots, with a line from the lower to the upper bound, over a band that all compare with."""
    step = 24.0
    lows = [one.low if one.low is not None else one.value for one in ranges]
    highs = [one.high if one.high is not None else one.value for one in ranges]
    low, high = min(lows), max(highs)
    pad = (high - low or high) * 0.05
    low, high = low - pad, high + pad
    bottom = step * len(ranges) + 8

    def x(value: float) -> float:
        return left + (width - left - 24) * (value - low) / (high - low)

    parts = []
    if band is not None:
        wide = max(1.5, x(band[1]) - x(band[0]))
        parts.append(f'<rect class="band" x="{x(band[0]):.1f}" y="4" width="{wide:.1f}" height="{bottom - 4:g}"/>')
    for value in ticks(low, high):
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="4" y2="{bottom:g}"/>')
        parts.append(text(x(value), bottom + 16, number(value), "axis", "middle"))
    for index, one in enumerate(ranges):
        y = 4 + step * (index + 0.5)
        parts.append(text(left - 12, y + 4, one.name, "name", "end"))
        if one.low is not None and one.high is not None:
            ends = (x(one.low), x(one.high))
            whiskers = "".join(f"M{end:.1f} {y - 5:g}v10" for end in ends)
            parts.append(f'<path class="span" d="M{ends[0]:.1f} {y:g}H{ends[1]:.1f}{whiskers}"/>')
        title = f"<title>{escape(one.note)}</title>" if one.note else ""
        parts.append(f'<g>{title}<circle class="{one.kind}" cx="{x(one.value):.1f}" cy="{y:g}" r="4"/></g>')
    parts.append(text(width - 24, bottom + 34, axis, "axis", "end"))
    return svg(width, bottom + 40, parts, f"{axis} of {len(ranges)} kernels")
