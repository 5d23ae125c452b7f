"""A study as one HTML file: no script, no network, light or dark as the reader's browser is set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from kernelwright.gen.devices import Device
from kernelwright.tuner.analysis import (
    best_so_far,
    describe_point,
    heat_map,
    importance,
    share_of_ceiling,
)
from kernelwright.tuner.choice import Choice
from kernelwright.tuner.export import StudyFacts
from kernelwright.tuner.html_finalists import finalists_html, finalists_text
from kernelwright.tuner.report import bounds_text
from kernelwright.tuner.results import FIGURE_FIELD, Outcome, contenders
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.svg import Bar, Cell, bar_chart, heat_chart, number, progress_chart

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #ffffff; --ink: #1d2327; --soft: #5b666e;
  --line: #dfe3e4; --accent: #0b6e99; --second: #b7791f; --bad: #b83232; --good: #2c7a4b; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181b; --card: #1c2226; --ink: #e8ecee;
  --soft: #9aa7af; --line: #313a40; --accent: #58b4dc; --second: #e0b050; --bad: #f08a8a; --good: #7cc79a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 0 0 4px; }
h3 { font-size: 13.5px; margin: 14px 0 0; font-weight: 600; }
p { margin: 4px 0 12px; }
.soft { color: var(--soft); }
code { font: 12.5px ui-monospace, monospace; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin-top: 18px; overflow-x: auto; }
.badge { display: inline-block; border-radius: 20px; padding: 1px 12px; font-size: 13px; font-weight: 600;
  border: 1.5px solid currentColor; vertical-align: 3px; margin-left: 8px; }
.modelled { color: var(--second); }
.measured { color: var(--good); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 18px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 22px; line-height: 1.3; }
.tile span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin-top: 10px; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr:last-child td { border-bottom: 0; }
svg { display: block; max-width: 100%; height: auto; margin-top: 6px; }
svg text { font: 12.5px system-ui, sans-serif; fill: var(--ink); }
svg .axis { fill: var(--soft); }
svg .grid { stroke: var(--line); }
svg .track { fill: var(--line); fill-opacity: .45; }
svg .bar, svg .heat { fill: var(--accent); }
svg .second { fill: var(--second); }
svg .badbar { fill: var(--bad); }
svg .dot { fill: var(--accent); fill-opacity: .75; }
svg .default { fill: var(--second); }
svg .win { fill: var(--good); }
svg .best { fill: none; stroke: var(--second); stroke-width: 2; }
svg .fail { stroke: var(--bad); stroke-width: 1.6; }
svg .hollow { fill: var(--card); stroke: var(--accent); stroke-opacity: .75; stroke-width: 1.3; }
svg .finalist { fill: none; stroke: var(--good); stroke-width: 2; }
svg .span { fill: none; stroke: var(--soft); stroke-width: 2; stroke-linecap: round; }
svg .band { fill: var(--good); fill-opacity: .14; }
svg .empty { fill: var(--line); fill-opacity: .25; }
svg .chosen { stroke: var(--second); stroke-width: 2.5; }
svg .value { font-variant-numeric: tabular-nums; }
.key { font-size: 13px; color: var(--soft); }
.key i { font-style: normal; font-weight: 700; }
.k1 { color: var(--accent); }
.k2 { color: var(--second); }
.k3 { color: var(--bad); }
.k4 { color: var(--good); }
.kb { color: var(--good); opacity: .4; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a report is about.

    Args:
        facts: where the results come from.
        outcomes: what is known of each point, finals included.
        choice: the best, the runner-up and the default.
        rows: of the table that these results make.
        shapes: that kernels were judged on.
        device: whose ceilings the shares are of.
        searched: the search's own estimates, in the order of the search; None if these are the outcomes.
        notes: what else the reader must know.
    """

    facts: StudyFacts
    outcomes: Sequence[Outcome]
    choice: Choice
    rows: Sequence[Mapping[str, Any]]
    shapes: Sequence[Shape]
    device: Device
    searched: Sequence[Outcome] | None = None
    notes: Sequence[str] = ()

    @property
    def estimates(self) -> Sequence[Outcome]:
        """Figures of the search alone: those of a final are minutes or days apart from them."""
        return self.outcomes if self.searched is None else self.searched


