"""What `speed` does in a process of its own: all implementations of one problem, and the memory that one needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from device_steps.modules import load_module, part_of
from device_steps.peers import OURS, REFERENCE, Attention, Peer, Prepare, Refused, Tensors, peer, sdpa
from device_steps.speed_shapes import DIRECTIONS, FORWARD, Direction, Shape
from device_steps.timing import Limits, Timing, describe, interleaved
from kernelwright.runtime.cuda_timer import CudaTimer, capture_graph
from kernelwright.tuner.gpu_state import current_pci_bus_id, read_state

Json = dict[str, Any]  # Any: JSON
# Two 16-bit results of the same mathematics, against the largest value of their row: each is rounded once (half a
# unit: 2^-9 of bf16, 2^-12 of fp16) and so are the probabilities; 4 times the sum of these.
_ALLOWED = {"bf16": 2**-6, "fp16": 2**-9}
_ALLOWED_ABSOLUTE = 1e-4
_ALLOWED_GRADIENT = 4  # times that of the tensor's largest value: a sum of many roundings, some of which cancel


def measure(
    *, module_dir: str, device: str, shape: Json, names: list[str], direction: str, seed: int, limits: Json
) -> Json:
    """Check implementations against SDPA, and time those that agree, in turn.

    Args:
        module_dir: our dispatch module.
        device: `cuda`, or `cpu` for the emulator, on which nothing is timed.
        shape: a `Shape` as plain data.
        names: of peers, and `ours`.
        direction: of DIRECTIONS: the forward pass, or what autograd does for dq, dk and dv.
        seed: of q, k and v, which are of standard normal values: power, so clocks, depend on the data.
        limits: a `Limits` as plain data.

    Returns:
        `results` by name: figures, or `refused`, or `wrong`; `state_before` and `state_after`, of the GPU.

    Raises:
        RuntimeError: if somebody's kernel spoilt the CUDA context, whose every call fails from then on.
    """
    problem, way = Shape(**shape), DIRECTIONS[direction]
    qkv = inputs(problem, device, seed)
    reference, reference_reason = _reference(qkv, problem, way)
    results: dict[str, Json] = {}
    calls: dict[str, Attention] = {}
    for name in names:
        results[name] = {}
        try:
            calls[name] = _prepare(name, module_dir, qkv, problem, way)
            out = calls[name]()
            if device == "cuda":
                torch.cuda.synchronize()
        except (Exception, SystemExit) as error:
            require_sound(device)
            calls.pop(name, None)
            results[name] = {"refused": str(error) if isinstance(error, Refused) else describe(error)}
            _free(device)
            continue
        same = compare if way is FORWARD else compare_gradients
        results[name] |= same(out, reference, problem.dtype) if reference is not None else {}
        if reference is None:
            results[name]["check_note"] = f"not compared, since SDPA refuses: {reference_reason}"
        if results[name].get("wrong"):
            del calls[name]
    if OURS in calls:
        results[OURS]["variant"] = _variant(load_module(module_dir), qkv, problem, way)
    del reference
    _free(device)
    answer: Json = {"results": results, "state_before": _state(device), "state_after": None}
    if device == "cuda":
        # Autograd launches on the stream of the forward pass, which a capture does not allow.
        capture = capture_graph if way is FORWARD else None
        timings = interleaved(calls, CudaTimer(), Limits(**limits), capture)
        require_sound(device)
        answer["state_after"] = _state(device)
    else:
        timings = {name: Timing() for name in calls}
    for name, timing in timings.items():
        results[name] |= {"refused": timing.reason} if timing.reason else figures(timing, problem, way)
    return answer


def _variant(module: Any, qkv: Tensors, problem: Shape, way: Direction) -> str:  # Any: imported at run time
    """Return which of our kernels answers; of a backward pass the one that takes longest."""
    if way is FORWARD:
        return str(module.explain(*qkv, causal=problem.is_causal).variant)
    options = part_of(module, "options").Options(causal=problem.is_causal)
    request = part_of(module, "inputs").check(*(one.detach() for one in qkv), options)
    routes, engine = part_of(module, "routes"), module._module.engine
    call = replace(request.call, operation=routes.BACKWARD)
    return str(routes.select(engine.route(request.key, routes.BACKWARD).choices, call).kernel.name)


def figures(timing: Timing, problem: Shape, way: Direction = FORWARD) -> Json:
    """Return times and `tflops`; nulls where nothing was timed."""
    found = timing.to_record()
    time_us = found["time_us"]
    return {**found, "tflops": None if time_us is None else round(problem.flops(way) / time_us / 1e6, 2)}


def inputs(problem: Shape, device: str, seed: int) -> Tensors:
    """Return q, k and v, [batch, seqlen, num_heads, head_dim], of standard normal values."""
    generator = torch.Generator(device=device).manual_seed(seed)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[problem.dtype]

    def values(heads: int) -> torch.Tensor:
        sizes = (problem.batch, problem.seqlen, heads, problem.head_dim)
        return torch.randn(sizes, generator=generator, dtype=dtype, device=device)

    return values(problem.num_heads_q), values(problem.num_heads_kv), values(problem.num_heads_kv)


def compare(out: torch.Tensor, reference: torch.Tensor, dtype: str) -> Json:
    """Compare with SDPA's result, row by row; `worst_difference` is the largest, as a part of what is allowed."""
    if out.shape != reference.shape:
        return {"wrong": f"the result is {list(out.shape)}, SDPA's {list(reference.shape)}"}
    wanted = reference.float()
    distance = (out.float() - wanted).abs().amax(-1)
    allowed = _ALLOWED[dtype] * wanted.abs().amax(-1) + _ALLOWED_ABSOLUTE
    worst = float((distance / allowed).max())
    if not worst <= 1:  # also for NaN
        return {"wrong": f"differs from SDPA by up to {worst:.3g} times what is allowed"}
    return {"worst_difference": round(worst, 4)}


