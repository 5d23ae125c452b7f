"""The end of a run: a table of at most 60 lines, from the records on disk, those of earlier runs included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from device_steps.base import Record
from device_steps.results import SUFFIX, Results
from device_steps.runner import Tally
from device_steps.steps import STEPS, find_step

MAX_LINES = 60
_WIDTH = 160
_STEP_LINES = 12
_FAULT_LINES = 10


def summary_text(results: Results, tallies: Sequence[Tally], *, actual_s: float, estimate_s: float) -> str:
    """Return the table: what each step found, what went wrong, estimated and actual minutes."""
    ran = [line[:_WIDTH] for line in _times(tallies, actual_s=actual_s, estimate_s=estimate_s)]
    faults = [line[:_WIDTH] for line in _fault_lines(results)]
    room = MAX_LINES - len(ran) - len(faults) - 2
    blocks = [block for entry in STEPS if (block := _block(entry.name, results.records(entry.name)))]
    most = _STEP_LINES
    while sum(min(len(block), most + 1) for block in blocks) > room and most > 1:
        most -= 1
    body = [line[:_WIDTH] for block in blocks for line in _cut(block, most)]
    return "\n".join([*body[:room], "", *faults, *([""] if faults else []), *ran])


def _block(name: str, records: list[Record]) -> list[str]:
    if not records:
        return []
    table = getattr(find_step(name), "table", None)
    try:
        lines = [str(line) for line in table(records)] if table else []
    except Exception as error:  # a table that fails must not cost the others theirs
        lines = [f"its table fails: {type(error).__name__}: {error}"]
    return [name, *(f"  {line}" for line in lines or [f"{len(records)} records"])]


def _cut(block: list[str], most: int) -> list[str]:
    left = len(block) - 1 - most
    return block if left <= 0 else [*block[:most], f"  ... {left + 1} more in {block[0]}{SUFFIX}"]


def faults_of(results: Results) -> list[Record]:
    """Return every record that tells of a fault, in the order of the steps."""
    return [one for entry in STEPS for one in results.records(entry.name) if one.get("fault")]


def _fault_lines(results: Results) -> list[str]:
    found = faults_of(results)
    if not found:
        return []
    lines = [f"  {one['step']} {one['key']}: {' '.join(str(one['fault']).split())}" for one in found]
    more = [f"  ... {len(lines) - _FAULT_LINES} more"] if len(lines) > _FAULT_LINES else []
    return [f"FAULTS: {len(lines)}", *lines[:_FAULT_LINES], *more]


def _times(tallies: Sequence[Tally], *, actual_s: float, estimate_s: float) -> list[str]:
    lines = []
    for one in tallies:
        if one.missing:
            lines.append(f"{one.name:<12} not in this checkout")
            continue
        before = f", {one.before} done before" if one.before else ""
        left = f", {one.left_out} left out for want of time (--resume does them)" if one.left_out else ""
        lines.append(
            f"{one.name:<12} {one.done} done{before}{left}; "
            f"estimated {one.estimate_s / 60:.2f} min, took {one.actual_s / 60:.2f}"
        )
    lines.append(f"{'in all':<12} estimated {estimate_s / 60:.2f} min, took {actual_s / 60:.2f}")
    return lines


def summary_data(results: Results, tallies: Sequence[Tally], *, actual_s: float, out: Path) -> Record:
    """Return the end of a run as plain data."""
    return {
        "out": str(out),
        "actual_s": round(actual_s, 3),
        "faults": [{name: one[name] for name in ("step", "key", "fault")} for one in faults_of(results)],
        "steps": {one.name: {k: v for k, v in vars(one).items() if k != "name"} for one in tallies},
    }
