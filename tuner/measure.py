"""The measured scorer: device time of a kernel on a GPU, through a module's own launcher.

Samples have a cold L2 cache and are taken by events, or by graphs where kernels are short (`runtime/timing.py`).
Figures are medians, in microseconds. What is far behind the best of the search gets few samples.
"""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernelwright.gen.spec import OPERATION, ForwardProblem, Variant
from kernelwright.runtime.cuda_timer import CudaTimer, capture_graph
from kernelwright.runtime.problems import TORCH_DTYPES
from kernelwright.runtime.timing import Capture, Method, Sampling, Timer, method_for, sampling_of
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.gpu_state import current_pci_bus_id, read_state
from kernelwright.tuner.isolation import stage
from kernelwright.tuner.results import Label
from kernelwright.tuner.scratch import ScratchModule
from kernelwright.tuner.shapes import SPARSE_SHARE, Shape
from kernelwright.tuner.work import Compiled, Scored, Timed

MEASURE_VERSION = 3  # 2: estimates of 5 samples, finals raced; 3: graphs where kernels are short
_SPARSE_BLOCK = 128  # queries and keys of a block-sparse call's blocks
_WARM_UP_CALLS = 3
_REPETITIONS = 20
_ESTIMATE = 5  # samples of a shape in the search; finals decide
_LOOKS = 2  # samples of a shape after which a kernel may be dropped: one may be slow by accident
HOPELESS = 2.0  # times the best of the search on a shape, from which on a kernel is dropped there


def median_us(
    call: Callable[[], object], timer: Timer, *, warm_up: int = _WARM_UP_CALLS, repetitions: int = _REPETITIONS
) -> float:
    """Return the median of the samples after those of the warm-up."""
    return statistics.median(samples_us(call, timer, warm_up=warm_up, repetitions=repetitions))


def samples_us(
    call: Callable[[], object], timer: Timer, *, warm_up: int = _WARM_UP_CALLS, repetitions: int = _REPETITIONS
) -> list[float]:
    """Return the samples after those of the warm-up."""
    for _ in range(warm_up):
        timer.sample_us(call)
    return [round(timer.sample_us(call), 3) for _ in range(repetitions)]


def estimate(call: Callable[[], object], timer: Timer, capture: Capture | None, best_us: float | None) -> Timed:
    """Take the samples of a search's estimate; few if the first of them are beyond twice the best so far.

    Args:
        call: what is timed.
        timer, capture: how; see `runtime/timing.py`.
        best_us: the best figure of the same shape so far; None if there is none.
    """
    timer.sample_us(call)  # loads the kernel
    expected_us = timer.sample_us(call)
    known = [] if best_us is None else [best_us]
    sampling = sampling_of(call, timer, expected_us, method_for([expected_us, *known]), capture)
    looks = [round(sampling.sample_us(), 3) for _ in range(_LOOKS)]  # the rest of the warm-up
    if best_us is not None and min(looks) > HOPELESS * best_us and not sampling.note:
        dropped = f"more than {HOPELESS:g} times the best ({best_us:g} us) at its first {_LOOKS} samples"
        return _timed(sampling, looks, dropped)
    return _timed(sampling, [round(sampling.sample_us(), 3) for _ in range(_ESTIMATE)])


def burst(call: Callable[[], object], timer: Timer, capture: Capture | None, repeats: int, method: Method) -> Timed:
    """Take raw samples in a row, the first of which is of a cold kernel."""
    if method == "events":
        return _timed(
            sampling_of(call, timer, 0.0, method, capture), samples_us(call, timer, warm_up=0, repetitions=repeats)
        )
    sampling = sampling_of(call, timer, timer.sample_us(call), method, capture)
    return _timed(sampling, [round(sampling.sample_us(), 3) for _ in range(repeats)])


def _timed(sampling: Sampling, samples: list[float], dropped: str = "") -> Timed:
    return Timed(samples=samples, method=sampling.method, dropped=dropped, note=sampling.note)


def require_gpu_answers() -> None:
    """Compute one sum on the current GPU.

    Raises:
        RuntimeError: if it does not answer, or not rightly.
    """
    found = float(torch.ones(1024, device="cuda").sum().item())
    if found != 1024:
        raise RuntimeError(f"the GPU adds 1024 ones to {found:g}")


