"""The same inputs through the emulator and the GPU: how far apart the results are, and single instructions beside it.

On the emulator two seeds of its scheduler are compared, which tests the step and nothing else.
"""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Iterator
from typing import Any

from device_steps.base import Context, Record, Task
from device_steps.families import family_of
from device_steps.modules import kernels_of

NAME = "fidelity"
_LIMIT_S = 120.0
_QUICK_FAMILIES = ("flash_fwd", "flash_bwd")
_QUICK_KERNELS = {"cuda": 2, "emulator": 1}  # of each
_GOLDEN = "device_steps.golden"
_BINS = ((0, "equal"), (1, "1 ulp"), (2, "2 ulp"), (4, "3 to 4 ulp"))
_REST = "more"


def plan(context: Context) -> list[Task]:
    kernels = [kernel for kernel in kernels_of(context.module_dir) if family_of(kernel.operation)]
    if context.quick:
        most = _QUICK_KERNELS[context.driver]
        kernels = [
            one for name in _QUICK_FAMILIES for one in [kernel for kernel in kernels if kernel.operation == name][:most]
        ]
    tasks = [
        Task(
            key=kernel.name,
            unit="kernel",
            estimate_s=context.cost("kernel", 4.0),
            kwargs={"operation": kernel.operation, "variant": kernel.name},
        )
        for kernel in kernels
    ]
    if importlib.util.find_spec(_GOLDEN):
        tasks.insert(0, Task(key="instructions", unit="instructions", estimate_s=context.cost("instructions", 10.0)))
    return tasks


def run(task: Task, context: Context) -> Iterator[Record]:
    if task.key == "instructions":
        yield from _instructions(context)
        return
    if not (context.module_dir / "_emulator.so").exists():
        yield {"note": "not run: the emulator could not be compiled here"}
        return
    variant, family = str(task.kwargs["variant"]), family_of(str(task.kwargs["operation"]))
    assert family is not None  # `plan` leaves out the others
    common = {"module_dir": str(context.module_dir), "variant": variant, "seed": context.seed}
    if context.driver == "cuda":
        sides = {"emulator": ({"device": "cpu"}, False), "GPU": ({"device": "cuda"}, False)}
    else:
        sides = {f"seed {seed}": ({"device": "cpu", "emulate": f"seed={seed}"}, True) for seed in (1, 2)}
    found = []
    for name, (own, fresh) in sides.items():
        answer = context.run_isolated(f"{family.module}:launch", {**common, **own}, _LIMIT_S, fresh=fresh)
        if answer.get("fault") == "out of time":
            return
        if "fault" in answer:
            yield {"variant": variant, **answer, "fault": f"{name}: {answer['fault']}: {answer.get('detail', '')}"}
            return
        found.append(answer)
    outputs = {name: differences(found[0][name], found[1][name]) for name in found[0]}
    yield {"variant": variant, "label": context.label, "between": list(sides), "outputs": outputs}


def differences(first: Record, second: Record) -> dict[str, Any]:  # Any: JSON
    """Return how two outputs of the same launch differ, in units in the last place and absolutely.

    Args:
        first, second: as the family's `launch` returns an output.
    """
    import numpy as np

    wide, ordered = zip(*(_values(one) for one in (first, second)), strict=True)
    ulps = np.abs(ordered[0] - ordered[1])
    ulps[np.isnan(wide[0]) != np.isnan(wide[1])] = 1 << 32
    ulps[np.isnan(wide[0]) & np.isnan(wide[1])] = 0
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(wide[0] - wide[1]), nan=0.0)
    spread: dict[str, int] = {}
    low = -1
    for high, name in _BINS:
        spread[name] = int(((ulps > low) & (ulps <= high)).sum())
        low = high
    spread[_REST] = int((ulps > low).sum())
    finite = distance[np.isfinite(distance)]
    quantiles = {str(q): float(np.quantile(finite, q)) for q in (0.5, 0.99, 1.0)} if finite.size else {}
    return {"values": int(ulps.size), "ulps": spread, "max_ulp": int(ulps.max(initial=0)), "distance": quantiles}


def _values(output: Record) -> tuple[Any, Any]:  # Any: NumPy's types differ between its releases
    """Return an output as float64, and as integers in the order of the numbers, neighbours one apart."""
    import numpy as np

    data = base64.b64decode(output["data"])
    size = 32 if output["dtype"] == "float32" else 16
    bits = np.frombuffer(data, dtype=np.int32 if size == 32 else np.int16)
    if output["dtype"] == "bfloat16":
        wide = (bits.astype(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    else:
        wide = bits.view(np.float32 if size == 32 else np.float16).astype(np.float64)
    whole = bits.astype(np.int64)
    return wide, np.where(whole >= 0, whole, -(whole & ((1 << (size - 1)) - 1)))


def _instructions(context: Context) -> Iterator[Record]:
    is_gpu = context.driver == "cuda"
    asked = {"library": "libcuda.so.1" if is_gpu else None, "folder": str(context.out) if is_gpu else None}
    answer = context.run_isolated(f"{_GOLDEN}:record_and_replay", asked, _LIMIT_S)
    if answer.get("fault") == "out of time":
        return
    if "fault" in answer:
        yield {**answer, "fault": f"{answer['fault']}: {answer.get('detail', '')}"}
        return
    outcomes = answer.pop("outcomes")
    for one in outcomes:
        wrong = {"fault": f"{one['name']}: {one['detail']}"} if one["status"] == "differ" else {}
        yield {"key": f"instructions/{one['name']}", "label": context.label, **one, **wrong}
    counts = {
        status: sum(one["status"] == status for one in outcomes) for status in sorted({o["status"] for o in outcomes})
    }
    yield {**answer, "statuses": counts}


def table(records: list[Record]) -> list[str]:
    """One line for the kernels, one for the instructions."""
    lines = []
    compared = [one for one in records if "outputs" in one]
    for name in sorted({name for one in compared for name in one["outputs"]}):
        mine = [one["outputs"][name] for one in compared if name in one["outputs"]]
        total = sum(one["values"] for one in mine)
        equal = sum(one["ulps"]["equal"] for one in mine)
        worst = max(one["max_ulp"] for one in mine)
        between = " and ".join(compared[0]["between"])
        lines.append(
            f"{name}, {between}: {100 * equal / max(1, total):.2f} % of {total:,} values equal, "
            f"at most {worst} ulp apart ({compared[0]['label']}, {len(mine)} kernels)"
        )
    lines += [
        "instructions: " + ", ".join(f"{count} {status}" for status, count in one["statuses"].items())
        for one in records
        if "statuses" in one
    ]
    surprises = [str(one["name"]) for one in records if one.get("model") == "differs"]
    if surprises:
        lines.append(f"not what our reading of the PTX ISA expects: {', '.join(sorted(surprises))}")
    return lines + sorted({str(one["note"]) for one in records if one.get("note")})
