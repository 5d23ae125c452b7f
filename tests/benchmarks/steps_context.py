"""A run for one step alone: its context, with isolated calls made in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from device_steps.base import Context, Record, Step, Task
from device_steps.costs import Costs
from device_steps.isolation import call_target
from device_steps.results import Results

Answer = Callable[[str, Mapping[str, Any]], Record]


class InThisProcess:
    """Stands in for `Isolation`; `calls` keeps what was asked."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._answer = answer or (lambda target, kwargs: call_target(target, dict(kwargs)))

    def call(self, target: str, kwargs: Mapping[str, Any], deadline_s: float, *, fresh: bool) -> Record:
        self.calls.append((target, dict(kwargs)))
        return self._answer(target, kwargs)


def make_context(
    out: Path,
    step: str,
    *,
    module_dir: Path | None = None,
    driver: str = "emulator",
    quick: bool = True,
    answer: Answer | None = None,
) -> Context:
    """Return a context whose results go to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out)
    results.step = step
    values: dict[str, Any] = {
        "out": out,
        "driver": driver,
        "quick": quick,
        "seed": 0,
        "module_dir": module_dir or out / "module",
        "deadline": time.monotonic() + 600,
        "work": out / "work",
        "limit_s": None,
        "results": results,
        "costs": Costs(means={}),
        "isolation": InThisProcess(answer),
    }
    return Context(**values)


def run_step(step: Step, context: Context, tasks: list[Task] | None = None) -> list[Record]:
    """Run tasks, by default all, as the runner does, and return the records."""
    found = []
    for task in step.plan(context) if tasks is None else tasks:
        for record in step.run(task, context):
            whole = {"step": step.NAME, "key": task.key, **record}
            context.results.append(whole)
            found.append(whole)
    return found
