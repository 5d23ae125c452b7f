"""What `blocks` does in a process of its own: counting a kernel's traffic, and timing tiles in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from device_steps.modules import load_module
from device_steps.peers import sdpa
from device_steps.speed_shapes import Shape
from device_steps.speed_worker import compare, figures, inputs, require_sound
from device_steps.timing import Limits, Timing, describe, interleaved
from kernelwright.runtime.cuda_timer import CudaTimer, capture_graph
from kernelwright.tuner.gpu_state import current_pci_bus_id, read_state

Json = dict[str, Any]  # Any: JSON


def count(*, module_dir: str, names: list[str], shape: Json, seed: int) -> Json:
    """Run kernels on the emulator and return its `counters` by name; `reasons` where it could not."""
    module = load_module(module_dir)
    problem = Shape(**shape)
    q, k, v = inputs(problem, "cpu", seed)
    counters: dict[str, Json] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            with module.force_variant(name), torch.no_grad():
                module.flash_attn_func(q, k, v, causal=problem.is_causal)
            counters[name] = module.last_report()["counters"]
        except Exception as error:
            reasons[name] = describe(error)
    return {"counters": counters, "reasons": reasons}


def measure(*, module_dir: str, device: str, names: list[str], shape: Json, seed: int, limits: Json) -> Json:
    """Check each kernel against SDPA and time all of them in turn; see `speed_worker.measure` for what is returned."""
    module = load_module(module_dir)
    problem = Shape(**shape)
    q, k, v = inputs(problem, device, seed)
    out = torch.empty_like(q)
    results: dict[str, Json] = {}
    calls: dict[str, Callable[[], object]] = {}

    def forced(name: str) -> Callable[[], object]:
        def call() -> object:
            with module.force_variant(name), torch.no_grad():
                return module.flash_attn_func(q, k, v, causal=problem.is_causal, out=out)

        return call

    with torch.no_grad():
        reference = sdpa(None)((q, k, v), problem.is_causal)()
    for name in names:
        try:
            out.fill_(torch.nan)
            forced(name)()
            results[name] = compare(out, reference, problem.dtype)
        except Exception as error:
            require_sound(device)
            results[name] = {"refused": describe(error)}
        if "worst_difference" in results[name]:
            calls[name] = forced(name)
    on_gpu = device == "cuda"
    before = read_state(current_pci_bus_id()) if on_gpu else None
    if on_gpu:  # a graph each: which kernel is forced is settled when it is captured
        timings = interleaved(calls, CudaTimer(), Limits(**limits), capture_graph)
        require_sound(device)
    else:
        timings = {name: Timing() for name in calls}
    for name, timing in timings.items():
        results[name] |= {"refused": timing.reason} if timing.reason else figures(timing, problem)
    after = read_state(current_pci_bus_id()) if on_gpu else None
    return {"results": results, "state_before": before, "state_after": after}
