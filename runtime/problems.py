"""Problems that find faults: sizes around the tile, longer than the ring, shared heads, odd layouts, needles.

Every tensor lies in a larger buffer of NaN, so that a read beside it spoils the result and a write beside it is seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

Layout = Literal["plain", "heads_first", "padded_heads", "expanded"]
Kind = Literal["random", "needle"]
TORCH_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
GUARD = 256  # elements of NaN before and after; a multiple of 8, which keeps 16-byte alignment
NEEDLE_BITS = 12  # bits of a key's index that V encodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Inputs of one check. `layout` is that of q, k and v in memory; `softmax_scale` None is the default."""

    seqlen_q: int
    seqlen_k: int
    dtype: str
    head_dim: int
    is_causal: bool
    batch: int = 1
    num_heads_kv: int = 1
    group: int = 1
    layout: Layout = "plain"
    kind: Kind = "random"
    softmax_scale: float | None = None

    def __str__(self) -> str:
        return (
            f"batch {self.batch}, seqlen {self.seqlen_q} x {self.seqlen_k}, heads {self.num_heads_kv * self.group} "
            f"on {self.num_heads_kv}, {self.layout}, {self.kind}"
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)


def problems_for(
    problem: Mapping[str, object], schedule: Mapping[str, object], count: int, seed: int, *, only_random: bool = False
) -> list[Problem]:
    """Return `count` problems for a kernel: the telling ones first (unless `only_random`), then random ones."""
    block_m = int(str(schedule.get("block_m", 128)))
    block_n = int(str(schedule.get("block_n", 64)))
    num_stages = int(str(schedule.get("num_stages", 2)))
    drawn = _drawn(block_m, block_n, random.Random(seed))
    chosen = [] if only_random else [*_telling(block_m, block_n, num_stages * block_n)][:count]
    chosen += [next(drawn) for _ in range(count - len(chosen))]
    head_dim, dtype = int(str(problem["head_dim"])), str(problem["dtype"])
    return [
        Problem(dtype=dtype, head_dim=head_dim, is_causal=bool(problem["is_causal"]), **one)  # type: ignore[arg-type]
        for one in chosen
    ]


