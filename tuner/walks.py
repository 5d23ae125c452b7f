"""Which tiles the thread blocks of a call visit and in which order, and what it executes and moves by that, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from kernelwright.gen.spec import BackwardSchedule, ForwardProblem, ForwardSchedule, Variant
from kernelwright.gen.visibility import visibility
from kernelwright.tuner.shapes import SPARSE_SHARE, Shape
from kernelwright.tuner.step_work import step_work

BIAS_BYTES = 2  # of each score that is computed
_EPILOGUE_MUFU = 4  # for each row of a forward tile, by its 4 lanes: a reciprocal of the sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What a thread block has to do for one head: rows of its own tile, iterations, and the rows that these load.

    Rows of its own are queries, or of `flash_bwd` keys; those it loads are the others.
    """

    rows: int
    steps: int
    loaded: int


@cache
def _bounds(problem: ForwardProblem) -> tuple[Any, Any]:  # Any: expressions of a run time that is imported when needed
    from kernelwright.runtime.expressions import parse_expression

    seen = visibility(problem)
    return parse_expression(seen.first_key), parse_expression(seen.end_key)


def _numbers(shape: Shape, seqlen_q: int, seqlen_k: int) -> dict[str, int]:
    return {
        "seqlen_k": seqlen_k,
        "shift": seqlen_k - seqlen_q,
        "window_left": seqlen_k if shape.window_left < 0 else shape.window_left,
        "window_right": seqlen_q + seqlen_k if shape.window_right < 0 else shape.window_right,
        "attention_chunk": 0,
    }


@lru_cache(maxsize=4096)
def tiles(variant: Variant, shape: Shape, seqlen_q: int, seqlen_k: int) -> tuple[Tile, ...]:
    """Return the tiles of one head of a sequence, or of the heads that share one with pack_gqa, first rows first."""
    if isinstance(variant.schedule, BackwardSchedule):
        return tuple(_key_tiles(variant, variant.schedule, shape, seqlen_q, seqlen_k))
    return tuple(_query_tiles(variant, shape, seqlen_q, seqlen_k))


