"""Problems that find faults: sizes around the tile, longer than the ring, shared heads, odd layouts, needles.

Every tensor lies in a larger buffer of NaN, so that a read beside it spoils the result and a write beside it is seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from .binding import Visibility
from .block_mask import BlockMask
from .inputs import check
from .options import Options, Sequences
from .reference import Attended

Layout = Literal["plain", "heads_first", "padded_heads", "expanded"]
Kind = Literal["random", "needle"]
Shared = Literal["", "all", "heads", "batch"]  # absent; one for all; for each head; for each batch entry and head
TORCH_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
GUARD = 256  # elements of NaN before and after; a multiple of 8, which keeps 16-byte alignment
NEEDLE_BITS = 12  # bits of a key's index that V encodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Inputs of one check. `layout` is that of q, k and v in memory; `softmax_scale` None is the default.

    `head_dim_v` 0 is head_dim. `lengths`: (queries, keys) of sequences that lie one after another, the longest
    seqlen_q and seqlen_k; none for a plain batch. `is_partly_used`: their last keys are not in use. `block` is
    (queries, keys) of a block mask's blocks, (0, 0) for none.
    """

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
    head_dim_v: int = 0
    window: tuple[int, int] = (-1, -1)
    attention_chunk: int = 0
    softcap: float = 0.0
    slopes: Shared = ""
    bias: Shared = ""
    has_sink: bool = False
    dropout_p: float = 0.0
    lengths: tuple[tuple[int, int], ...] = ()
    is_partly_used: bool = False
    block: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        used = {
            "window": self.window if self.window != (-1, -1) else None,
            "chunk": self.attention_chunk,
            "softcap": self.softcap,
            "slopes": self.slopes,
            "bias": self.bias,
            "sink": self.has_sink,
            "dropout": self.dropout_p,
            "lengths": self.lengths,
            "partly used": self.is_partly_used,
            "block": self.block if self.block[0] else None,
        }
        more = "".join(f", {name} {value}" for name, value in used.items() if value)
        return (
            f"batch {self.batch}, seqlen {self.seqlen_q} x {self.seqlen_k}, heads {self.num_heads_kv * self.group} "
            f"on {self.num_heads_kv}, {self.layout}, {self.kind}{more}"
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)


def problems_for(
    problem: Mapping[str, object], schedule: Mapping[str, object], count: int, seed: int, *, only_random: bool = False
) -> list[Problem]:
    """Return `count` problems for a kernel: the telling ones first (unless `only_random`), then random ones."""
    block_m, block_n = _tile(schedule)
    num_stages = int(str(schedule.get("num_stages", 2)))
    generator = random.Random(seed)
    drawn = _drawn(block_m, block_n, generator)
    chosen = [] if only_random else [*_telling(block_m, block_n, num_stages * block_n)][:count]
    chosen += [next(drawn) for _ in range(count - len(chosen))]
    return _with_features(problem, chosen, (block_m, block_n), generator)


def problems_of(
    problem: Mapping[str, object], schedule: Mapping[str, object], sizes: Sequence[Mapping[str, object]], seed: int
) -> list[Problem]:
    """Return problems of these sizes for a kernel, each with what its features ask besides."""
    return _with_features(problem, sizes, _tile(schedule), random.Random(seed))


def _tile(schedule: Mapping[str, object]) -> tuple[int, int]:
    return int(str(schedule.get("block_m", 128))), int(str(schedule.get("block_n", 64)))


def _with_features(
    problem: Mapping[str, object],
    chosen: Sequence[Mapping[str, object]],
    tiles: tuple[int, int],
    generator: random.Random,
) -> list[Problem]:
    kernel = {"dtype": str(problem["dtype"]), "head_dim": problem["head_dim"], "head_dim_v": problem["head_dim_v"]}
    return [
        Problem(**{**kernel, **one, **_features(problem, one, tiles, index, generator)})  # type: ignore[arg-type]
        for index, one in enumerate(chosen)
    ]


