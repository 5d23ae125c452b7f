"""Modelled cost of a forward kernel: cycles of each resource for one key tile, then blocks over the SMs.

Everything here is `modelled`: computed from the variant, ptxas' register count and a row of `configs/devices.yaml`,
never from a clock. It ranks variants; figures within 10 % of each other are ties. Rates are per SM and clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from kernelwright.gen.devices import Device
from kernelwright.gen.spec import ForwardProblem, Variant
from kernelwright.gen.visibility import visibility
from kernelwright.tuner.occupancy import occupancy
from kernelwright.tuner.shapes import SPARSE_SHARE, Shape

MODEL_VERSION = 2
"""Raise it when a change here changes a figure: studies of different versions do not mix."""

_HALF_RATE_LANES = 64  # min, max, compare, convert, integer [CUDA C++ Programming Guide, arithmetic throughput]
_SCHEDULERS = 4  # warp schedulers of an SM, one instruction a clock each
_MMA_FLOPS = 4096  # of one mma.sync.m16n8k16
_MMA_STALL = 8.0  # clocks between two of them in the machine code for sm80, sm86 and sm89

# Resources overlap: T = (sum T_i^p)^(1/p). Warps of a single block move in step with its barriers, so less of
# one's softmax hides under another's mma; 1.75 was set from three published 8-warp tiles on an A100.
_OVERLAP = 2.0
_OVERLAP_ALONE = 1.75

_STEP_LATENCY = 250.0  # clocks a key tile takes beside issuing: barrier, ldmatrix, two shuffles, mma and exp2 drains
_LOAD_LATENCY = 600.0  # clocks from cp.async to data, from L2 (about 270) or DRAM (about 500) with queueing
_L2_BYTES_PER_CLK = 48.0  # an SM's share: 5,120 bytes a clock over 108 SMs, NVIDIA A100 whitepaper
_START_LATENCY = 1500.0  # clocks before the first step (launch of a block, Q and first K) and after the last (O)
_DRAM_EFFICIENCY = 0.85  # of the datasheet's bandwidth, reached by copies
_LAUNCH_CYCLES = 5000.0  # a launch, 3 to 4 microseconds

# What features add to each score (templates/lib/attention.cuh.jinja): FMAs, operations at half rate, loads.
_SOFTCAP_MUFU = 2  # exp2 and a reciprocal
_SOFTCAP_FP32 = 4.0  # the argument's scaling, + 1, 1 - 2 x, times the cap
_ALIBI_FP32, _ALIBI_HALF = 1.0, 3.0  # FMA; difference, absolute value, conversion
_BIAS_FP32, _BIAS_HALF = 1.0, 3.0  # FMA; conversion, bound of the column, address
_BIAS_BYTES = 2  # of each score that is computed
_BIAS_LOAD_CLOCKS = 2.0  # of a warp's load, which touches 8 rows; our guess, no source
_PHILOX_HALF = 42.0  # 7 rounds of 2 wide multiplications, 2 three-way xors and 2 additions to the key
_PHILOX_SCORES = 16  # that the bytes of one call decide; 8 of them are used where a tile begins in the middle of a cell
_DROPOUT_HALF = 3.0  # a byte taken out, a comparison, a selection
_EPILOGUE_MUFU = 4  # for each row, by its 4 lanes: a reciprocal of the sum


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCycles:
    """Clocks of an SM that one key tile of one thread block takes of each resource, and together."""

    tensor: float
    exp: float
    alu: float
    issue: float
    smem: float
    latency: float
    total: float

    @property
    def bottleneck(self) -> str:
        """The resource that takes longest."""
        names = ("tensor", "exp", "alu", "issue", "smem", "latency")
        return max(names, key=lambda name: float(getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """What one key tile of one thread block executes, exactly: operations of mma and of the special-function unit."""

    mma_flops: int
    mufu: int


def step_counts(variant: Variant) -> StepCounts:
    """Return the exact counts of one key tile of one block."""
    schedule, problem = variant.forward, variant.problem
    scores = schedule.block_m * schedule.block_n
    return StepCounts(
        mma_flops=2 * scores * (problem.head_dim + variant.slice_columns),
        # The rescaling factor of a row is computed by each of its 4 lanes.
        mufu=scores * (1 + _SOFTCAP_MUFU * problem.has_softcap) + 4 * schedule.block_m,
    )


def step_cycles(variant: Variant, device: Device, resident: int) -> StepCycles:
    """Return what one key tile of one block costs an SM that holds `resident` such blocks."""
    schedule, problem, counts = variant.forward, variant.problem, step_counts(variant)
    head_dim, columns = problem.head_dim, variant.slice_columns
    block_m, block_n, warps = schedule.block_m, schedule.block_n, schedule.num_warps
    scores = block_m * block_n

    flops = float(counts.mma_flops)
    mma = flops / _MMA_FLOPS
    exps = float(counts.mufu)
    fp32 = 2.0 * scores + block_m * columns + 8 * block_m  # scale and sum of scores, rescaling of O
    half_rate = 1.75 * scores + 4 * block_m  # maximum, conversion to P, address arithmetic
    fp32 += scores * _feature_fp32(variant)
    half_rate += scores * _feature_half(variant)
    bias_loads = scores / 32 if problem.has_bias else 0.0
    kv_elements = block_n * (head_dim + columns)
    q_elements = 0 if schedule.q_in_regs else block_m * head_dim
    read_bytes = 2 * (warps * kv_elements + q_elements)
    ldmatrix = read_bytes / 512
    copies = 2 * kv_elements / 512

    tensor = flops / device.mma_flops
    exp = exps / device.mufu
    alu = fp32 / device.fp32_lanes + half_rate / _HALF_RATE_LANES
    issue = (mma + (exps + fp32 + half_rate) / 32 + ldmatrix + 2 * copies + bias_loads) / _SCHEDULERS
    smem = (read_bytes + 2 * kv_elements) / device.smem_bytes_per_clk + bias_loads * _BIAS_LOAD_CLOCKS

    # One warp's own time: the stall counts in its code, and what waiting comes with every step.
    mma_clocks = min(_MMA_STALL, _MMA_FLOPS * _SCHEDULERS / device.mma_flops)
    others = (exps + fp32 + half_rate) / 32 + ldmatrix + 2 * copies + bias_loads
    alone = (mma * mma_clocks + 2 * others) / warps + _STEP_LATENCY * (2 if schedule.num_stages == 1 else 1)
    load = _LOAD_LATENCY + 2 * kv_elements / _L2_BYTES_PER_CLK
    # A single stage loads K under P V and V under Q K^T, half a step each; a ring of s under s - 1 steps.
    hidden = alone * (schedule.num_stages - 1 if schedule.num_stages > 1 else 0.5)
    latency = (alone + max(0.0, load - hidden)) / resident

    power = _OVERLAP if resident > 1 else _OVERLAP_ALONE
    parts = (tensor, exp, alu, issue, smem, latency)
    total = sum(part**power for part in parts) ** (1 / power)
    return StepCycles(tensor=tensor, exp=exp, alu=alu, issue=issue, smem=smem, latency=latency, total=total)


def _feature_fp32(variant: Variant) -> float:
    """Return the full-rate operations that features add to a score."""
    problem = variant.problem
    return (
        problem.changes_scores  # scaled before anything is added
        + _SOFTCAP_FP32 * problem.has_softcap
        + _ALIBI_FP32 * problem.has_alibi
        + _BIAS_FP32 * problem.has_bias
    )


def _feature_half(variant: Variant) -> float:
    """Return the half-rate operations that features add to a score."""
    problem = variant.problem
    drawn = _PHILOX_SCORES if variant.forward.block_n % 32 == 0 else _PHILOX_SCORES // 2
    dropout = _PHILOX_HALF / drawn + _DROPOUT_HALF if problem.has_dropout else 0.0
    return _ALIBI_HALF * problem.has_alibi + _BIAS_HALF * problem.has_bias + dropout


def _tile_mufu(variant: Variant) -> int:
    """Return the special-function operations of a query tile besides its key tiles."""
    schedule = variant.forward
    scale_over_cap = schedule.threads if variant.problem.has_softcap else 0  # a division by every thread
    return _EPILOGUE_MUFU * schedule.block_m + scale_over_cap


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTile:
    """What a thread block has to do: rows of a tile, key tiles it visits, and the keys in these."""

    rows: int
    steps: int
    keys: int


@cache
def _bounds(problem: ForwardProblem) -> tuple[Any, Any]:  # Any: expressions of a run time that is imported when needed
    from kernelwright.runtime.expressions import parse_expression

    seen = visibility(problem)
    return parse_expression(seen.first_key), parse_expression(seen.end_key)


@lru_cache(maxsize=4096)
def query_tiles(variant: Variant, shape: Shape, seqlen_q: int, seqlen_k: int) -> tuple[QueryTile, ...]:
    """Return the tiles of one head, or of the heads that share one with pack_gqa, of a sequence, first rows first."""
    schedule = variant.forward
    heads = shape.num_heads_q // shape.num_heads_kv if schedule.pack_gqa else 1
    first_key, end_key = _bounds(variant.problem)
    numbers = {
        "seqlen_k": seqlen_k,
        "shift": seqlen_k - seqlen_q,
        "window_left": seqlen_k if shape.window_left < 0 else shape.window_left,
        "window_right": seqlen_q + seqlen_k if shape.window_right < 0 else shape.window_right,
        "attention_chunk": 0,
    }
    tiles = []
    for start in range(0, seqlen_q * heads, schedule.block_m):
        rows = min(schedule.block_m, seqlen_q * heads - start)
        begin = first_key.value({**numbers, "query": start // heads}) // schedule.block_n
        end = -(-max(0, end_key.value({**numbers, "query": (start + rows - 1) // heads})) // schedule.block_n)
        steps = max(0, end - begin)
        keys = max(0, min(seqlen_k, end * schedule.block_n) - begin * schedule.block_n)
        if variant.problem.is_block_sparse:
            steps, keys = round(steps * SPARSE_SHARE), round(keys * SPARSE_SHARE)
        tiles.append(QueryTile(rows=rows, steps=steps, keys=keys))
    return tuple(tiles)


def key_tiles(variant: Variant, shape: Shape) -> list[int]:
    """Return how many key tiles each query tile of one head visits, in launch order; of the first sequence."""
    seqlen_q, seqlen_k = shape.lengths(is_varlen=variant.problem.is_varlen)[0]
    found = [tile.steps for tile in query_tiles(variant, shape, seqlen_q, seqlen_k)]
    return found[::-1] if variant.problem.is_causal else found  # the template starts with the longest


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCounts:
    """What a call executes and moves, exactly. Bytes: of Q, K and V by asynchronous copies, of the bias, and of out.

    `mufu` supposes that every row sees a key, and leaves out lse and a sink: one and three a row.
    """

    mma_flops: int
    mufu: int
    copied_bytes: int
    bias_bytes: int
    out_bytes: int


def call_counts(variant: Variant, shape: Shape) -> CallCounts:
    """Return the counts of a call; of a block-sparse one as if all its tiles were alike."""
    schedule, problem, step = variant.forward, variant.problem, step_counts(variant)
    groups = shape.num_heads_kv if schedule.pack_gqa else shape.num_heads_q
    tiles = [
        tile
        for seqlen_q, seqlen_k in shape.lengths(is_varlen=problem.is_varlen)
        for tile in query_tiles(variant, shape, seqlen_q, seqlen_k)
    ]
    blocks = groups * schedule.num_slices
    steps = blocks * sum(tile.steps for tile in tiles)
    copied = sum(
        tile.rows * problem.head_dim * (tile.steps > 0) + tile.keys * (problem.head_dim + variant.slice_columns)
        for tile in tiles
    )
    return CallCounts(
        mma_flops=steps * step.mma_flops,
        mufu=steps * step.mufu + blocks * len(tiles) * _tile_mufu(variant),
        copied_bytes=2 * blocks * copied,
        bias_bytes=steps * schedule.block_m * schedule.block_n * _BIAS_BYTES if problem.has_bias else 0,
        out_bytes=2 * groups * sum(tile.rows for tile in tiles) * problem.head_dim_v,
    )


def model_cycles(variant: Variant, device: Device, shape: Shape, registers: int) -> float:
    """Return the modelled clocks of one call.

    Args:
        variant: a kernel for the device's architecture.
        device: the GPU; its rates.
        shape: run-time sizes.
        registers: of a thread, from ptxas.

    Raises:
        ValueError: if no block fits on an SM.
    """
    held = occupancy(device, registers=registers, threads=variant.forward.threads, smem_bytes=variant.smem_bytes).blocks
    if held < 1:
        raise ValueError(f"{variant.name}: no thread block fits on an SM of {device.name}")
    rates = tuple(step_cycles(variant, device, resident).total for resident in range(1, held + 1))
    blocks, repeats = thread_blocks(variant, shape, device.num_sms)
    makespan = _makespan(blocks, repeats, device.num_sms, rates)
    return _LAUNCH_CYCLES + max(makespan, _memory_cycles(variant, device, shape))


Block = tuple[int, int]
"""Key tiles that a thread block visits, and tiles of queries it begins."""


def thread_blocks(variant: Variant, shape: Shape, num_sms: int) -> tuple[tuple[Block, ...], int]:
    """Return thread blocks in launch order, and how often they come again after one another."""
    schedule, is_varlen = variant.forward, variant.problem.is_varlen
    groups = shape.num_heads_kv if schedule.pack_gqa else shape.num_heads_q
    lists = []
    for seqlen_q, seqlen_k in shape.lengths(is_varlen=is_varlen):
        lists.append([(tile.steps, 1) for tile in query_tiles(variant, shape, seqlen_q, seqlen_k)])
    longest = max(map(len, lists))
    # The grid is for the longest sequence: blocks behind the end of another find nothing.
    lists = [one + [(0, 0)] * (longest - len(one)) for one in lists]
    if schedule.persistent_blocks:
        # The last rows of every list first; a block takes each num_blocks-th tile.
        order = [one[index] for index in reversed(range(longest)) for one in lists for _ in range(groups)]
        num_blocks = min(len(order), schedule.persistent_blocks * num_sms)
        shares = [order[first::num_blocks] for first in range(num_blocks)]
        summed = tuple((sum(steps for steps, _ in one), sum(starts for _, starts in one)) for one in shares)
        return summed, schedule.num_slices
    if variant.problem.is_causal:
        lists = [one[::-1] for one in lists]
    if not is_varlen:
        return tuple(lists[0]), groups * shape.batch * schedule.num_slices
    return tuple(block for one in lists for _ in range(groups) for block in one), schedule.num_slices


def _memory_cycles(variant: Variant, device: Device, shape: Shape) -> float:
    """Return the clocks that moving every byte once takes, and every byte of the tiles out of L2."""
    problem, counts = variant.problem, call_counts(variant, shape)
    lengths = shape.lengths(is_varlen=problem.is_varlen)
    q_rows = shape.num_heads_q * sum(seqlen_q for seqlen_q, _ in lengths)
    kv_rows = shape.num_heads_kv * sum(seqlen_k for _, seqlen_k in lengths)
    dram_bytes_per_clk = _DRAM_EFFICIENCY * device.dram_gbs * 1e3 / device.boost_mhz
    once = 2 * (problem.head_dim + problem.head_dim_v) * (q_rows + kv_rows)
    dram = (once + counts.bias_bytes) / dram_bytes_per_clk
    l2 = (counts.copied_bytes + counts.bias_bytes) / (_L2_BYTES_PER_CLK * device.num_sms)
    return max(dram, l2)


@lru_cache(maxsize=4096)
def _makespan(blocks: tuple[Block, ...], repeats: int, num_sms: int, rates: tuple[float, ...]) -> float:
    """Return when the last block ends, blocks being given out in launch order to the SM that is free first.

    Blocks on one SM share it evenly; `rates[r - 1]` is the clocks of a key tile where r blocks do.
    """
    start = _START_LATENCY / rates[0]  # in key tiles of a block that is alone
    work = [steps + start * starts for steps, starts in blocks]
    total, given = len(work) * repeats, 0
    resident: list[deque[float]] = [deque() for _ in range(num_sms)]  # service at which each block ends, sorted
    service = [0.0] * num_sms  # key tiles that every block of an SM has been given so far
    since = [0.0] * num_sms
    for _ in range(len(rates)):
        for sm in range(num_sms):
            if given < total:
                _insert(resident[sm], work[given % len(work)])
                given += 1
    events = [(_next_end(resident[sm], 0.0, 0.0, rates), sm) for sm in range(num_sms) if resident[sm]]
    heapq.heapify(events)
    now = 0.0
    while events:
        now, sm = heapq.heappop(events)
        ended = resident[sm].popleft()
        service[sm], since[sm] = ended, now
        if given < total:
            _insert(resident[sm], ended + work[given % len(work)])
            given += 1
        if resident[sm]:
            heapq.heappush(events, (_next_end(resident[sm], service[sm], now, rates), sm))
    return now


def _insert(ends: deque[float], end: float) -> None:
    """Insert into a short sorted queue."""
    index = len(ends)
    while index and ends[index - 1] > end:
        index -= 1
    ends.insert(index, end)


def _next_end(ends: deque[float], service: float, now: float, rates: tuple[float, ...]) -> float:
    count = len(ends)
    return now + (ends[0] - service) * count * rates[count - 1]
