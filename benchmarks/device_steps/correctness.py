"""Every built kernel against float64, on poisoned outputs between guards of NaN, and the same bits in every run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from device_steps import feature_kernels
from device_steps.base import Context, Record, Task
from device_steps.families import FAMILIES, family_of
from device_steps.modules import Kernel, kernels_of

NAME = "correctness"
_LIMIT_S = {"cuda": 90.0, "emulator": 600.0}
_RUNS = 50
_PROBLEMS = 12
_GUESS_S = {"problems": 3.0, "repeat": 2.0, "large": 15.0}


variants = feature_kernels.variants
"""Kernels of every feature, beside the default profile's; `fidelity` and `sanitizer` find them in the module too."""


def plan(context: Context) -> list[Task]:
    """Small problems of all kernels first, which find most; then repetition; large shapes on a GPU alone."""
    kernels = kernels_of(context.module_dir)
    kinds = (
        ("problems", "repeat", "large") if context.driver == "cuda" and not context.quick else ("problems", "repeat")
    )
    return [
        Task(
            key=f"{kernel.name}/{kind}",
            unit=kind,
            estimate_s=context.cost(kind, _GUESS_S[kind]),
            kwargs={"variant": kernel.name, "operation": kernel.operation, "kind": kind},
        )
        for kind in kinds
        for kernel in kernels
        if kind != "repeat" or _repeatable(kernel)
    ]


def _repeatable(kernel: Kernel) -> tuple[str, ...]:
    family = family_of(kernel.operation)
    return family.repeatable if family else ("?",)  # an unknown family is reported by its own record


def run(task: Task, context: Context) -> Iterator[Record]:
    kind, variant = str(task.kwargs["kind"]), str(task.kwargs["variant"])
    head: Record = {"variant": variant, "kind": kind, **identity(context, variant)}
    family = family_of(str(task.kwargs["operation"]))
    if family is None:
        known = ", ".join(one.name for one in FAMILIES)
        yield {**head, "note": f"not checked: no family {task.kwargs['operation']}; known: {known}"}
        return
    before = context.results.records(NAME) if kind != "problems" else []
    ended = next((one for one in before if one["key"] == f"{variant}/problems" and _has_ended(one)), None)
    if ended is not None:
        yield {**head, "note": f"not run: this kernel ended its process before ({ended['kind_of_fault']})"}
        return
    common = {
        "module_dir": str(context.module_dir),
        "device": context.device,
        "variant": variant,
        "seed": context.seed,
    }
    limit_s = _LIMIT_S[context.driver]
    if kind == "repeat":
        runs = 3 if context.driver == "emulator" else 10 if context.quick else _RUNS
        asked = {**common, "runs": runs, "outputs": list(family.repeatable)}
        answer = context.run_isolated(f"{family.module}:repeat", asked, limit_s, fresh=False)
    else:
        count = 3 if context.driver == "emulator" and context.quick else _PROBLEMS
        asked = {**common, "problems": count, "large": kind == "large"}
        answer = context.run_isolated(f"{family.module}:check", asked, limit_s, fresh=False)
    if answer.get("fault") == "out of time":
        return
    yield {**head, "label": context.label, **describe(answer)}


def _has_ended(record: Record) -> bool:
    return record.get("kind_of_fault") in ("timeout", "crash")


def describe(answer: Record) -> Record:
    """Return an answer with its fault in words, if it has one."""
    if "fault" in answer:
        return {**answer, "kind_of_fault": answer["fault"], "fault": f"{answer['fault']}: {answer.get('detail', '')}"}
    if answer.get("failed"):
        wrong = answer["wrong"]
        return {
            **answer,
            "kind_of_fault": "wrong",
            "fault": f"wrong: {answer['failed']} of {answer['problems']} problems; {wrong[0]}",
        }
    changed = {name: count for name, count in answer.get("differing", {}).items() if count}
    if changed:
        words = ", ".join(f"{name} in {count} of {answer['runs']} runs" for name, count in changed.items())
        return {**answer, "kind_of_fault": "unrepeatable", "fault": f"unrepeatable: other bits of {words}"}
    return answer


def identity(context: Context, variant: str) -> dict[str, Any]:  # Any: JSON
    """Return what a kernel computes, and the digest by which it is known when it is built again."""
    found = {kernel.name: kernel for kernel in kernels_of(context.module_dir)}[variant]
    return {
        "ptx_sha256": found.ptx_sha256,
        "computes": f"{found.dtype} hd{found.head_dim} {'causal' if found.is_causal else 'full'}",
    }


def table(records: list[Record]) -> list[str]:
    """Kernels by how they did, and the worst error as a share of what is allowed."""
    lines = []
    for kind, what in (("problems", "small problems"), ("large", "large shapes"), ("repeat", "repeated runs")):
        mine = [one for one in records if one.get("kind") == kind]
        if not mine:
            continue
        bad = sum(bool(one.get("fault")) for one in mine)
        margins = [one["worst_margin"] for one in mine if "worst_margin" in one]
        worst = f", worst error {max(margins):.2f} of what is allowed ({mine[0].get('label')})" if margins else ""
        noted = sum(bool(one.get("note")) for one in mine)
        lines.append(
            f"{what}: {len(mine) - bad - noted} kernels right, {bad} not{f', {noted} not run' if noted else ''}{worst}"
        )
    return lines