def page(study: Study) -> str:
    """Return the whole file."""
    facts = study.facts
    figure = FIGURE_FIELD[facts.label]
    head = (
        f'<h1>{escape(facts.study)}<span class="badge {facts.label}">{facts.label}</span></h1>'
        f'<p class="soft">{escape(_origin(facts))}</p>'
    )
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in study.notes)
    sections = [
        _section("Best so far", _progress(study, figure), _PROGRESS_KEY),
        _section(
            "Tiles",
            _heat(study),
            f"Best {figure} of each tile size in the search ({facts.label}), relative to the best of all.",
        ),
        _section("What decides", *_importance(study)),
        _section("Share of the ceiling", _ceiling(study), _CEILING_TEXT.format(label=facts.label)),
        _section(
            "Finalists",
            finalists_html(study.outcomes, study.choice, [shape.name for shape in study.shapes], facts.label),
            finalists_text(study.outcomes, study.choice, facts.label),
        ),
        _section("Table", _table(study, figure), _cover_text(study)),
        _section("Failures", *_failures(study)),
        _section("Provenance", _provenance(facts), ""),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(facts.study)} ({facts.label})</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{head}{notes}{_tiles(study)}{''.join(sections)}\n</main>\n</body>\n</html>\n"
    )


_PROGRESS_KEY = (
    '<span class="key"><i class="k1">●</i> a point &ensp; <i class="k1">○</i> dropped early on some shape &ensp; '
    '<i class="k4">◯</i> in the final &ensp; <i class="k2">━</i> best so far &ensp; <i class="k3">✕</i> failed</span>'
)
_CEILING_TEXT = (
    "How much of the modelled ceiling each kernel reaches on each shape ({label} figures; the ceiling is modelled: "
    "tensor cores at boost clock, or every byte moved once, whichever takes longer)."
)


def _origin(facts: StudyFacts) -> str:
    what = "computed by a model, not by a clock" if facts.label == "modelled" else "timed on this GPU"
    return f"{facts.identity.device}, {facts.day.isoformat()}. Figures are {facts.label}: {what}."


def _section(title: str, body: str, words: str) -> str:
    text = words if words.startswith("<") or not words else f'<p class="soft">{escape(words)}</p>'
    return f"\n<section><h2>{escape(title)}</h2>{text}{body}</section>"


def _tiles(study: Study) -> str:
    choice, failed = study.choice, sum(one.status != "ok" for one in study.outcomes)
    dropped = sum(bool(one.dropped) for one in study.estimates)
    default = choice.default
    gain = "none" if default is None else f"{default.score / choice.winner.score:.2f}x"
    shown = [
        (f"{len(study.outcomes)} of {study.facts.num_points}", "points tried"),
        (str(failed), "failed"),
        *([(str(dropped), "dropped early on some shape")] if dropped else []),
        (gain, "the default, against the winner"),
        (str(len({row["kernel"] for row in study.rows})), f"kernels for {len(study.shapes)} shapes"),
    ]
    inner = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in shown
    )
    return f'<div class="tiles">{inner}</div>'


def _progress(study: Study, figure: str) -> str:
    scores = [one.score for one in study.estimates]
    last = {one.variant for one in contenders(study.outcomes) if one.final}
    kinds = {index: "hollow" for index, one in enumerate(study.estimates) if one.dropped}
    kinds |= {index: "finalist" for index, one in enumerate(study.estimates) if one.variant in last}
    axis = f"{figure}, geometric mean over the shapes"
    return progress_chart(scores, best_so_far(study.estimates), axis=axis, kinds=kinds)


def _heat(study: Study) -> str:
    found = heat_map(study.estimates)
    best = min(one.score for one in found.values())
    worst = max(one.score for one in found.values())
    rows, columns = (sorted({key[axis] for key in found}) for axis in (0, 1))
    cells = [
        Cell(
            row=str(m),
            column=str(n),
            strength=1.0 if worst == best else (worst - one.score) / (worst - best),
            text=f"{one.score / best:.2f}x",
            title=f"{describe_point(one)}: {one.score:,.1f}",
            is_best=one.score == best,
        )
        for (m, n), one in found.items()
    ]
    return heat_chart(
        cells, rows=[str(one) for one in rows], columns=[str(one) for one in columns], axes=("block_m", "block_n")
    )