def compare_gradients(found: Any, wanted: Any, dtype: str) -> Json:
    """Compare dq, dk and dv with those of SDPA, each as a whole; see `compare`."""
    worst = 0.0
    for name, one, other in zip(("dq", "dk", "dv"), found, wanted, strict=True):
        if one.shape != other.shape:
            return {"wrong": f"{name} is {list(one.shape)}, SDPA's {list(other.shape)}"}
        largest = float(other.float().abs().max())
        distance = float((one.float() - other.float()).abs().max())
        part = distance / (_ALLOWED_GRADIENT * _ALLOWED[dtype] * largest + _ALLOWED_ABSOLUTE)
        if not part <= 1:
            return {"wrong": f"{name} differs from SDPA's by up to {part:.3g} times what is allowed"}
        worst = max(worst, part)
    return {"worst_difference": round(worst, 4)}


def peak_memory(*, module_dir: str, device: str, shape: Json, name: str, seed: int) -> Json:
    """Return `peak_bytes`, what one call allocates at most beside q, k and v, its result included.

    What is prepared once a shape, such as a mask, does not count.
    """
    if device != "cuda":
        return {"peak_bytes": None}
    problem = Shape(**shape)
    qkv = inputs(problem, device, seed)
    try:
        with torch.no_grad():
            call = _prepare(name, module_dir, qkv, problem, FORWARD)
            if name == OURS:  # prepared with a result of its own, which here is part of what a call needs
                module = load_module(module_dir)
                call = lambda: module.flash_attn_func(*qkv, causal=problem.is_causal)  # noqa: E731
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            torch.cuda.synchronize()
    except Exception as error:
        return {"refused": describe(error), "peak_bytes": None}
    return {"peak_bytes": torch.cuda.max_memory_allocated() - before}


def _prepare(name: str, module_dir: str, qkv: Tensors, problem: Shape, way: Direction) -> Callable[[], Any]:
    chosen = peer(name) if name != OURS else _ours(module_dir) if way is FORWARD else _ours_trained(module_dir)
    return _called(chosen.prepare, qkv, problem, way)


def _called(prepare: Prepare, qkv: Tensors, problem: Shape, way: Direction) -> Callable[[], Any]:
    """Return a call of the forward pass, or one that makes dq, dk and dv of a forward pass that was kept."""
    if way is FORWARD:
        with torch.no_grad():
            attend = prepare(qkv, problem.is_causal)

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return attend()

        return forward
    leaves = [one.detach().requires_grad_() for one in qkv]
    with torch.enable_grad():
        out = prepare((leaves[0], leaves[1], leaves[2]), problem.is_causal)()
    if not out.requires_grad:
        raise Refused("its result has no gradient")
    generator = torch.Generator(device=out.device).manual_seed(0)
    dout = torch.randn(out.shape, generator=generator, dtype=out.dtype, device=out.device)
    return lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)


def _ours_trained(module_dir: str) -> Peer:
    """Ours where gradients are wanted: a result of its own each time."""
    module = load_module(module_dir)
    no_kernel = part_of(module, "errors").NoKernelError

    def prepare(qkv: Tensors, is_causal: bool) -> Attention:
        def call() -> torch.Tensor:
            try:
                result: torch.Tensor = module.flash_attn_func(*qkv, causal=is_causal)
            except no_kernel as error:
                raise Refused(str(error).splitlines()[0]) from error
            return result

        return call

    return Peer(name=OURS, prepare=prepare)


def _ours(module_dir: str) -> Peer:
    module = load_module(module_dir)
    no_kernel = part_of(module, "errors").NoKernelError

    def prepare(qkv: Tensors, is_causal: bool) -> Attention:
        q, k, v = qkv
        out = torch.empty_like(q)
        call: Attention = lambda: module.flash_attn_func(q, k, v, causal=is_causal, out=out)  # noqa: E731
        try:
            call()  # loads the kernel, which may not happen in a capture
        except no_kernel as error:
            raise Refused(str(error).splitlines()[0]) from error
        return call

    return Peer(name=OURS, prepare=prepare)


def _reference(qkv: Tensors, problem: Shape, way: Direction) -> tuple[Any, str]:  # Any: a tensor, or three
    try:
        found = _called(sdpa(None), qkv, problem, way)()
        return (found.clone() if way is FORWARD else found), ""
    except Exception as error:
        return None, f"{REFERENCE}: {describe(error)}"


def _state(device: str) -> Json | None:
    return read_state(current_pci_bus_id()) if device == "cuda" else None


def require_sound(device: str) -> None:
    """Raise if a kernel's fault has spoilt the context: what comes after it would be blamed on others."""
    if device == "cuda":
        torch.cuda.synchronize()


def _free(device: str) -> None:
    """Give back what an implementation that refused or is done left in torch's cache: plain attention needs it."""
    if device == "cuda":
        torch.cuda.empty_cache()
