"""What tasks took in earlier runs, from which the next one is estimated."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COSTS_FILE = Path(__file__).with_name("costs.json")
SCHEMA = 1
_DIGITS = 2


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Mean seconds of a task by `<step>/<unit>`, of one kind of run (`cuda`, `emulator-quick`, ...)."""

    means: Mapping[str, float]

    def seconds(self, step: str, unit: str, default: float) -> float:
        return float(self.means.get(f"{step}/{unit}", default))


def kind_of_run(driver: str, *, quick: bool) -> str:
    """Return the name under which costs are kept."""
    return f"{driver}-quick" if quick else driver


def read_costs(kind: str, path: Path = COSTS_FILE) -> Costs:
    """Return the recorded costs of a kind of run; none where nothing was recorded."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))  # Any: JSON
    except FileNotFoundError:
        content = {}
    means = content.get("costs", {}).get(kind, {})
    return Costs(means={name: float(value) for name, value in means.items()})


def mean_costs(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means over the tasks that these records tell of: the first, which starts a process, costs more."""
    found: dict[str, list[float]] = {}
    for record in records:
        task = record.get("task")
        if isinstance(task, dict) and not task.get("faults"):  # one that was killed cost its deadline
            found.setdefault(f"{record['step']}/{task['unit']}", []).append(float(task["wall_s"]))
    return {name: round(statistics.fmean(values), _DIGITS) for name, values in sorted(found.items())}


def update_costs(kind: str, records: Iterable[Mapping[str, Any]], path: Path = COSTS_FILE) -> bool:
    """Keep what the tasks of a run cost; units it had none of stay as they were. Return whether the file changed."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    costs: dict[str, dict[str, float]] = json.loads(before)["costs"] if before else {}
    costs[kind] = dict(sorted({**costs.get(kind, {}), **mean_costs(records)}.items()))
    text = json.dumps({"schema": SCHEMA, "costs": dict(sorted(costs.items()))}, indent=1) + "\n"
    if text != before:
        path.write_text(text, encoding="utf-8")
    return text != before
