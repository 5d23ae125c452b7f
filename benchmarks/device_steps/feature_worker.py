"""Timing a feature's kernel beside torch's attention where that computes the same; in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from device_steps.feature_kernels import rows
from device_steps.modules import load_module
from device_steps.peers import OURS
from device_steps.timing import Limits, describe, interleaved
from kernelwright.gen.spec import ForwardProblem, Variant
from kernelwright.runtime.cuda_timer import CudaTimer, capture_graph
from kernelwright.tuner.measure import make_call, make_inputs
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.walks import call_counts

Json = dict[str, Any]  # Any: JSON
PEER = "sdpa default"


def measure(*, module_dir: str, device: str, name: str, quick: bool, variant: str, limits: Json) -> Json:
    """Time a row of `feature_kernels`.

    Returns:
        `mma_flops` that the kernel executes; by implementation `time_us` and more, or `refused`; nulls off a GPU.
    """
    module = load_module(module_dir)
    row = next(one for one in rows(quick=quick) if one.name == name)
    one = Variant.parse(variant)
    calls: dict[str, Callable[[], Any]] = {}
    results: dict[str, Json] = {}
    with module.force_variant(variant), torch.no_grad():
        calls[OURS] = make_call(module, one, row.shape, device)
        calls[OURS]()  # loads the kernel, which may not happen in a capture
        try:
            if (peer := torch_call(one.problem, row.shape, device)) is not None:
                peer()
                calls[PEER] = peer
        except (RuntimeError, NotImplementedError) as error:
            results[PEER] = {"refused": describe(error)}
        if device == "cuda":
            torch.cuda.synchronize()
            timings = interleaved(calls, CudaTimer(), Limits(**limits), capture_graph)
            for who, timing in timings.items():
                results[who] = {"refused": timing.reason} if timing.reason else timing.to_record()
            torch.cuda.synchronize()
        else:
            results |= {who: {"time_us": None} for who in calls}
    return {"mma_flops": call_counts(one, row.shape).mma_flops, "results": results}


def torch_call(problem: ForwardProblem, shape: Shape, device: str) -> Callable[[], Any] | None:
    """Return torch's attention on the same sizes, a window as a mask; None where it has no such thing."""
    others = {name for name in problem.features if name not in ("causal", "local")}
    if others or shape.seqlen_q not in (1, shape.seqlen_k):
        return None
    q, k, v = (one.transpose(1, 2) for one in make_inputs(problem, shape, device))
    options: Json = {"is_causal": problem.is_causal, "enable_gqa": shape.num_heads_q != shape.num_heads_kv}
    if problem.is_local:
        offset = torch.arange(shape.seqlen_k, device=device) - torch.arange(shape.seqlen_q, device=device)[:, None]
        left, right = (shape.seqlen_k if side < 0 else side for side in (shape.window_left, shape.window_right))
        options["attn_mask"] = (offset >= -left) & (offset <= right)
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
