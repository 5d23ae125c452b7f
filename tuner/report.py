"""The results of a tuning run, for people and for machines. The label stands in every heading and every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernelwright.gen.devices import Device
from kernelwright.gen.plan import predict_cost
from kernelwright.tuner.choice import Choice
from kernelwright.tuner.export import failures
from kernelwright.tuner.pool import Pool
from kernelwright.tuner.results import FIGURE_FIELD, Label, Outcome, ranked
from kernelwright.tuner.space import Space, described

_SHOWN = 8
MODEL_RESOLUTION = 0.10
"""Orders of points that the model sets further apart than this are reliable (compared with published tiles)."""

JUDGE_SECONDS = 2.0
"""Of a core, to verify one kernel in the emulator and score it; modelled from runs on two cores."""


def describe_pool(space: Space, device: Device, pool: Pool) -> dict[str, object]:
    """Return the space's points and refusals as plain values."""
    return {
        "space": space.name,
        "operation": space.operation,
        "arch": f"sm{space.sm}",
        "device": device.name,
        "problem": {name: getattr(space.problem, name) for name in ("dtype", "head_dim", "is_causal")},
        "points": pool.num_points,
        "refused": pool.num_refused,
        "refused_by": dict(pool.refused),
        "legal": len(pool.legal),
    }


def pool_text(space: Space, device: Device, pool: Pool) -> str:
    """Return the same for people: how many points each rule refuses, with an example."""
    width = max(len(rule) for rule in pool.refused)
    lines = [
        f"space {space.name} on {device.title} (sm{space.sm}): {pool.num_points} points, "
        f"{pool.num_refused} refused, {len(pool.legal)} legal",
        f"  {'rule':<{width}}  refused  for instance",
    ]
    lines += [f"  {rule:<{width}}  {count:>7}  {pool.examples.get(rule, '')}" for rule, count in pool.refused.items()]
    lines.append("  A point that several rules refuse counts for each.")
    return "\n".join(lines)


def predicted_minutes(pool: Pool, count: int, jobs: int) -> float:
    """Return the modelled duration of trying `count` points."""
    compile_s = sum(predict_cost(variant).cpu_seconds for variant in pool.legal.values()) / len(pool.legal)
    return count * (compile_s + JUDGE_SECONDS) / jobs / 60


def plan_text(
    space: Space, device: Device, pool: Pool, label: Label, *, count: int, left: int, jobs: int, by: str = "by TPE"
) -> str:
    """Return what a run is about to do; `by` says how points are chosen where not all are tried."""
    how = "all of them" if count >= len(pool.legal) else f"{count} of them, chosen {by}"
    return (
        f"{space.name} on {device.title} (sm{space.sm}), {label}: {len(pool.legal)} legal points of "
        f"{pool.num_points}, {how}; {left} to try, about {predicted_minutes(pool, left, jobs):.1f} min on {jobs} jobs"
    )


def ranking(outcomes: Sequence[Outcome], label: Label) -> list[dict[str, object]]:
    """Return every point that succeeded, best first, as plain values."""
    order = ranked(list(outcomes))
    figure = FIGURE_FIELD[label]
    return [
        {
            "rank": rank,
            "label": label,
            "variant": one.variant.name,
            **described(one.variant.schedule),
            "registers": one.registers,
            "blocks_per_sm": one.blocks_per_sm,
            figure: round(one.score, 3),
            f"{figure}_relative": round(one.score / order[0].score, 4),
        }
        for rank, one in enumerate(order, 1)
    ]


def ranking_text(outcomes: Sequence[Outcome], choice: Choice, label: Label) -> str:
    """Return the best points as a table, the winner and the default marked."""
    figure = FIGURE_FIELD[label]
    rows = ranking(outcomes, label)
    names = {choice.winner.variant.name: "winner"}
    if choice.default is not None:
        name = choice.default.variant.name
        names[name] = "winner, default" if name in names else "default"
    shown = [row for row in rows if int(str(row["rank"])) <= _SHOWN or row["variant"] in names]
    columns = [
        "rank",
        *described(choice.winner.variant.schedule),
        "registers",
        "blocks_per_sm",
        f"{figure}_relative",
        "label",
    ]
    cells = [[_cell(row[column]) for column in columns] for row in shown]
    widths = [max(len(line[index]) for line in [columns, *cells]) for index in range(len(columns))]
    lines = [f"{label} {figure}, {_statistic(choice)}:"]
    lines.append("  ".join(name.rjust(width) for name, width in zip(columns, widths, strict=True)))
    for row, line in zip(shown, cells, strict=True):
        text = "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        lines.append(f"{text}  {names.get(str(row['variant']), '')}".rstrip())
    if len(shown) < len(rows):
        lines.append(f"  and {len(rows) - len(shown)} more")
    failed = failures(outcomes)
    if failed:
        lines.append("failed: " + ", ".join(f"{kind} {count}" for kind, count in failed.items()))
    return "\n".join(lines)


def rows_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return which kernel the table takes for which sizes, and what that loses against the best of each shape."""
    lines = []
    for row in rows:
        when = ", ".join(f"{size} {bounds_text(*bounds)}" for size, bounds in row["when"].items()) or "any size"
        lines.append(f"  {row['kernel']} for {when} ({row['label']})")
    facts = rows[0]["evidence"]["cover"]
    head = (
        f"table: {facts['kernels']} kernels for {facts['shapes']} shapes, at most {facts['worst_loss']:.1%} behind the "
        f"best of a shape, {facts['geomean_loss']:.1%} in the mean ({facts['method']}"
        f"{'' if facts['meets_bounds'] else '; the bounds are not met'})"
    )
    return "\n".join([head, *lines])


def bounds_text(low: int | None, high: int | None) -> str:
    """Return inclusive bounds in words."""
    if low is None:
        return "any" if high is None else f"up to {high}"
    return f"from {low}" if high is None else f"{low} to {high}"


def standing_text(choice: Choice, label: Label) -> str:
    """Return how the winner stands against the default and the runner-up, in a sentence or two."""
    words = f"{choice.winner.variant.name}: {choice.standing} ({label})."
    if choice.default is not None and choice.default != choice.winner:
        fewer = 1 - choice.winner.score / choice.default.score
        words += f" It takes {fewer:.1%} less {FIGURE_FIELD[label]}."
        if label == "modelled" and fewer < MODEL_RESOLUTION:
            words += f" The model resolves no less than {MODEL_RESOLUTION:.0%}: a GPU may decide otherwise."
    if choice.is_tied and choice.runner_up is not None:
        words += f" Tied with the runner-up {choice.runner_up.variant.name}."
    return words


def _statistic(choice: Choice) -> str:
    return f"geometric mean over {len(choice.winner.figures)} shapes, relative to the best"


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
