"""Check one problem on one kernel of the backward pass: launched by itself, what it writes poisoned before.

`flash_bwd` and `flash_bwd_dq` are held against float64 gradients, the kernels of single rows against torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from .devices import DeviceKey
from .direct import prepare_launch
from .engine import Engine
from .errors import KernelError
from .gate import Verdict
from .gradient_check import Case, judge_gradients, make_case, row_verdict
from .problems import Guarded, Problem, guarded
from .routes import CONVERT, DELTA, FORWARD
from .table import KernelRecord

_ROUNDING = 2.0**-24  # of float32: a sum of n products is off by at most n of these of the sum of their sizes
_NOTHING = 2.0**-149  # less than any two numbers of 16 bits differ by


def check_backward(
    engine: Engine, key: DeviceKey, record: KernelRecord, problem: Problem, *, block_n: int, seed: int
) -> tuple[Verdict | None, str]:
    """Return the verdict on a problem, None where nothing could be compared, and the fault, "" if there is none.

    The kernel must be the one that answers calls of its operation, as under `force_variant`.
    """
    try:
        done = _launched(engine, key, record, problem, block_n=block_n, seed=seed)
        verdict = done.judge()
    except (KernelError, RuntimeError) as error:
        return None, f"{type(error).__name__}: {error}"
    beside = [f"memory beside {name} was written" for name, one in done.held.items() if not one.is_intact()]
    return verdict, "; ".join([*([verdict.fault] if verdict.fault else []), *beside])


def run_backward(
    engine: Engine, key: DeviceKey, record: KernelRecord, problem: Problem, *, block_n: int, seed: int
) -> dict[str, torch.Tensor]:
    """Return what a kernel writes on a problem, by name; what it adds to in float32.

    Raises:
        KernelError: if the launch fails.
    """
    held = _launched(engine, key, record, problem, block_n=block_n, seed=seed).held
    return {name: one.tensor for name, one in held.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Done:
    """What a launch wrote, and how it is judged."""

    held: Mapping[str, Guarded]
    judge: Callable[[], Verdict]


def _launched(
    engine: Engine, key: DeviceKey, record: KernelRecord, problem: Problem, *, block_n: int, seed: int
) -> _Done:
    visibility = engine.binding_of(FORWARD).visibility
    case = make_case(problem, visibility, block_n=block_n, seed=seed, device=place_of(key))
    of_rows = {DELTA: _delta, CONVERT: _convert}.get(record.operation)
    if of_rows is not None:
        given, name, held, judge = of_rows(case)
        _launch(engine, key, record, {**given, name: held.tensor}, {})
        return _Done(held={name: held}, judge=judge)
    binding = engine.binding_of(record.operation)
    names = [one.name for one in binding.tensors]
    written = case.written(names)
    scalars = case.scalars([one.name for one in binding.scalars])
    _launch(engine, key, record, {**case.inputs(names), **written.launched}, scalars)
    return _Done(held=written.held, judge=lambda: judge_gradients(written.gradients, case))


def place_of(key: DeviceKey) -> torch.device:
    """Return where a device's tensors are."""
    return torch.device(key.type, key.index if key.type == "cuda" else 0)


_Rows = tuple[dict[str, torch.Tensor], str, Guarded, Callable[[], Verdict]]  # given, what is written, where, the judge


def _delta(case: Case) -> _Rows:
    request = case.request
    out = guarded(request.out_shape, request.q.dtype, request.q.device, case.problem.layout)
    out.tensor.copy_(case.reference.out)
    held = _dense(request.lse_shape, request.q.device)

    def judge() -> Verdict:
        products = out.tensor.cpu().double() * case.dout.cpu().double()
        error = (held.tensor.cpu().double() - products.sum(-1).mT).abs().nan_to_num(nan=torch.inf)
        allowed = products.shape[-1] * _ROUNDING * products.abs().sum(-1).mT + _NOTHING
        return row_verdict("delta", error, allowed)

    return {"out": out.tensor, "dout": case.dout}, "delta", held, judge


def _convert(case: Case) -> _Rows:
    q = case.request.q
    total = _dense(tuple(q.shape), q.device).tensor
    total.copy_(torch.randn(q.shape, generator=torch.Generator().manual_seed(0)))
    held = guarded(tuple(q.shape), q.dtype, q.device, case.problem.layout)

    def judge() -> Verdict:
        expected = total.cpu().to(q.dtype).double()  # to the bit
        error = (held.tensor.cpu().double() - expected).abs().nan_to_num(nan=torch.inf).amax(-1)
        return row_verdict("dq", error, torch.full_like(error, _NOTHING))

    return {"dq_sum": total}, "dq", held, judge


def _dense(shape: tuple[int, ...], device: torch.device) -> Guarded:
    """Contiguous memory of float32 NaN beside NaN."""
    count = 1
    for size in shape:
        count *= size
    flat = guarded((count,), torch.float32, device)
    return Guarded(tensor=flat.tensor.view(shape), buffer=flat.buffer)


def _launch(
    engine: Engine,
    key: DeviceKey,
    record: KernelRecord,
    tensors: Mapping[str, torch.Tensor],
    scalars: Mapping[str, float],
) -> None:
    prepare_launch(engine, key, record, tensors, scalars)()
    if key.type == "cuda":
        torch.cuda.synchronize(place_of(key))