def _importance(study: Study) -> tuple[str, str]:
    found = importance(study.estimates)
    if found is None:
        return "", "Too few points succeeded to tell."
    order = sorted(found.shares.items(), key=lambda one: -one[1])
    bars = [Bar(name=name, value=share, text=f"{share:.0%}") for name, share in order]
    words = f"Importance of each field of the schedule, by {found.method}, over the points that succeeded."
    return bar_chart(bars, most=1.0), words


def _ceiling(study: Study) -> str:
    choice, label = study.choice, study.facts.label
    bars = []
    for shape in study.shapes:
        for name, one, kind in (("winner", choice.winner, "bar"), ("default", choice.default, "second")):
            if one is not None and (name == "winner" or one is not choice.winner):
                share = share_of_ceiling(one, shape, study.device, label)
                bars.append(Bar(name=f"{shape.name} {name}", value=share, text=f"{share:.0%}", kind=kind))
    return bar_chart(bars, most=1.0, left=270, width=760)


def _table(study: Study, figure: str) -> str:
    lines = []
    for row in study.rows:
        when = ", ".join(f"{size} {bounds_text(*bounds)}" for size, bounds in row["when"].items()) or "any size"
        evidence = row["evidence"]
        other = row["runner_up"]
        second = (
            "" if other is None else f"{other['variant']} ({number(other[figure])}{', tied' if other['tied'] else ''})"
        )
        lines.append(
            f"<tr><td>{escape(when)}</td><td><code>{escape(row['kernel'])}</code></td>"
            f'<td class="n">{number(evidence["score"])}</td><td>{escape(evidence["standing"])}</td>'
            f"<td><code>{escape(second)}</code></td></tr>"
        )
    return (
        f'<table><tr><th>sizes</th><th>kernel</th><th class="n">{figure}</th><th>standing</th><th>runner-up</th></tr>'
        f"{''.join(lines)}</table>"
    )


def _cover_text(study: Study) -> str:
    facts = study.rows[0]["evidence"]["cover"]
    missed = "" if facts["meets_bounds"] else " The bounds of 5 % and 1.5 % are not met."
    return (
        f"Rows that these results make ({study.facts.label}): at most {facts['worst_loss']:.1%} behind the best kernel "
        f"of a shape, {facts['geomean_loss']:.1%} in the geometric mean; search of the set: {facts['method']}.{missed}"
    )


def _failures(study: Study) -> tuple[str, str]:
    failed = [one for one in study.outcomes if one.status != "ok"]
    if not failed:
        return "", "No point failed."
    counts = Counter(one.kind for one in failed)
    bars = [Bar(name=kind, value=count, text=str(count), kind="badbar") for kind, count in counts.most_common()]
    lines = "".join(
        f"<tr><td><code>{escape(one.variant.name)}</code></td><td>{one.kind}</td>"
        f"<td>{escape(one.detail.splitlines()[0][:160] if one.detail else '')}</td></tr>"
        for one in failed[:20]
    )
    more = "" if len(failed) <= 20 else f'<p class="soft">and {len(failed) - 20} more</p>'
    table = f"<table><tr><th>variant</th><th>kind</th><th>what happened</th></tr>{lines}</table>{more}"
    return bar_chart(bars) + table, "Points that failed, by kind. They are not tried again unless asked for."


def _provenance(facts: StudyFacts) -> str:
    identity = facts.identity
    shown = {
        "space": facts.space,
        "device": identity.device,
        "driver": facts.gpu.driver if facts.gpu else "none: modelled",
        "toolkit": identity.toolkit,
        "figures by": identity.scorer,
        "source digest": identity.source_digest,
        "space digest": identity.space_digest,
    }
    lines = "".join(
        f"<tr><th>{escape(key)}</th><td><code>{escape(str(value))}</code></td></tr>" for key, value in shown.items()
    )
    return f"<table>{lines}</table>"