def _query_tiles(variant: Variant, shape: Shape, seqlen_q: int, seqlen_k: int) -> list[Tile]:
    block_m, block_n = _tile(variant)
    heads = packed_heads(variant, shape)
    first_key, end_key = _bounds(variant.problem)
    numbers = _numbers(shape, seqlen_q, seqlen_k)
    found = []
    for start in range(0, seqlen_q * heads, block_m):
        rows = min(block_m, seqlen_q * heads - start)
        begin = first_key.value({**numbers, "query": start // heads}) // block_n
        end = -(-max(0, end_key.value({**numbers, "query": (start + rows - 1) // heads})) // block_n)
        steps = max(0, end - begin)
        keys = max(0, min(seqlen_k, end * block_n) - begin * block_n)
        found.append(_of(variant, rows, steps, keys))
    return found


def _key_tiles(variant: Variant, schedule: BackwardSchedule, shape: Shape, seqlen_q: int, seqlen_k: int) -> list[Tile]:
    """Tiles of queries that see a key of each tile of keys; bounds never fall, so these are neighbours."""
    block_m, block_n = schedule.block_m, schedule.block_n
    first_key, end_key = _bounds(variant.problem)
    numbers = _numbers(shape, seqlen_q, seqlen_k)
    found = []
    for start in range(0, seqlen_k, block_n):
        stop = min(start + block_n, seqlen_k)
        seeing = _first(seqlen_q, lambda query, start=start: end_key.value({**numbers, "query": query}) > start)
        past = _first(seqlen_q, lambda query, stop=stop: first_key.value({**numbers, "query": query}) >= stop)
        begin, end = seeing // block_m, -(-past // block_m)
        queries = max(0, min(seqlen_q, end * block_m) - begin * block_m)
        found.append(_of(variant, stop - start, max(0, end - begin), queries))
    return found


def _first(count: int, holds: Any) -> int:  # Any: a function of a query to a bool, which mypy infers of no such lambda
    """Return the first query of which it holds, or count; it holds of all after that."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _of(variant: Variant, rows: int, steps: int, loaded: int) -> Tile:
    if variant.problem.is_block_sparse:
        steps, loaded = round(steps * SPARSE_SHARE), round(loaded * SPARSE_SHARE)
    return Tile(rows=rows, steps=steps, loaded=loaded)


def _tile(variant: Variant) -> tuple[int, int]:
    block_m, block_n = (int(getattr(variant.schedule, name)) for name in ("block_m", "block_n"))
    return block_m, block_n


def packed_heads(variant: Variant, shape: Shape) -> int:
    """Return the query heads whose rows share tiles."""
    packs = isinstance(variant.schedule, ForwardSchedule) and variant.schedule.pack_gqa
    return shape.num_heads_q // shape.num_heads_kv if packs else 1


def lists_of_tiles(variant: Variant, shape: Shape) -> int:
    """Return the lists of tiles of each sequence: one for a query head, a group of packed ones, or a key head."""
    if isinstance(variant.schedule, BackwardSchedule):
        return shape.num_heads_kv
    return shape.num_heads_q // packed_heads(variant, shape)


def heads_in_turn(variant: Variant, shape: Shape) -> int:
    """Return how many heads a thread block visits its tiles for, one after another."""
    return shape.num_heads_q // shape.num_heads_kv if isinstance(variant.schedule, BackwardSchedule) else 1


def _starts_with_last(variant: Variant) -> bool:
    """Whether the template gives out the last rows first: those of a causal mask have most keys."""
    if isinstance(variant.schedule, ForwardSchedule):
        return variant.problem.is_causal
    return variant.operation == "flash_bwd_dq"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCounts:
    """What a call executes and moves, exactly. Bytes: of copies, of the bias, of results, of the sectors of dq_sum.

    `mufu` supposes that every row sees a key, and leaves out lse and a sink, one and three a row, and of a gradient a
    division or two by the cap in each thread.
    """

    mma_flops: int
    mufu: int
    copied_bytes: int
    bias_bytes: int
    out_bytes: int
    atomic_bytes: int


def call_counts(variant: Variant, shape: Shape) -> CallCounts:
    """Return the counts of a call; of a block-sparse one as if all its tiles were alike."""
    problem, step = variant.problem, step_work(variant)
    width = problem.head_dim + problem.head_dim_v
    found = [
        tile
        for seqlen_q, seqlen_k in shape.lengths(is_varlen=problem.is_varlen)
        for tile in tiles(variant, shape, seqlen_q, seqlen_k)
    ]
    lists, turns = lists_of_tiles(variant, shape), heads_in_turn(variant, shape)
    rows = sum(tile.rows for tile in found)
    match variant.schedule:
        case ForwardSchedule() as schedule:
            blocks, own, loaded = (
                lists * schedule.num_slices,
                problem.head_dim,
                problem.head_dim + variant.slice_columns,
            )
            written = problem.head_dim_v
            scale_over_cap = schedule.threads if problem.has_softcap else 0  # a division by every thread
            tile_mufu = _EPILOGUE_MUFU * schedule.block_m + scale_over_cap
        case BackwardSchedule():
            blocks, own, loaded, written, tile_mufu = lists, width, width, width, 0
        case _:
            blocks, own, loaded, written, tile_mufu = lists, width, width, problem.head_dim, 0
    steps = blocks * turns * sum(tile.steps for tile in found)
    block_m, block_n = _tile(variant)
    copied = sum(tile.rows * own * (tile.steps > 0) + turns * tile.loaded * loaded for tile in found)
    return CallCounts(
        mma_flops=steps * step.mma_flops,
        mufu=steps * step.mufu + blocks * len(found) * tile_mufu,
        copied_bytes=2 * blocks * copied,
        bias_bytes=steps * block_m * block_n * BIAS_BYTES if problem.has_bias else 0,
        out_bytes=2 * lists * rows * written,
        atomic_bytes=round(steps * step.atomic_bytes),
    )


Block = tuple[int, int]
"""Iterations of a thread block, and tiles that it begins."""


def thread_blocks(variant: Variant, shape: Shape, num_sms: int) -> tuple[tuple[Block, ...], int]:
    """Return thread blocks in launch order, and how often they come again after one another."""
    schedule, is_varlen = variant.schedule, variant.problem.is_varlen
    groups, turns = lists_of_tiles(variant, shape), heads_in_turn(variant, shape)
    num_slices = schedule.num_slices if isinstance(schedule, ForwardSchedule) else 1
    lists = []
    for seqlen_q, seqlen_k in shape.lengths(is_varlen=is_varlen):
        lists.append([(turns * tile.steps, 1) for tile in tiles(variant, shape, seqlen_q, seqlen_k)])
    longest = max(map(len, lists))
    # The grid is for the longest sequence: blocks behind the end of another find nothing.
    lists = [one + [(0, 0)] * (longest - len(one)) for one in lists]
    if isinstance(schedule, ForwardSchedule) and schedule.persistent_blocks:
        # The last rows of every list first; a block takes each num_blocks-th tile.
        order = [one[index] for index in reversed(range(longest)) for one in lists for _ in range(groups)]
        num_blocks = min(len(order), schedule.persistent_blocks * num_sms)
        shares = [order[first::num_blocks] for first in range(num_blocks)]
        summed = tuple((sum(steps for steps, _ in one), sum(starts for _, starts in one)) for one in shares)
        return summed, num_slices
    if _starts_with_last(variant):
        lists = [one[::-1] for one in lists]
    if not is_varlen:
        return tuple(lists[0]), groups * shape.batch * num_slices
    return tuple(block for one in lists for _ in range(groups) for block in one), num_slices


def bytes_once(variant: Variant, shape: Shape) -> int:
    """Return the bytes of a call's tensors of 16 bits, and of dq_sum, each moved once."""
    problem = variant.problem
    lengths = shape.lengths(is_varlen=problem.is_varlen)
    q_rows = shape.num_heads_q * sum(seqlen_q for seqlen_q, _ in lengths)
    kv_rows = shape.num_heads_kv * sum(seqlen_k for _, seqlen_k in lengths)
    width = problem.head_dim + problem.head_dim_v  # of q and out or dout, and of k and v
    match variant.operation:
        case "flash_bwd":
            return 2 * ((width + 2 * problem.head_dim) * q_rows + 2 * width * kv_rows)
        case "flash_bwd_dq":
            return 2 * ((width + problem.head_dim) * q_rows + width * kv_rows)
        case _:
            return 2 * width * (q_rows + kv_rows)
