"""Time a module's kernels beside torch's scaled_dot_product_attention on a GPU, by events or graphs (`timing.py`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch

from .cuda_timer import CudaTimer, capture_graph
from .module import DispatchModule
from .problems import TORCH_DTYPES
from .support import device_key
from .timing import Method, Timer, method_for, sampling_of

WARM_UP = 10
REPETITIONS = 50
TOKENS = 16384  # batch * seqlen, as in FlashAttention's benchmarks
HIDDEN = 2048  # num_heads * head_dim, likewise
L2_MIB = 128  # flushed between repetitions: no GPU has more


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """Measured medians. Flops count the products that are needed: 4 * pairs of query and visible key * head_dim."""

    label: str
    device: str
    variant: str
    dtype: str
    head_dim: int
    is_causal: bool
    batch: int
    seqlen: int
    num_heads: int
    time_us: float
    sdpa_time_us: float
    tflops: float
    sdpa_tflops: float
    repetitions: int
    method: Method
    sdpa_method: Method

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.dtype} hd{self.head_dim} {'causal' if self.is_causal else 'full':<6} batch {self.batch:>3} "
            f"seqlen {self.seqlen:>6}: {self.time_us:>9.1f} us {self.tflops:>6.1f} TFLOP/s, sdpa "
            f"{self.sdpa_time_us:>9.1f} us {self.sdpa_tflops:>6.1f} TFLOP/s ({self.label}, {self.variant})"
        )


def why_no_gpu() -> str | None:
    """Return why nothing can be timed, None if it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return None if torch.cuda.is_available() else "torch.cuda.is_available() is False"


def bench_module(module: DispatchModule, *, device: str, seqlens: Sequence[int]) -> list[BenchRow]:
    """Time every problem without features that the module has a kernel for, at each length."""
    key = device_key(device)
    opened = module.engine.device(key)
    problems = sorted(
        {
            (one.kernel.dtype, int(str(one.kernel.problem["head_dim"])), bool(one.kernel.problem["is_causal"]))
            for one in module.engine.route(key).choices
            if not one.why_illegal and _is_plain(one.kernel.problem)
        }
    )
    rows = []
    place = torch.device(device)
    with torch.cuda.device(place) if place.type == "cuda" else nullcontext():  # whose stream events are recorded in
        timer = CudaTimer(L2_MIB, device=device)
        for dtype, head_dim, is_causal in problems:
            for seqlen in seqlens:
                shape = (max(1, TOKENS // seqlen), seqlen, max(1, HIDDEN // head_dim), head_dim)
                rows.append(_row(module, opened.facts.title, dtype, is_causal, shape, timer, place))
    return rows


def _is_plain(problem: Mapping[str, object]) -> bool:
    """Whether a kernel computes what torch's attention does: no feature but causal."""
    flags = [name for name, value in problem.items() if value is True and name != "is_causal"]
    return not flags and problem["head_dim"] == problem["head_dim_v"]


def _row(
    module: DispatchModule,
    title: str,
    dtype: str,
    is_causal: bool,
    shape: tuple[int, int, int, int],
    timer: Timer,
    place: torch.device,
) -> BenchRow:
    batch, seqlen, num_heads, head_dim = shape
    q, k, v = (torch.randn(shape, dtype=TORCH_DTYPES[dtype], device=place) for _ in range(3))
    heads_first = [one.transpose(1, 2) for one in (q, k, v)]
    attention = torch.nn.functional.scaled_dot_product_attention
    (ours, method), (theirs, sdpa_method) = _medians_us(
        (
            lambda: module.flash_attn_func(q, k, v, causal=is_causal),
            lambda: attention(*heads_first, is_causal=is_causal),
        ),
        timer,
    )
    pairs = seqlen * (seqlen + 1) / 2 if is_causal else seqlen**2
    flops = 4 * batch * num_heads * pairs * head_dim
    return BenchRow(
        label="measured",
        device=title,
        variant=module.explain(q, k, v, None, is_causal).variant or "",
        dtype=dtype,
        head_dim=head_dim,
        is_causal=is_causal,
        batch=batch,
        seqlen=seqlen,
        num_heads=num_heads,
        time_us=ours,
        sdpa_time_us=theirs,
        tflops=flops / ours / 1e6,
        sdpa_tflops=flops / theirs / 1e6,
        repetitions=REPETITIONS,
        method=method,
        sdpa_method=sdpa_method,
    )


def _medians_us(calls: Sequence[Callable[[], object]], timer: Timer) -> list[tuple[float, Method]]:
    """Return each call's median and how it was timed: all alike, where all can be captured."""
    expected_us = [min(timer.sample_us(call) for _ in range(WARM_UP)) for call in calls]
    method = method_for(expected_us)
    samplings = [
        sampling_of(call, timer, expected, method, capture_graph)
        for call, expected in zip(calls, expected_us, strict=True)
    ]
    return [
        (statistics.median(sampling.sample_us() for _ in range(REPETITIONS)), sampling.method) for sampling in samplings
    ]
