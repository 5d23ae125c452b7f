"""The measured scorer: device time of a kernel on a GPU, through a module's own launcher.

Each sample flushes the L2 cache, then times one call between two CUDA events. Queueing the flush ahead of the
events also hides the host's share of the launch. Figures are medians, in microseconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from kernelwright.gen.devices import Device
from kernelwright.gen.spec import ForwardProblem
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.gpu_state import current_pci_bus_id, read_state
from kernelwright.tuner.isolation import stage
from kernelwright.tuner.results import Label
from kernelwright.tuner.scratch import ScratchModule
from kernelwright.tuner.shapes import SPARSE_SHARE, Shape
from kernelwright.tuner.work import Compiled, Scored, Timed

MEASURE_VERSION = 2  # 2: estimates of 5 samples, finals raced
_SPARSE_BLOCK = 128  # queries and keys of a block-sparse call's blocks
_WARM_UP_CALLS = 3
_REPETITIONS = 20
_ESTIMATE = 5  # samples of a shape in the search; finals decide
_FLUSH_FACTOR = 2  # of the L2 cache, written before each sample
_TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Timer(Protocol):
    """Measures one call of a function on the device, with a cold L2 cache."""

    def sample_us(self, call: Callable[[], object]) -> float: ...


class CudaTimer:
    """CUDA events on the current stream."""

    def __init__(self, l2_mib: int) -> None:
        self._buffer = torch.empty(_FLUSH_FACTOR * l2_mib * 2**18, dtype=torch.int32, device="cuda")

    def sample_us(self, call: Callable[[], object]) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._buffer.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3


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
        return torch.randn(sizes, generator=generator, dtype=_TORCH_DTYPES[problem.dtype], device=device)

    return (
        values(0, shape.num_heads_q, problem.head_dim),
        values(1, shape.num_heads_kv, problem.head_dim),
        values(1, shape.num_heads_kv, problem.head_dim_v),
    )


def make_call(module: Any, problem: ForwardProblem, shape: Shape, device: str) -> Callable[[], object]:  # Any: as below
    """Return a call of a module's function for a problem's features, everything it needs made before."""
    q, k, v = make_inputs(problem, shape, device)
    place = q.device
    generator = torch.Generator(device=place).manual_seed(1)
    options: dict[str, Any] = {"out": torch.empty(*q.shape[:-1], problem.head_dim_v, dtype=q.dtype, device=place)}
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
    if problem.is_block_sparse:
        if problem.is_local or problem.is_varlen:
            raise TunerError(f"no block-sparse call of the kind of {shape.name} is made for measuring yet")
        blocks = [-(-length // _SPARSE_BLOCK) for length in (shape.seqlen_q, shape.seqlen_k)]
        kept = torch.rand(blocks, generator=generator, device=place) < SPARSE_SHARE
        dense = kept.repeat_interleave(_SPARSE_BLOCK, 0).repeat_interleave(_SPARSE_BLOCK, 1)
        mask = module.BlockMask.from_dense(dense[: shape.seqlen_q, : shape.seqlen_k], _SPARSE_BLOCK, _SPARSE_BLOCK)
        return lambda: module.sparse_attn_func(q, k, v, mask, causal=problem.is_causal, **options)
    options |= {"causal": problem.is_causal, "window_size": (shape.window_left, shape.window_right)}
    if not problem.is_varlen:
        return lambda: module.flash_attn_func(q, k, v, **options)
    lengths = torch.tensor([(0, 0), *shape.lengths(is_varlen=True)], device=place)
    q_ends, k_ends = lengths.cumsum(0).int().unbind(1)
    sizes = (q_ends.contiguous(), k_ends.contiguous(), shape.seqlen_q, shape.seqlen_k)
    return lambda: module.flash_attn_varlen_func(q, k, v, *sizes, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuScorer:
    """Measures `time_us` for each shape on the current GPU.

    Args:
        scratch: the module that launches.
        device: the GPU's row in `configs/devices.yaml`, for the size of its L2 cache.
        shapes: what to measure.
    """

    scratch: ScratchModule
    device: Device
    shapes: tuple[Shape, ...]

    @property
    def label(self) -> Label:
        return "measured"

    def score(self, compiled: Compiled) -> Scored:
        """Give an estimate of each shape: enough to say what is worth a place in the final."""
        timer = CudaTimer(self.device.l2_mib)
        with self.scratch.holding(compiled) as module:
            timed = {
                shape.name: self._timed(module, compiled, shape, timer, _WARM_UP_CALLS, _ESTIMATE)
                for shape in self.shapes
            }
        return Scored(
            figures={name: round(statistics.median(one.samples), 3) for name, one in timed.items()},
            samples={name: one.samples for name, one in timed.items()},
            states={name: one.state for name, one in timed.items() if one.state is not None},
        )

    def time(self, compiled: Compiled, shape: str, repeats: int) -> Timed:
        """Return raw times, the first of which is of a cold kernel."""
        (wanted,) = (one for one in self.shapes if one.name == shape)
        with self.scratch.holding(compiled) as module:
            return self._timed(module, compiled, wanted, CudaTimer(self.device.l2_mib), 0, repeats)

    def _timed(
        self,
        module: Any,  # Any: imported at run time
        compiled: Compiled,
        shape: Shape,
        timer: Timer,
        warm_up: int,
        repeats: int,
    ) -> Timed:
        stage(f"measuring {shape.name}")
        call = make_call(module, compiled.variant.problem, shape, "cuda")
        samples = samples_us(call, timer, warm_up=warm_up, repetitions=repeats)
        state = read_state(current_pci_bus_id() if torch.cuda.is_available() else None)
        return Timed(samples=samples, state=state)
