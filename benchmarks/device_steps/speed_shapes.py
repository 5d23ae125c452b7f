"""The problems that are timed: FlashAttention's protocol, head dimensions between its own, a Llama layer.

Source of the protocol: Dao-AILab/flash-attention, benchmarks/benchmark_flash_attention.py and the FlashAttention-2 and
-3 papers: 16k tokens whatever the length, hidden size 2048, 4 flops for each query, key and head_dim, half if causal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

TOKENS, HIDDEN = 16384, 2048
SEQLENS = (512, 1024, 2048, 4096, 8192, 16384)
MEMORY_SEQLENS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
BETWEEN_HEAD_DIMS = (72, 80, 96, 112, 160, 224)
BETWEEN_SEQLEN = 4096
LLAMA_SEQLENS = (2048, 4096, 8192, 16384)
DTYPE = "bf16"


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What is timed. `flops_factor` is of the forward's flops."""

    name: str
    flops_factor: float


FORWARD = Direction(name="fwd", flops_factor=1.0)
BACKWARD = Direction(name="bwd", flops_factor=2.5)  # five products for two, as FlashAttention counts
DIRECTIONS = {one.name: one for one in (FORWARD, BACKWARD)}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One problem; queries and keys are of one length."""

    batch: int
    seqlen: int
    num_heads_q: int
    num_heads_kv: int
    head_dim: int
    is_causal: bool
    dtype: str = DTYPE

    @property
    def name(self) -> str:
        heads = f"h{self.num_heads_q}" + (f"-{self.num_heads_kv}" if self.num_heads_kv != self.num_heads_q else "")
        mask = "causal" if self.is_causal else "full"
        return f"{self.dtype}_hd{self.head_dim}_{mask}_b{self.batch}_{heads}_s{self.seqlen}"

    def flops(self, direction: Direction) -> float:
        """Return the flops of the protocol: no mask's finer count, nothing recomputed."""
        whole = 4 * self.batch * self.num_heads_q * self.seqlen**2 * self.head_dim
        return direction.flops_factor * (whole / 2 if self.is_causal else whole)

    def to_dict(self) -> dict[str, int | str | bool]:
        return asdict(self)


def protocol_shape(head_dim: int, seqlen: int, *, is_causal: bool) -> Shape:
    """Return the protocol's problem of a head dimension and length."""
    heads = max(1, HIDDEN // head_dim)
    return Shape(
        batch=max(1, TOKENS // seqlen),
        seqlen=seqlen,
        num_heads_q=heads,
        num_heads_kv=heads,
        head_dim=head_dim,
        is_causal=is_causal,
    )


def llama_shape(seqlen: int, *, is_causal: bool) -> Shape:
    """Return a layer of Llama 3.1 70B: 64 query heads on 8, head_dim 128."""
    return Shape(batch=1, seqlen=seqlen, num_heads_q=64, num_heads_kv=8, head_dim=128, is_causal=is_causal)


def timed_shapes() -> list[Shape]:
    """Return every problem, most telling first: a run that is cut short has points of every curve."""
    return list(dict.fromkeys(_timed_shapes()))


def _timed_shapes() -> Iterator[Shape]:
    masks = (True, False)
    for seqlen in (4096, 16384, 1024):
        for head_dim in (128, 64):
            yield from (protocol_shape(head_dim, seqlen, is_causal=causal) for causal in masks)
    yield from (llama_shape(seqlen, is_causal=causal) for seqlen in (8192, 2048) for causal in masks)
    for head_dim in BETWEEN_HEAD_DIMS:
        yield from (protocol_shape(head_dim, BETWEEN_SEQLEN, is_causal=causal) for causal in masks)
    for seqlen in (4096, *SEQLENS):
        for head_dim in (256, 128, 64):
            yield from (protocol_shape(head_dim, seqlen, is_causal=causal) for causal in masks)
    yield from (llama_shape(seqlen, is_causal=causal) for seqlen in LLAMA_SEQLENS for causal in masks)


def backward_shapes() -> list[Shape]:
    """Return the problems whose backward pass is timed, most telling first."""
    return [
        protocol_shape(head_dim, seqlen, is_causal=is_causal)
        for seqlen in (4096, 16384, 1024)
        for head_dim in (128, 64)
        for is_causal in (True, False)
    ]


def memory_shapes() -> list[Shape]:
    """Return one batch of each length, of which the plain scores grow with the square."""
    return [
        Shape(batch=1, seqlen=seqlen, num_heads_q=16, num_heads_kv=16, head_dim=128, is_causal=True)
        for seqlen in MEMORY_SEQLENS
    ]


def tiny_shapes() -> list[Shape]:
    """Return problems that the emulator runs in moments; they show that everything is called, nothing else."""
    return [
        Shape(batch=1, seqlen=96, num_heads_q=2, num_heads_kv=2, head_dim=64, is_causal=True),
        Shape(batch=1, seqlen=80, num_heads_q=4, num_heads_kv=1, head_dim=64, is_causal=False),
    ]