def make_inputs(problem: ForwardProblem, shape: Shape, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return q, k and v of standard normal values, the same for a shape; of varlen problems one after another."""
    generator = torch.Generator(device=device).manual_seed(0)
    lengths = shape.lengths(is_varlen=problem.is_varlen)

    def values(side: int, heads: int, head_dim: int) -> torch.Tensor:
        rows = (sum(one[side] for one in lengths),) if problem.is_varlen else (shape.batch, lengths[0][side])
        sizes = (*rows, heads, head_dim)
        return torch.randn(sizes, generator=generator, dtype=TORCH_DTYPES[problem.dtype], device=device)

    return (
        values(0, shape.num_heads_q, problem.head_dim),
        values(1, shape.num_heads_kv, problem.head_dim),
        values(1, shape.num_heads_kv, problem.head_dim_v),
    )


def make_call(module: Any, variant: Variant, shape: Shape, device: str) -> Callable[[], object]:  # Any: as below
    """Return a call that runs a variant of a module, which answers calls; everything it needs is made before.

    A forward kernel is called by the module's function, one of the backward pass by itself. What that adds to dQ and
    never takes away grows from call to call: atomics take as long whatever they add to, so nothing is zeroed between.
    """
    problem = variant.problem
    q, k, v = make_inputs(problem, shape, device)
    place = q.device
    generator = torch.Generator(device=place).manual_seed(1)
    options: dict[str, Any] = {}
    heads = torch.arange(1, shape.num_heads_q + 1, device=place)
    if problem.has_softcap:
        options["softcap"] = 50.0
    if problem.has_alibi:
        options["alibi_slopes"] = torch.exp2(-8 * heads / shape.num_heads_q).float()
    if problem.has_bias:
        bias_shape = (1, 1, shape.seqlen_q, shape.seqlen_k)  # read anew by every head
        options["bias"] = torch.randn(bias_shape, generator=generator, dtype=q.dtype, device=place)
    if problem.has_dropout:
        options |= {"dropout_p": 0.1, "rng_state": torch.tensor([1, 2], device=place)}
    options["causal"] = problem.is_causal
    mask = _block_mask(module, problem, shape, generator) if problem.is_block_sparse else None
    if mask is None:
        options["window_size"] = (shape.window_left, shape.window_right)
    sizes: tuple[Any, ...] = ()
    if problem.is_varlen:
        lengths = torch.tensor([(0, 0), *shape.lengths(is_varlen=True)], device=place)
        q_ends, k_ends = lengths.cumsum(0).int().unbind(1)
        sizes = (q_ends.contiguous(), k_ends.contiguous(), shape.seqlen_q, shape.seqlen_k)
    if variant.operation != OPERATION:
        return _gradient_call(module, variant, (q, k, v), options, mask, sizes)
    options["out"] = torch.empty(*q.shape[:-1], problem.head_dim_v, dtype=q.dtype, device=place)
    if mask is not None:
        return lambda: module.sparse_attn_func(q, k, v, mask, **options)
    function = module.flash_attn_varlen_func if problem.is_varlen else module.flash_attn_func
    return lambda: function(q, k, v, *sizes, **options)


def _block_mask(module: Any, problem: ForwardProblem, shape: Shape, generator: torch.Generator) -> Any:
    if problem.is_local or problem.is_varlen:
        raise TunerError(f"no block-sparse call of the kind of {shape.name} is made for measuring yet")
    blocks = [-(-length // _SPARSE_BLOCK) for length in (shape.seqlen_q, shape.seqlen_k)]
    kept = torch.rand(blocks, generator=generator, device=generator.device) < SPARSE_SHARE
    dense = kept.repeat_interleave(_SPARSE_BLOCK, 0).repeat_interleave(_SPARSE_BLOCK, 1)
    return module.BlockMask.from_dense(dense[: shape.seqlen_q, : shape.seqlen_k], _SPARSE_BLOCK, _SPARSE_BLOCK)


def _gradient_call(
    module: Any,
    variant: Variant,
    inputs: tuple[torch.Tensor, ...],
    options: dict[str, Any],
    mask: Any,
    sizes: tuple[Any, ...],
) -> Callable[[], object]:
    """Return a launch of a kernel that makes gradients; lse is near that of the scores of standard normal values."""
    shipped = {
        name: importlib.import_module(f"{module.__name__}._runtime.{name}")
        for name in ("options", "inputs", "direct", "support")
    }
    sequences = None
    if sizes:
        names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
        sequences = shipped["options"].Sequences(**dict(zip(names, sizes, strict=True)))
    request = shipped["inputs"].check(
        *inputs, shipped["options"].Options(**options, block_mask=mask, sequences=sequences)
    )
    place, shape = request.q.device, request.shape
    generator = torch.Generator(device=place).manual_seed(2)

    def values(sizes: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(tuple(sizes), generator=generator, dtype=torch.float32, device=place).to(dtype)

    given = {
        **{"q": request.q, "k": request.k, "v": request.v, "dout": values(request.out_shape, request.q.dtype)},
        **{"lse": math.log(shape.max_seqlen_k) + 0.5 + 0.1 * values(request.lse_shape, torch.float32)},
        **{"delta": values(request.lse_shape, torch.float32), **request.lowered.tensors},
        **{"dq": torch.empty_like(request.q), "dk": torch.empty_like(request.k), "dv": torch.empty_like(request.v)},
        **{"dq_sum": torch.zeros(request.q.shape, device=place)},
    }
    if mask is not None and variant.operation == "flash_bwd":
        given |= mask.by_keys().tensors(shape.num_seqs, shape.num_heads_q)
    scalars = {**request.lowered.scalars, "max_seqlen_k": shape.max_seqlen_k}
    engine = module._module.engine
    record = next(table.kernels[variant.name] for table in engine.tables() if variant.name in table.kernels)
    launch = shipped["direct"].prepare_launch(engine, shipped["support"].device_key(place), record, given, scalars)
    return lambda: launch()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuScorer:
    """Measures `time_us` for each shape on the current GPU.

    Args:
        scratch: the module that launches.
        shapes: what to measure.
    """

    scratch: ScratchModule
    shapes: tuple[Shape, ...]

    @property
    def label(self) -> Label:
        return "measured"

    def score(self, compiled: Compiled) -> Scored:
        """Give an estimate of each shape: enough to say what is worth a place in the final."""
        return self.score_against(compiled, {})

    def score_against(self, compiled: Compiled, best: Mapping[str, float]) -> Scored:
        """Do the same with few samples of a shape on which a kernel is far behind the best so far."""
        timer = CudaTimer()
        with self.scratch.holding(compiled) as module:
            timed = {
                shape.name: self._timed(
                    module,
                    compiled,
                    shape,
                    lambda call, name=shape.name: estimate(call, timer, capture_graph, best.get(name)),  # type: ignore[misc]
                )
                for shape in self.shapes
            }
        return Scored(
            figures={name: round(statistics.median(one.samples), 3) for name, one in timed.items()},
            samples={name: one.samples for name, one in timed.items()},
            states={name: one.state for name, one in timed.items() if one.state is not None},
            methods={name: one.method for name, one in timed.items()},
            dropped={name: one.dropped for name, one in timed.items() if one.dropped},
        )

    def time(self, compiled: Compiled, shape: str, repeats: int, method: Method) -> Timed:
        """Return raw times, the first of which is of a cold kernel."""
        (wanted,) = (one for one in self.shapes if one.name == shape)
        timer = CudaTimer()
        with self.scratch.holding(compiled) as module:
            return self._timed(
                module, compiled, wanted, lambda call: burst(call, timer, capture_graph, repeats, method)
            )

    def _timed(
        self,
        module: Any,  # Any: imported at run time
        compiled: Compiled,
        shape: Shape,
        take: Callable[[Callable[[], object]], Timed],
    ) -> Timed:
        stage(f"measuring {shape.name}")
        timed = take(make_call(module, compiled.variant, shape, "cuda"))
        return replace(timed, state=read_state(current_pci_bus_id() if torch.cuda.is_available() else None))