def _features(
    problem: Mapping[str, object],
    sizes: Mapping[str, object],
    tiles: tuple[int, int],
    index: int,
    generator: random.Random,
) -> dict[str, object]:
    """What a kernel of these features is asked besides, so that over a few problems each appears in its forms."""
    seqlen_q, seqlen_k = int(str(sizes["seqlen_q"])), int(str(sizes["seqlen_k"]))
    found: dict[str, object] = {"is_causal": bool(problem["is_causal"]), "has_sink": index % 3 == 1}
    if problem["is_local"]:
        sides = [-1, 0, 1, tiles[1] - 1, tiles[1], tiles[1] + 1, seqlen_k // 2]
        found["window"] = (generator.choice(sides), generator.choice(sides[:1] + sides[1:]))
        found["is_causal"] = index % 3 == 2
        if index % 4 == 3:
            found["attention_chunk"] = generator.choice([1, 7, tiles[1], tiles[1] + 3])
        if found["window"][0] == -1 and found["window"][1] <= 0:  # type: ignore[index]
            found["window"] = (max(1, seqlen_k // 3), 0)  # else it is no window
    if problem["has_softcap"]:
        found["softcap"] = generator.choice([1.0, 15.0, 50.0])
    if problem["has_alibi"]:
        found["slopes"] = ("heads", "batch")[index % 2]
    if problem["has_bias"]:
        found["bias"] = ("all", "heads", "batch")[index % 3]
    if problem["has_dropout"]:
        found["dropout_p"] = generator.choice([0.1, 0.17, 0.5, 0.9])
    if problem["is_varlen"]:
        lengths = [(seqlen_q, seqlen_k)]
        for _ in range(generator.randint(0, 3)):
            lengths.append((generator.randint(0, seqlen_q), generator.choice([0, generator.randint(0, seqlen_k)])))
        generator.shuffle(lengths)
        found |= {"lengths": tuple(lengths), "batch": 1, "is_partly_used": index % 4 == 2}
        if sizes.get("layout") == "expanded":
            found["layout"] = "plain"
    if problem["is_block_sparse"]:
        block_k = tiles[1] * generator.randint(1, 2)
        found["block"] = (tiles[0] * generator.randint(1, 2), block_k if block_k % 32 == 0 else 2 * block_k)
    if found.get("softcap"):
        found["kind"] = "random"  # a cap presses down the score that is to carry the row
    return found


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """The tensors and options of a problem, as `Attention.attend` takes them."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    options: Options


def make_inputs(
    problem: Problem, block_n: int, seed: int, device: torch.device, visibility: Mapping[str, Visibility]
) -> Inputs:
    """Return the inputs of a problem; equal seeds give equal numbers on every device.

    `visibility` is the binding's: a needle lies at the ends of what its row sees.
    """
    generator = torch.Generator().manual_seed(seed)
    batch_kv = 1 if problem.layout == "expanded" else problem.batch
    seqlen_q, seqlen_k = problem.seqlen_q, problem.seqlen_k
    if problem.lengths:
        seqlen_q, seqlen_k = (sum(one[side] for one in problem.lengths) for side in (0, 1))
    num_heads = problem.num_heads_kv * problem.group
    q_shape = (problem.batch, seqlen_q, num_heads, problem.head_dim)
    k_shape = (batch_kv, seqlen_k, problem.num_heads_kv, problem.head_dim)
    v_shape = (*k_shape[:3], problem.head_dim_v or problem.head_dim)
    on_cpu = _options(problem, num_heads, torch.Generator().manual_seed(seed), torch.device("cpu"))
    options = _options(problem, num_heads, generator, device)  # the same numbers
    if problem.kind == "needle":
        values = _needle(problem, (q_shape, k_shape, v_shape), on_cpu, block_n, generator, visibility)
    else:
        values = tuple(torch.randn(shape, generator=generator) for shape in (q_shape, k_shape, v_shape))
    placed = []
    for value in values:
        held = guarded(tuple(value.shape), TORCH_DTYPES[problem.dtype], device, problem.layout).tensor
        held.copy_(value)
        placed.append(held)
    q, k, v = placed
    if problem.layout == "expanded":
        k, v = (one.expand(problem.batch, -1, -1, -1) for one in (k, v))
    if problem.lengths:
        q, k, v = (one.squeeze(0) for one in (q, k, v))
    return Inputs(q=q, k=k, v=v, options=options)


def _options(problem: Problem, num_heads: int, generator: torch.Generator, device: torch.device) -> Options:
    batch = len(problem.lengths) or problem.batch
    dtype = TORCH_DTYPES[problem.dtype]
    sizes = {"all": (1, 1), "heads": (1, num_heads), "batch": (batch, num_heads)}
    slopes = bias = sink = state = mask = sequences = None
    if problem.slopes:
        slopes = torch.rand(sizes[problem.slopes], generator=generator).squeeze(0).to(device)
        slopes = slopes.expand(batch, num_heads) if slopes.dim() == 2 else slopes
        if problem.kind == "needle":  # far keys lose less than the needle has
            slopes = slopes * (8 / max(problem.seqlen_q, problem.seqlen_k))
    if problem.bias:
        shape = (*sizes[problem.bias], problem.seqlen_q, problem.seqlen_k)
        held = guarded(shape, dtype, device)
        held.tensor.copy_(torch.randn(shape, generator=generator))
        bias = held.tensor
    if problem.has_sink:
        sink = (2 * torch.randn(num_heads, generator=generator)).to(device)
    if problem.dropout_p:
        state = torch.randint(0, 2**62, (2,), generator=generator).to(device)
    if problem.block[0]:
        mask = _block_mask(problem, batch, num_heads, generator).to(device)
    if problem.lengths:
        q_lengths, k_lengths = (torch.tensor([one[side] for one in problem.lengths]) for side in (0, 1))
        used = (k_lengths * 3 // 4).to(torch.int32).to(device) if problem.is_partly_used else None
        offsets = [
            torch.nn.functional.pad(one.cumsum(0), (1, 0)).to(torch.int32).to(device) for one in (q_lengths, k_lengths)
        ]
        sequences = Sequences(
            cu_seqlens_q=offsets[0],
            cu_seqlens_k=offsets[1],
            max_seqlen_q=problem.seqlen_q,
            max_seqlen_k=problem.seqlen_k,
            seqused_k=used,
        )
    return Options(
        softmax_scale=problem.softmax_scale,
        causal=problem.is_causal,
        window_size=problem.window,
        attention_chunk=problem.attention_chunk,
        softcap=problem.softcap,
        alibi_slopes=slopes,
        bias=bias,
        sink=sink,
        dropout_p=problem.dropout_p,
        rng_state=state,
        block_mask=mask,
        sequences=sequences,
    )


def _block_mask(problem: Problem, batch: int, num_heads: int, generator: torch.Generator) -> BlockMask:
    """Blocks that are absent, whole and partial, a third each; some rows of a partial one see nothing."""
    block_q, block_k = problem.block
    rows, columns = -(-problem.seqlen_q // block_q), -(-problem.seqlen_k // block_k)
    kind = torch.randint(0, 3, (batch, num_heads, rows, columns), generator=generator)
    spread = kind.repeat_interleave(block_q, 2).repeat_interleave(block_k, 3)[
        :, :, : problem.seqlen_q, : problem.seqlen_k
    ]
    some = torch.rand(spread.shape, generator=generator) < 0.5
    some &= (torch.rand(spread.shape[:3], generator=generator) < 0.9)[..., None]
    return BlockMask.from_dense((spread == 2) | ((spread == 1) & some), block_q, block_k)


def _needle(
    problem: Problem,
    shapes: tuple[tuple[int, ...], ...],
    options: Options,
    block_n: int,
    generator: torch.Generator,
    visibility: Mapping[str, Visibility],
) -> tuple[torch.Tensor, ...]:
    """Inputs in which one key at a boundary carries each row, and V spells that key's index in bits."""
    q_shape, k_shape, v_shape = shapes
    k = torch.randint(0, 2, k_shape, generator=generator) * 2.0 - 1.0
    bits = torch.arange(v_shape[3]) % NEEDLE_BITS
    v = ((torch.arange(k_shape[1])[:, None] >> bits) & 1) * 2.0 - 1.0
    # k is of signs, so the needle's score is strength * head_dim * scale; others stay well below.
    scale = problem.head_dim**-0.5 if problem.softmax_scale is None else problem.softmax_scale
    strength = min(64.0, 48.0 / (problem.head_dim * scale))
    heads = torch.arange(q_shape[2])[:, None] // (q_shape[2] // k_shape[2])
    q = torch.zeros(q_shape)
    attended = _attended(problem, shapes, options, visibility)
    for number, (entry, q_rows), (entry_k, k_rows) in attended.sequences():
        length, keys = q_rows.stop - q_rows.start, k_rows.stop - k_rows.start
        if length and keys:
            seen = attended.visible(number, length, keys, slice(0, length)).expand(q_shape[2], -1, -1)
            targets = k_rows.start + _targets(seen, block_n)
            q[entry, q_rows] = k[entry_k % k_shape[0], targets, heads].transpose(0, 1) * strength
    return q, k, v[None, :, None, :].expand(v_shape)


def _targets(seen: torch.Tensor, block_n: int) -> torch.Tensor:
    """Return a key for each row that `seen` [num_heads, rows, keys] shows, 0 where it shows none.

    In turn: the last key seen, the first, the last of a tile, the first of a tile, and both beside the first's tile;
    where that key is not seen, the last.
    """
    num_keys = seen.shape[2]
    shown = seen.to(torch.uint8)
    first, last = shown.argmax(2), num_keys - 1 - shown.flip(2).argmax(2)
    last = torch.where(seen.any(2), last, 0)
    tile, next_tile = last // block_n * block_n, (first // block_n + 1) * block_n
    rows = torch.arange(seen.shape[1])
    wanted = torch.stack([last, first, tile - 1, tile, next_tile - 1, next_tile])[rows % 6, :, rows].T
    wanted = wanted.clamp(0, num_keys - 1)
    return torch.where(seen.gather(2, wanted[..., None])[..., 0], wanted, last)


def _attended(
    problem: Problem, shapes: tuple[tuple[int, ...], ...], options: Options, visibility: Mapping[str, Visibility]
) -> Attended:
    """What a call of these shapes attends to, with values yet to come."""
    q, k, v = (torch.zeros(problem.batch, *one[1:], dtype=TORCH_DTYPES[problem.dtype]) for one in shapes)
    if options.sequences is not None:
        q, k, v = (one.squeeze(0) for one in (q, k, v))
    request = check(q, k, v, options)
    return Attended(request.q, request.k, request.v, None, request.lowered, visibility, options.block_mask)