def _telling(block_m: int, block_n: int, ring: int) -> Iterator[dict[str, object]]:
    yield {"seqlen_q": 1, "seqlen_k": 1}
    yield {"seqlen_q": block_m + 1, "seqlen_k": ring + block_n + 1, "kind": "needle", "group": 2}
    yield {"seqlen_q": block_m, "seqlen_k": block_n}
    yield {"seqlen_q": block_m - 1, "seqlen_k": block_n - 1, "layout": "heads_first", "num_heads_kv": 2}
    yield {"seqlen_q": block_m + 37, "seqlen_k": block_n // 2 + 5, "batch": 2}  # causal: rows without a key
    yield {"seqlen_q": 1, "seqlen_k": 2 * block_n + 3, "group": 8, "kind": "needle"}
    yield {"seqlen_q": block_m + 1, "seqlen_k": block_n + 1, "layout": "padded_heads", "batch": 2, "group": 3}
    yield {"seqlen_q": 37, "seqlen_k": 2 * block_n - 1, "layout": "expanded", "batch": 3}
    yield {"seqlen_q": 2 * block_m + 3, "seqlen_k": ring + 2 * block_n - 1}
    yield {"seqlen_q": 17, "seqlen_k": ring, "softmax_scale": 0.5, "num_heads_kv": 2, "group": 2}
    yield {"seqlen_q": 2 * block_m, "seqlen_k": 2 * block_n, "kind": "needle", "layout": "heads_first"}
    yield {"seqlen_q": block_m // 2 + 1, "seqlen_k": 3 * block_n, "softmax_scale": 0.01, "batch": 2}


def _drawn(block_m: int, block_n: int, generator: random.Random) -> Iterator[dict[str, object]]:
    while True:
        group = generator.randint(1, 8)
        many = group <= 2  # at most 8 heads in all, which keeps the reference quick
        yield {
            "seqlen_q": generator.randint(1, 2 * block_m + 2),
            "seqlen_k": generator.randint(1, 4 * block_n + 2),
            "batch": generator.randint(1, 2) if many else 1,
            "num_heads_kv": generator.randint(1, 2) if many else 1,
            "group": group,
            "layout": generator.choice(["plain", "heads_first", "padded_heads", "expanded"]),
            "kind": generator.choice(["random", "random", "needle"]),
        }


def describe_coverage(problems: Sequence[Problem]) -> str:
    """Return a line that says what kinds of problems these are."""
    if not problems:
        return "no problems"

    def share(predicate: Callable[[Problem], bool]) -> str:
        return f"{100 * sum(map(predicate, problems)) // len(problems)} %"

    def values(name: str) -> str:
        found = sorted({getattr(problem, name) for problem in problems})
        return " ".join(map(str, found)) if len(found) < 6 else f"{found[0]} to {found[-1]} ({len(found)} values)"

    return (
        f"{len(problems)} problems: head_dim {values('head_dim')}, group {values('group')}, "
        f"seqlen_q odd {share(lambda one: one.seqlen_q % 2 == 1)}, "
        f"seqlen_k odd {share(lambda one: one.seqlen_k % 2 == 1)}, "
        f"seqlen_q > seqlen_k {share(lambda one: one.seqlen_q > one.seqlen_k)}, "
        f"causal {share(lambda one: one.is_causal)}, permuted or expanded {share(lambda one: one.layout != 'plain')}, "
        f"needle {share(lambda one: one.kind == 'needle')}"
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guarded:
    """A tensor inside a buffer of NaN."""

    tensor: torch.Tensor
    buffer: torch.Tensor

    def is_intact(self) -> bool:
        """Whether everything beside the tensor is still as it was; overwrites the tensor with NaN."""
        self.tensor.fill_(torch.nan)
        bits = torch.int16 if self.buffer.element_size() == 2 else torch.int32
        poison = torch.full_like(self.buffer[:1], torch.nan).view(bits)
        return bool((self.buffer.view(bits) == poison).all())


def guarded(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, layout: Layout = "plain") -> Guarded:
    """Return a tensor of NaN in a buffer of NaN; 4-D shapes are [batch, seqlen, heads, head_dim]."""
    if len(shape) != 4:
        held, index, order = shape, tuple(slice(size) for size in shape), tuple(range(len(shape)))
    else:
        batch, seqlen, heads, head_dim = shape
        index = (slice(batch), slice(seqlen), slice(heads), slice(head_dim))
        order = (0, 1, 2, 3)
        if layout == "heads_first":
            held, index, order = (
                (batch, heads, seqlen + 1, head_dim),
                (index[0], index[2], index[1], index[3]),
                (0, 2, 1, 3),
            )
        elif layout == "padded_heads":
            held = (batch, seqlen, heads, head_dim + 8)
        else:
            held = (batch, seqlen + 1, heads, head_dim)
    count = 1
    for size in held:
        count *= size
    buffer = torch.full((count + 2 * GUARD,), torch.nan, dtype=dtype, device=device)
    return Guarded(tensor=buffer[GUARD : GUARD + count].view(held)[index].permute(order), buffer=buffer)


def make_inputs(
    problem: Problem, block_n: int, seed: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return q, k and v of a problem; equal seeds give equal numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    batch_kv = 1 if problem.layout == "expanded" else problem.batch
    q_shape = (problem.batch, problem.seqlen_q, problem.num_heads_kv * problem.group, problem.head_dim)
    kv_shape = (batch_kv, problem.seqlen_k, problem.num_heads_kv, problem.head_dim)
    if problem.kind == "needle":
        values = _needle(problem, q_shape, kv_shape, block_n, generator)
    else:
        values = tuple(torch.randn(shape, generator=generator) for shape in (q_shape, kv_shape, kv_shape))
    placed = []
    for value in values:
        held = guarded(tuple(value.shape), TORCH_DTYPES[problem.dtype], device, problem.layout).tensor
        held.copy_(value)
        placed.append(held)
    q, k, v = placed
    if problem.layout == "expanded":
        k, v = (one.expand(problem.batch, -1, -1, -1) for one in (k, v))
    return q, k, v


def _needle(
    problem: Problem,
    q_shape: tuple[int, ...],
    kv_shape: tuple[int, ...],
    block_n: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, ...]:
    """Inputs in which one key at a boundary carries each row, and V spells that key's index in bits."""
    k = torch.randint(0, 2, kv_shape, generator=generator) * 2.0 - 1.0
    keys = torch.arange(problem.seqlen_k)
    bits = torch.arange(problem.head_dim) % NEEDLE_BITS
    v = ((keys[:, None] >> bits) & 1) * 2.0 - 1.0
    rows = torch.arange(problem.seqlen_q)
    last = (
        rows + problem.seqlen_k - problem.seqlen_q if problem.is_causal else torch.full_like(rows, problem.seqlen_k - 1)
    )
    last = last.clamp(min=0)
    # In turn: the last key seen, the first, the last of a tile, the first of a tile.
    tile = (last // block_n * block_n).clamp(min=0)
    targets = torch.stack([last, torch.zeros_like(last), (tile - 1).clamp(min=0), tile])[rows % 4, rows]
    # k is of signs, so the needle's score is strength * head_dim * scale; others stay well below.
    scale = problem.head_dim**-0.5 if problem.softmax_scale is None else problem.softmax_scale
    strength = min(64.0, 48.0 / (problem.head_dim * scale))
    group = q_shape[2] // kv_shape[2]
    picked = k[:, targets].repeat_interleave(group, dim=2)
    q = (picked * strength).expand(q_shape)
    return q, k, v[None, :, None, :].expand(kv_shape)
