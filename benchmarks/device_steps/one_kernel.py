"""What is done with one kernel of any family, in a process of its own."""

from __future__ import annotations

import base64
import os
from typing import Any

import torch

from device_steps.modules import load_module, part_of

LARGE: tuple[dict[str, Any], ...] = (
    {"seqlen_q": 1, "seqlen_k": 16384, "num_heads_kv": 2, "group": 8},
    {"seqlen_q": 1024, "seqlen_k": 1024, "batch": 3, "num_heads_kv": 4, "layout": "heads_first"},
    {"seqlen_q": 2049, "seqlen_k": 2047, "group": 2, "kind": "needle"},
    {"seqlen_q": 1023, "seqlen_k": 8193, "layout": "padded_heads"},
    {"seqlen_q": 512, "seqlen_k": 16384, "kind": "needle", "group": 4},
    {"seqlen_q": 130, "seqlen_k": 4096, "batch": 2, "num_heads_kv": 8, "group": 8},
)
"""Shapes that only a GPU is quick enough for; each reference stays around a second on a few cores."""
_MOST_SCORES = 2**24  # of a large shape for gradients, whose reference holds all scores several times
_FORWARD = "flash_fwd"


def check(
    *, module_dir: str, device: str, variant: str, seed: int, problems: int, large: bool
) -> dict[str, Any]:  # Any: JSON
    """Compare a kernel with float64, by the checker that its module ships.

    Args:
        problems: how many of its own small problems.
        large: the large shapes instead.
    """
    module = load_module(module_dir)
    checker = part_of(module, "check")
    if not large:
        (one,) = checker.check_module(module, problems, device=device, seed=seed, variants=[variant]).variants
        if one.skipped:
            return {"note": one.skipped}
        results = one.results
    else:
        record = _record(module, variant)
        sizes = [one for one in LARGE if record.operation == _FORWARD or _scores(one) <= _MOST_SCORES]
        asked = part_of(module, "problems").problems_of(checker.whole_problem(record), record.schedule, sizes, seed)
        key = part_of(module, "support").device_key(device)
        with module.force_variant(variant):
            results = checker.check_problems(module._module, record, asked, seed + 1000, key)
    verdicts = [one.verdict for one in results if one.verdict is not None]
    faults = [f"{one.problem}: {one.fault}" for one in results if one.fault]
    if faults and _is_spoilt(device):
        return {"fault": "error", "detail": faults[0]}  # ends this process: later calls would fail for it too
    answer: dict[str, Any] = {"problems": len(results), "failed": len(faults)}
    margins = [max(one.row_margin, one.tensor_margin) for one in verdicts]
    if margins and all(margin < float("inf") for margin in margins):
        answer["worst_margin"] = round(max(margins), 4)
        answer["max_error"] = max(one.max_error for one in verdicts)
    return answer | ({"wrong": faults} if faults else {})


def repeat(
    *, module_dir: str, device: str, variant: str, seed: int, runs: int, outputs: list[str]
) -> dict[str, Any]:  # Any: JSON
    """Run a kernel again and again on one input, and count the runs in which an output's bits differ."""
    module = load_module(module_dir)
    problem = _repeat_problem(module, variant)
    differing = dict.fromkeys(outputs, 0)
    first: dict[str, torch.Tensor] = {}
    for _ in range(runs):
        found = _run(module, variant, problem, seed, device)
        for name in outputs:
            bits = found[name].contiguous().view(torch.int16 if found[name].element_size() == 2 else torch.int32).cpu()
            differing[name] += not torch.equal(first.setdefault(name, bits), bits)
    return {"runs": runs, "differing": differing}


def launch(*, module_dir: str, device: str, variant: str, seed: int, emulate: str = "") -> dict[str, Any]:  # Any: JSON
    """Run a kernel once, on the emulator for `cpu`; return each output's bytes in base64, and its element type.

    Args:
        emulate: the emulator's device and options, as in `KERNELWRIGHT_EMULATE`.
    """
    if emulate:
        os.environ["KERNELWRIGHT_EMULATE"] = emulate  # of this process alone
    module = load_module(module_dir)
    found = _run(module, variant, _small_problem(module, variant), seed, device)
    answer = {}
    for name, tensor in found.items():
        bits = tensor.contiguous().view(torch.uint8).cpu()
        data = base64.b64encode(bytes(bits.flatten().tolist())).decode()
        answer[name] = {"dtype": str(tensor.dtype).removeprefix("torch."), "data": data}
    return answer


def _scores(sizes: dict[str, Any]) -> int:
    heads = sizes.get("num_heads_kv", 1) * sizes.get("group", 1) * sizes.get("batch", 1)
    return int(sizes["seqlen_q"] * sizes["seqlen_k"] * heads)


def _is_spoilt(device: str) -> bool:
    """Whether a kernel's fault has spoilt the CUDA context."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _record(module: Any, variant: str) -> Any:  # Any: of a module imported at run time
    return next(table.kernels[variant] for table in module._module.engine.tables() if variant in table.kernels)


def _run(module: Any, variant: str, problem: Any, seed: int, device: str) -> dict[str, Any]:  # Any: as above
    """Return the outputs of one launch; they were NaN before, in buffers of NaN."""
    record = _record(module, variant)
    block_n = int(record.schedule.get("block_n", 64))
    if record.operation != _FORWARD:
        key = part_of(module, "support").device_key(device)
        run = part_of(module, "backward_check").run_backward
        with module.force_variant(variant):
            outputs: dict[str, Any] = run(module._module.engine, key, record, problem, block_n=block_n, seed=seed)
        return outputs
    problems = part_of(module, "problems")
    place = torch.device(device)
    made = problems.make_inputs(problem, block_n, seed, place, module._module.engine.binding.visibility)
    attend = module._module.attention.attend
    with module.force_variant(variant), torch.no_grad():
        request = part_of(module, "inputs").check(made.q, made.k, made.v, made.options)
        out = problems.guarded(request.out_shape, problems.TORCH_DTYPES[problem.dtype], place).tensor
        lse = problems.guarded(request.lse_shape, torch.float32, place).tensor
        written = out if made.options.sequences is None else out.squeeze(0)
        attend(made.q, made.k, made.v, made.options, True, written, lse)
    if device == "cuda":
        torch.cuda.synchronize()
    return {"out": out, "lse": lse}


def _small_problem(module: Any, variant: str) -> Any:  # Any: as above
    """A row tile and a bit by a key tile and a bit, two heads on one."""
    return _problem(module, variant, rows=1, keys=1)


def _repeat_problem(module: Any, variant: str) -> Any:  # Any: as above
    """More tiles than the ring of stages holds."""
    return _problem(module, variant, rows=1, keys=4)


def _problem(module: Any, variant: str, *, rows: int, keys: int) -> Any:  # Any: as above
    record = _record(module, variant)
    schedule = record.schedule
    sizes = {
        "seqlen_q": rows * int(schedule["block_m"]) + 3,
        "seqlen_k": keys * int(schedule.get("block_n", 64)) + 5,
        "group": 2,
    }
    if record.operation == "flash_bwd":  # it is queries that turn over in its ring, and with a mask keys see them
        sizes["seqlen_q"] += (keys - 1) * int(schedule["block_m"])
    whole = part_of(module, "check").whole_problem(record)
    (one,) = part_of(module, "problems").problems_of(whole, schedule, [sizes], 0)
    return one
