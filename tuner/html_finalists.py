"""The finalists on a study's page: who met in the final, how sure each figure is, and who cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kernelwright.gen.spec import Variant
from kernelwright.tuner.analysis import finalists
from kernelwright.tuner.choice import Choice
from kernelwright.tuner.intervals import LEVEL, Interval, are_apart, geometric_mean, interval_of, is_tied
from kernelwright.tuner.results import FIGURE_FIELD, Label, Outcome, contenders
from kernelwright.tuner.svg import Range, number, range_chart

_MOST = 16  # of the final, best first
_MOST_SHAPES = 6  # with a chart of their own
_KEY = (
    '<span class="key"><i class="k4">●</i> winner &ensp; <i class="k2">●</i> default &ensp; '
    '<i class="k1">●</i> others{more}</span>'
)
_BANDS = (
    " &ensp; ├─┤ {level:.0%} interval &ensp; <i class='kb'>▮</i> the winner's interval: what reaches into it is not "
    "known to be slower"
)


def shown_finalists(outcomes: Sequence[Outcome], choice: Choice) -> list[Outcome]:
    """Return the kernels of the last final, best first, the default among them; without a final the best points."""
    if choice.winner.final == 0:
        return finalists(outcomes, choice.default)
    return finalists(contenders(outcomes), choice.default, _MOST)


def finalists_text(outcomes: Sequence[Outcome], choice: Choice, label: Label) -> str:
    """Return what the charts and the table show, as HTML."""
    more = ""
    if label == "modelled":
        words = "The best points. Modelled figures have no interval: they come out the same every time."
    elif choice.winner.final == 0:
        words = "The best of the search's estimates: no final was held. Estimates of few samples have no interval."
    else:
        counts = [len(samples) for samples in choice.winner.samples.values()]
        words = (
            f"Final {choice.winner.final} of this study: {len(contenders(outcomes))} kernels timed in turn on every "
            f"shape. Dots are medians of the raw samples, {min(counts)} on each shape, with {LEVEL:.0%} intervals by "
            "order statistics. Points that were not in it are not shown: their estimates are of other minutes."
        )
        more = _BANDS.format(level=LEVEL)
    return f'<p class="soft">{words}</p>{_KEY.format(more=more)}'


def finalists_html(outcomes: Sequence[Outcome], choice: Choice, names: Sequence[str], label: Label) -> str:
    """Return charts over all shapes and for each, and a table.

    Args:
        outcomes: of the study, finals included.
        choice: winner and default.
        names: of the shapes.
        label: of the figures.
    """
    figure, shown = FIGURE_FIELD[label], shown_finalists(outcomes, choice)
    intervals = {one.variant: _bounds(one, names) for one in shown}
    ranges = [
        _range(one, choice, one.score, intervals[one.variant], f"{one.variant.name}: {one.score:,.2f}") for one in shown
    ]
    axis = f"{figure} ({label}), geometric mean over the shapes"
    parts = [range_chart(ranges, axis=axis, band=intervals[choice.winner.variant])]
    if any(intervals.values()) and 1 < len(names) <= _MOST_SHAPES:
        parts += [_shape_chart(shown, choice, name, f"{figure} ({label})") for name in names]
    return "".join([*parts, _table(shown, choice, names, intervals, figure)])


def _shape_chart(shown: Sequence[Outcome], choice: Choice, name: str, axis: str) -> str:
    ranges = []
    for one in shown:
        note = f"{one.variant.name} on {name}: {_raw_text(one, name)}"
        ranges.append(_range(one, choice, one.figures[name], interval_of(one, name), note))
    chart = range_chart(ranges, axis=axis, band=interval_of(choice.winner, name))
    return f"<h3>{escape(name)}</h3>{chart}"


def _raw_text(one: Outcome, name: str) -> str:
    samples = sorted(one.samples.get(name, ()))
    if not samples:
        return f"{one.figures[name]:,.2f}"
    how = f", by {one.methods[name]}" if name in one.methods else ""
    return f"{len(samples)} samples from {samples[0]:,.2f} to {samples[-1]:,.2f}, median {one.figures[name]:,.2f}{how}"


def _range(one: Outcome, choice: Choice, value: float, bounds: Interval | None, note: str) -> Range:
    kind = "win" if one == choice.winner else "default" if one == choice.default else "dot"
    low, high = bounds or (None, None)
    short = one.variant.name.partition("_m")[2]
    return Range(name=f"m{short}", value=value, low=low, high=high, kind=kind, note=note)


def _table(
    shown: Sequence[Outcome],
    choice: Choice,
    names: Sequence[str],
    intervals: dict[Variant, Interval | None],
    figure: str,
) -> str:
    lines = []
    for one in shown:
        bounds = intervals[one.variant]
        interval = "no interval" if bounds is None else f"{number(bounds[0])} to {number(bounds[1])}"
        counts = [len(one.samples.get(name, ())) for name in names]
        cells = [f"{one.score:,.1f}", f"{one.score / choice.winner.score:.3f}", interval, f"{sum(counts) or 'none'}"]
        lines.append(
            f"<tr><td><code>{escape(one.variant.name)}</code></td>"
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + f"<td>{', '.join(_marks(one, choice, names))}</td></tr>"
        )
    return (
        f'<table><tr><th>variant</th><th class="n">{figure}</th><th class="n">of the winner</th>'
        f'<th class="n">interval</th><th class="n">samples</th><th></th></tr>{"".join(lines)}</table>'
    )


def _marks(one: Outcome, choice: Choice, names: Sequence[str]) -> list[str]:
    """Return what there is to say of a finalist: its role, and how it stands against the winner."""
    marks = [word for word, other in (("winner", choice.winner), ("default", choice.default)) if one == other]
    if one == choice.winner:
        return marks
    if is_tied(one, choice.winner, names):
        return [*marks, "tied"]
    apart = [name for name in names if are_apart(interval_of(one, name), interval_of(choice.winner, name))]
    faster = [name for name in apart if one.figures[name] < choice.winner.figures[name]]
    return [*marks, *(f"faster on {name}" for name in faster)]


def _bounds(outcome: Outcome, names: Sequence[str]) -> Interval | None:
    """Return bounds of the score: the geometric means of the shapes' bounds."""
    known = {name: one for name in names if (one := interval_of(outcome, name)) is not None}
    if len(known) < len(names):
        return None
    low, high = (geometric_mean({name: one[side] for name, one in known.items()}, names) for side in (0, 1))
    return low, high
