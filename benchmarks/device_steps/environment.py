"""What the run ran on, and what that device reaches: the ceilings that kernels are compared with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from device_steps.base import NOT_MEASURED, Context, Record, Task

NAME = "environment"
_CEILINGS = {"copy": "gb_per_s", "matmul": "tflops"}
_LIMIT_S = 60.0
_QUERY = (
    "name",
    "driver_version",
    "pstate",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "clocks.max.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "ecc.mode.current",
    "persistence_mode",
    "clocks_throttle_reasons.active",
)


def plan(context: Context) -> list[Task]:
    return [
        Task(key="facts", unit="facts", estimate_s=context.cost("facts", 5.0)),
        *(Task(key=key, unit=key, estimate_s=context.cost(key, 8.0)) for key in _CEILINGS),
    ]


def run(task: Task, context: Context) -> Iterator[Record]:
    if task.key == "facts":
        found = context.run_isolated("device_steps.probe:facts", {"driver": context.driver}, _LIMIT_S, fresh=False)
        fault = {"fault": found["problem"]} if "problem" in found else {}
        yield {**found, **fault, "nvidia_smi": _nvidia_smi() if context.driver == "cuda" else {}}
        return
    field = _CEILINGS[task.key]
    if context.driver != "cuda":
        yield {field: NOT_MEASURED, "note": "the emulator says nothing about time"}
        return
    facts = next((one for one in context.results.records(NAME) if one["key"] == "facts" and "sm" in one), {})
    target = f"device_steps.probe:{task.key}_rate"
    found = context.run_isolated(target, {"l2_mib": int(facts.get("l2_mib", 64))}, _LIMIT_S, fresh=False)
    if found.get("fault") == "out of time":
        return
    if "fault" in found:
        yield {**found, "fault": f"{found['fault']}: {found.get('detail', '')}", field: NOT_MEASURED}
    else:
        yield {"label": "measured", **found}


def _nvidia_smi() -> dict[str, str]:
    """Return what the driver's tool says of the first GPU; empty where there is no such tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, "--id=0", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"problem": type(error).__name__}
    values = [part.strip() for part in done.stdout.strip().splitlines()[0].split(",")] if done.stdout.strip() else []
    if done.returncode or len(values) != len(_QUERY):
        return {"problem": (done.stderr or done.stdout).strip()[:200]}
    return dict(zip(_QUERY, values, strict=True))


def table(records: list[Record]) -> list[str]:
    found: dict[str, Record] = {}
    for one in records:
        found[str(one["key"])] = found.get(str(one["key"]), {}) | one
    facts: dict[str, Any] = found.get("facts", {})  # Any: JSON
    smi = facts.get("nvidia_smi") or {}
    clocks = f", SM clock {smi['clocks.sm']} of {smi['clocks.max.sm']}" if "clocks.sm" in smi else ""
    driver = f", driver {smi['driver_version']}" if "driver_version" in smi else ""
    build, begun = found.get("build", {}), found.get("run 1", {})
    lines = [
        f"{facts.get('device', begun.get('device', '?'))}, torch {facts.get('torch', '?')}{driver}{clocks}",
        f"commit {str(begun.get('commit', '?'))[:12]}, nvcc {build.get('toolkit', '?')}, "
        f"{build.get('kernels', '?')} kernels for sm{build.get('sm', '?')}",
    ]
    for key, (field, unit, what) in {
        "copy": ("gb_per_s", "GB/s", "copy on the device"),
        "matmul": ("tflops", "TFLOP/s", "bf16 matmul, random data"),
    }.items():
        value = found.get(key, {}).get(field, NOT_MEASURED)
        words = NOT_MEASURED if value == NOT_MEASURED else f"{value} {unit} (measured)"
        lines.append(f"{what}: {words}")
    return lines
