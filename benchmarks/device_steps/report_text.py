"""The report of a run as Markdown. Every figure stands beside its label; what was not measured says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from device_steps.base import NOT_MEASURED, Record
from device_steps.report_load import Run
from device_steps.steps import STEPS, find_step

_OWN_SECTION = ("environment", "correctness", "speed")


def report_text(run: Run, charts: Sequence[str]) -> str:
    """Return the whole report; `charts` are names of image files beside it."""
    parts = [
        f"# {run.device}, {run.date}",
        f"Made by `python benchmarks/report.py` from {sum(map(len, run.records.values()))} records; commit "
        f"`{run.commit}`{', a quick run' if run.head['quick'] else ''}.",
        _environment(run),
        _faults(run),
        _correctness(run),
        _speed(run),
        *(_by_table(run, entry.name) for entry in STEPS if entry.name not in _OWN_SECTION),
        *(f"![{name.removesuffix('.png')}]({name})" for name in charts),
        _minutes(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows_of(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(value: object, label: object, unit: str = "", digits: int = 1) -> str:
    """Return a figure with its label; a time or rate that no GPU measured is `not measured`."""
    if not isinstance(value, int | float) or label != "measured":
        return NOT_MEASURED
    return f"{value:.{digits}f}{' ' + unit if unit else ''}"


def _environment(run: Run) -> str:
    found = {str(one["key"]): one for one in run.merged("environment")}
    facts, copy, matmul = (found.get(key, {}) for key in ("facts", "copy", "matmul"))
    smi: dict[str, Any] = facts.get("nvidia_smi") or {}
    build = found.get("build", {})
    rows: list[tuple[str, object]] = [
        ("device", f"{run.device} (sm{facts.get('sm', '?')})"),
        ("torch", facts.get("torch", "?")),
        ("driver", smi.get("driver_version", facts.get("driver_cuda", "none"))),
        ("nvcc", build.get("toolkit", "?")),
        ("kernels", f"{build.get('kernels', '?')} for sm{build.get('sm', '?')}"),
        *((name, smi[name]) for name in sorted(smi) if name.startswith(("clocks", "power", "temp"))),
        ("copy on the device (measured)", figure(copy.get("gb_per_s"), copy.get("label"), "GB/s")),
        ("bf16 matmul, random data (measured)", figure(matmul.get("tflops"), matmul.get("label"), "TFLOP/s")),
    ]
    return "## Environment\n\n" + rows_of(("what", "value"), rows)


def _faults(run: Run) -> str:
    found = [one for entry in STEPS for one in run.records.get(entry.name, []) if one.get("fault")]
    if not found:
        return ""
    return "## Faults\n\n" + "\n".join(
        f"- **{one['step']}** {one['key']}: {' '.join(str(one['fault']).split())}" for one in found
    )


def _correctness(run: Run) -> str:
    kernels: dict[str, dict[str, Record]] = {}
    for one in run.merged("correctness"):
        if "variant" in one and "kind" in one:
            kernels.setdefault(str(one["variant"]), {})[str(one["key"]).rpartition("/")[2]] = one
    if not kernels:
        return ""
    rows = []
    for variant, kinds in sorted(kernels.items()):
        margins = [one["worst_margin"] for one in kinds.values() if "worst_margin" in one]
        label = next((one["label"] for one in kinds.values() if "label" in one), "")
        worst = f"{max(margins):.3f} ({label})" if margins else "none"
        rows.append((f"`{variant}`", *(_state(kinds.get(kind)) for kind in ("problems", "large", "repeat")), worst))
    header = ("kernel", "small problems", "large shapes", "same bits", "worst error / allowed")
    return "## Correctness\n\nAgainst float64 on the CPU.\n\n" + rows_of(header, rows)


def _state(record: Record | None) -> str:
    if record is None:
        return "not run"
    if record.get("fault"):
        return f"**{record.get('kind_of_fault', 'fault')}**"
    if "problems" in record:
        return f"{record['problems']} right"
    return f"{record['runs']} runs" if "runs" in record else str(record.get("note", "not run"))


def _speed(run: Run) -> str:
    timed: dict[str, dict[str, Record]] = {}
    for one in run.merged("speed"):
        if "direction" in one:
            timed.setdefault(str(one["key"]).rpartition("/")[0], {})[str(one["implementation"])] = one
    if not timed:
        return ""
    names = sorted({name for found in timed.values() for name in found}, key=lambda name: (name != "ours", name))
    rows = [
        (shape, *(_rate(found.get(name)) for name in names), _ratio(found.get("ours", {})))
        for shape, found in timed.items()
    ]
    head = (
        "## Speed\n\nTFLOP/s (measured): median of calls in turn, L2 cache flushed. The last column: time of the best "
    )
    return head + "peer over ours.\n\n" + rows_of(("problem", *names, "ours against the best peer"), rows)


def _rate(record: Record | None) -> str:
    if record is None:
        return ""
    if record.get("fault"):
        return "fault"
    if str(record.get("note", "")).startswith("refused"):
        return "refused"
    return figure(record.get("tflops"), record.get("label"))


def _ratio(ours: Record) -> str:
    ratio = ours.get("ratio_to_best_peer")
    if not isinstance(ratio, int | float) or ours.get("label") != "measured":
        return NOT_MEASURED
    return f"{ratio:.2f} ({ours.get('best_peer')})"


def _by_table(run: Run, name: str) -> str:
    """Return a step's own lines, as the end of a run prints them."""
    records = run.merged(name)
    table = getattr(find_step(name), "table", None)
    if not records or table is None:
        return ""
    lines = [str(line) for line in table(records)]
    return f"## {name.capitalize()}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _minutes(run: Run) -> str:
    rows = []
    for entry in STEPS:
        costs = [one["task"] for one in run.records.get(entry.name, []) if isinstance(one.get("task"), dict)]
        if costs:
            estimated, actual = (sum(float(cost[name]) for cost in costs) / 60 for name in ("estimate_s", "wall_s"))
            rows.append((entry.name, len(costs), f"{estimated:.1f}", f"{actual:.1f}"))
    return "## Minutes\n\n" + rows_of(("step", "tasks", "estimated", "actual"), rows) if rows else ""
