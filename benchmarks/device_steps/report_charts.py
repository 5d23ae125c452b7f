"""The report's plots. matplotlib is the extra `plots`; without it there are none."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from device_steps.base import Record
from device_steps.report_load import Run

_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines or bars over names, in the order given; `y_label` says the unit and the label of the figures."""

    name: str
    title: str
    y_label: str
    kind: Literal["lines", "bars"]
    series: Mapping[str, Sequence[tuple[str, float]]]
    logarithmic: bool = False


def charts_of(run: Run) -> list[Chart]:
    """Return what can be drawn of a run: only times that a GPU measured, and errors with their label."""
    return [*_speed(run), *_memory(run), *_blocks(run), *_errors(run)]


def _speed(run: Run) -> list[Chart]:
    groups: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for one in run.merged("speed"):
        shape = one.get("shape") or {}
        if one.get("label") == "measured" and "direction" in one and one.get("tflops"):
            heads = f" {shape['num_heads_q']}-{shape['num_heads_kv']} heads" if _is_grouped(shape) else ""
            way = "" if one["direction"] == "fwd" else f" {one['direction']}"
            group = f"hd{shape['head_dim']} {'causal' if shape['is_causal'] else 'full'}{heads}{way}"
            lines = groups.setdefault(group, {})
            lines.setdefault(str(one["implementation"]), []).append((int(shape["seqlen"]), float(one["tflops"])))
    return [
        Chart(
            name=f"speed_{group.replace(' ', '_')}",
            title=f"{run.device}: {group}{'' if group.endswith(' bwd') else ', forward'}",
            y_label="TFLOP/s (measured)",
            kind="lines" if any(len(points) > 1 for points in lines.values()) else "bars",
            series={name: [(str(x), y) for x, y in sorted(points)] for name, points in lines.items()},
        )
        for group, lines in groups.items()
    ]


def _is_grouped(shape: Record) -> bool:
    return bool(shape.get("num_heads_q") != shape.get("num_heads_kv"))


def _memory(run: Run) -> list[Chart]:
    lines: dict[str, list[tuple[int, float]]] = {}
    for one in run.merged("speed"):
        if one.get("label") == "measured" and one.get("peak_bytes"):
            point = (int(one["shape"]["seqlen"]), float(one["peak_bytes"]) / 2**20)
            lines.setdefault(str(one["implementation"]), []).append(point)
    if not lines:
        return []
    return [
        Chart(
            name="memory",
            title=f"{run.device}: memory beside the inputs",
            y_label="MiB (measured)",
            kind="lines",
            series={name: [(str(x), y) for x, y in sorted(points)] for name, points in lines.items()},
            logarithmic=True,
        )
    ]


def _blocks(run: Run) -> list[Chart]:
    """Traffic and time against the tile, as the FlashAttention paper's figure."""
    bytes_: list[tuple[str, float]] = []
    times: list[tuple[str, float]] = []
    found = [one for one in run.merged("blocks") if "tile" in one]
    for one in sorted(found, key=lambda each: (each["tile"]["block_m"], each["tile"]["block_n"])):
        tile = f"{one['tile']['block_m']}x{one['tile']['block_n']}"
        if one.get("label") == "counted" and one.get("global_bytes"):
            bytes_.append((tile, float(one["global_bytes"]) / 1e6))
        if one.get("label") == "measured" and one.get("time_us"):
            times.append((tile, float(one["time_us"])))
    title = f"{run.device}: queries x keys of a tile"
    charts = [("blocks_bytes", "MB of global memory (counted)", bytes_), ("blocks_time", "us (measured)", times)]
    return [
        Chart(name=name, title=title, y_label=unit, kind="bars", series={"tile": points})
        for name, unit, points in charts
        if points
    ]


def _errors(run: Run) -> list[Chart]:
    found = [one for one in run.merged("correctness") if "worst_margin" in one]
    if not found:
        return []
    worst: dict[str, float] = {}
    for one in found:
        name = str(one["computes"])
        worst[name] = max(worst.get(name, 0.0), float(one["worst_margin"]))
    return [
        Chart(
            name="errors",
            title=f"{run.device}: worst error over the kernels of a problem",
            y_label=f"part of what is allowed ({found[0]['label']})",
            kind="bars",
            series={"worst error": sorted(worst.items())},
        )
    ]


def draw(charts: Sequence[Chart], folder: Path) -> list[str]:
    """Draw PNG files into a folder and return their names.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    matplotlib: Any = importlib.import_module("matplotlib")  # Any: an optional package
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    names = []
    for chart in charts:
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        _fill(axes, chart)
        names.append(f"{chart.name}.png")
        figure.savefig(folder / names[-1], dpi=120, metadata={"Software": None})  # same input, same bytes
        pyplot.close(figure)
    return names


def _fill(axes: Any, chart: Chart) -> None:  # Any: as above
    places = sorted({x for points in chart.series.values() for x, _ in points}, key=_in_order)
    width = 0.8 / max(1, len(chart.series))
    for index, (name, points) in enumerate(chart.series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        xs, ys = [places.index(x) for x, _ in points], [y for _, y in points]
        if chart.kind == "lines":
            axes.plot(xs, ys, marker="o", label=name, color=colour, linewidth=2.5 if name == "ours" else 1.5)
        else:
            axes.bar(
                [x + width * (index - (len(chart.series) - 1) / 2) for x in xs], ys, width, label=name, color=colour
            )
    is_long = max((len(place) for place in places), default=0) > 8
    axes.set_xticks(range(len(places)), places, rotation=90 if is_long else 0, fontsize=7 if is_long else 10)
    axes.set_title(chart.title)
    axes.set_ylabel(chart.y_label)
    if chart.kind == "lines":
        axes.set_xlabel("seqlen")
    if chart.logarithmic:
        axes.set_yscale("log")
    axes.grid(axis="y", alpha=0.3)
    if len(chart.series) > 1:
        axes.legend(fontsize=8)


def _in_order(place: str) -> tuple[int, str]:
    return (int(place), "") if place.isdecimal() else (0, place)
