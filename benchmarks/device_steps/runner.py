"""The order of a run: every step gets its share of the time, every task one chance, every record goes to disk."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from device_steps.base import Context, Step, Task
from device_steps.steps import Entry, find_step

_TRACE_LINES = 6


@dataclass(kw_only=True)
class Tally:
    """How a step went. Seconds are of this run; `estimate_s` is of the tasks that were run."""

    name: str
    done: int = 0
    before: int = 0
    left_out: int = 0
    estimate_s: float = 0.0
    actual_s: float = 0.0
    missing: bool = False


def run_steps(context: Context, entries: Sequence[Entry], told: list[Tally]) -> None:
    """Run what is not done yet, as far as the time goes.

    A step may start tasks until its share is over; what did not fit waits until only the last step is left, which
    then has the rest.

    Args:
        context: the run.
        entries: the steps, in order.
        told: gets a tally for each step at once, kept up to date.
    """
    tallies = {entry.name: Tally(name=entry.name) for entry in entries}
    told.extend(tallies.values())
    total, begin = context.seconds_left(), time.monotonic()
    whole = sum(entry.share for entry in entries)
    share = 0.0
    waiting: list[tuple[Step, Task]] = []
    for entry in entries:
        is_last = entry is entries[-1]
        share += entry.share / whole
        step = find_step(entry.name)
        if step is None:
            tallies[entry.name].missing = True
            context.note(f"{entry.name}: this checkout has no benchmarks/device_steps/{entry.name}.py, left out")
            continue
        context.results.step = entry.name
        tasks = _planned(step, context)
        if is_last:
            least_s = min((task.estimate_s for task in tasks if not context.done(task.key)), default=0.0)
            _run_waiting(context, waiting, tallies, reserve_s=max(least_s, total * entry.share / whole))
            context.results.step = entry.name
        until = context.deadline if is_last or entry.may_exceed else begin + total * share
        for task in tasks:
            if context.done(task.key):
                tallies[entry.name].before += 1
            elif time.monotonic() + task.estimate_s <= until:
                run_task(step, task, context, tallies[entry.name])
            else:
                waiting.append((step, task))
                tallies[entry.name].left_out += 1
    _run_waiting(context, waiting, tallies)


def _run_waiting(
    context: Context, waiting: list[tuple[Step, Task]], tallies: dict[str, Tally], reserve_s: float = 0.0
) -> None:
    """Run what did not fit before and does now; it is taken from the list."""
    for step, task in list(waiting):
        if task.estimate_s <= context.seconds_left() - reserve_s:
            waiting.remove((step, task))
            tallies[step.NAME].left_out -= 1
            context.results.step = step.NAME
            run_task(step, task, context, tallies[step.NAME])


def _planned(step: Step, context: Context) -> list[Task]:
    try:
        tasks = step.plan(context)
    except Exception as error:  # one step's fault leaves the others unharmed
        context.results.append({"step": step.NAME, "key": f"plan {time.time():.0f}", **_fault(error)})
        context.note(f"{step.NAME}: cannot be planned: {error}")
        return []
    repeated = {task.key for task in tasks if sum(one.key == task.key for one in tasks) > 1}
    assert not repeated, f"{step.NAME}: keys occur twice: {sorted(repeated)}"
    return tasks


def run_task(step: Step, task: Task, context: Context, tally: Tally) -> None:
    """Run one task, and note what it cost unless the run ended first."""
    context.note(f"{step.NAME}: {task.key} (about {task.estimate_s:.0f} s, {context.seconds_left() / 60:.1f} min left)")
    started = time.monotonic()
    faults = count = 0
    try:
        for record in step.run(task, context):
            whole = {"step": step.NAME, "key": task.key, **record}
            context.results.append(whole)
            count += 1
            if whole.get("fault"):
                faults += 1
                context.note(f"{step.NAME}: {whole['key']}: {whole['fault']}")
    except Exception as error:
        faults += 1
        context.results.append({"step": step.NAME, "key": task.key, **_fault(error)})
        context.note(f"{step.NAME}: {task.key}: {type(error).__name__}: {error}")
    wall_s = time.monotonic() - started
    tally.actual_s += wall_s
    tally.estimate_s += task.estimate_s
    if not context.seconds_left() and not context.done(task.key):
        tally.left_out += 1
        return
    tally.done += 1
    cost = {"unit": task.unit, "wall_s": round(wall_s, 3), "estimate_s": round(task.estimate_s, 3), "records": count}
    context.results.append({"step": step.NAME, "key": task.key, "task": cost | ({"faults": faults} if faults else {})})


def _fault(error: Exception) -> dict[str, object]:
    trace = "".join(traceback.format_exception(error)).splitlines()[-_TRACE_LINES:]
    return {"fault": f"{type(error).__name__}: {error}", "trace": trace}
