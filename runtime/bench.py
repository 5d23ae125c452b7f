"""Time a module's kernels beside torch's scaled_dot_product_attention, with device events, on a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from .module import DispatchModule
from .problems import TORCH_DTYPES
from .support import device_key

WARM_UP = 10
REPETITIONS = 50
TOKENS = 16384  # batch * seqlen, as in FlashAttention's benchmarks
HIDDEN = 2048  # num_heads * head_dim, likewise
FLUSH_BYTES = 256 << 20  # written between repetitions: larger than any L2 cache


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
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=torch.device(device))
    rows = []
    for dtype, head_dim, is_causal in problems:
        for seqlen in seqlens:
            shape = (max(1, TOKENS // seqlen), seqlen, max(1, HIDDEN // head_dim), head_dim)
            rows.append(_row(module, opened.facts.title, dtype, is_causal, shape, flush))
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
    flush: torch.Tensor,
) -> BenchRow:
    batch, seqlen, num_heads, head_dim = shape
    q, k, v = (torch.randn(shape, dtype=TORCH_DTYPES[dtype], device=flush.device) for _ in range(3))
    heads_first = [one.transpose(1, 2) for one in (q, k, v)]
    attention = torch.nn.functional.scaled_dot_product_attention
    ours = _median_us(lambda: module.flash_attn_func(q, k, v, causal=is_causal), flush)
    theirs = _median_us(lambda: attention(*heads_first, is_causal=is_causal), flush)
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
    )


def _median_us(run: Callable[[], object], flush: torch.Tensor) -> float:
    times: list[float] = []
    for repetition in range(WARM_UP + REPETITIONS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        if repetition >= WARM_UP:
            times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)
