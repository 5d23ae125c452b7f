"""Modelled cost of a forward kernel: cycles of each resource for one key tile, then blocks over the SMs.

Everything here is `modelled`: computed from the variant, ptxas' register count and a row of `configs/devices.yaml`,
never from a clock. It ranks variants; figures within 10 % of each other are ties. Rates are per SM and clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from functools import lru_cache

from kernelwright.gen.devices import Device
from kernelwright.gen.spec import Variant
from kernelwright.tuner.occupancy import occupancy
from kernelwright.tuner.shapes import Shape

MODEL_VERSION = 1
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


def step_cycles(variant: Variant, device: Device, resident: int) -> StepCycles:
    """Return what one key tile of one block costs an SM that holds `resident` such blocks."""
    schedule, head_dim = variant.schedule, variant.problem.head_dim
    block_m, block_n, warps = schedule.block_m, schedule.block_n, schedule.num_warps
    scores = block_m * block_n

    flops = 4 * scores * head_dim
    mma = flops / _MMA_FLOPS
    exps = scores + 4 * block_m  # the rescaling factor of a row is computed by each of its 4 lanes
    fp32 = 2 * scores + block_m * head_dim + 8 * block_m  # scale and sum of scores, rescaling of O
    half_rate = 1.75 * scores + 4 * block_m  # maximum, conversion to P, address arithmetic
    kv_elements = 2 * block_n * head_dim
    q_elements = 0 if schedule.q_in_regs else block_m * head_dim
    read_bytes = 2 * (warps * kv_elements + q_elements)
    ldmatrix = read_bytes / 512
    copies = 2 * kv_elements / 512

    tensor = flops / device.mma_flops
    exp = exps / device.mufu
    alu = fp32 / device.fp32_lanes + half_rate / _HALF_RATE_LANES
    issue = (mma + (exps + fp32 + half_rate) / 32 + ldmatrix + 2 * copies) / _SCHEDULERS
    smem = (read_bytes + 2 * kv_elements) / device.smem_bytes_per_clk

    # One warp's own time: the stall counts in its code, and what waiting comes with every step.
    mma_clocks = min(_MMA_STALL, _MMA_FLOPS * _SCHEDULERS / device.mma_flops)
    others = (exps + fp32 + half_rate) / 32 + ldmatrix + 2 * copies
    alone = (mma * mma_clocks + 2 * others) / warps + _STEP_LATENCY * (2 if schedule.num_stages == 1 else 1)
    load = _LOAD_LATENCY + 2 * kv_elements / _L2_BYTES_PER_CLK
    # A single stage loads K under P V and V under Q K^T, half a step each; a ring of s under s - 1 steps.
    hidden = alone * (schedule.num_stages - 1 if schedule.num_stages > 1 else 0.5)
    latency = (alone + max(0.0, load - hidden)) / resident

    power = _OVERLAP if resident > 1 else _OVERLAP_ALONE
    parts = (tensor, exp, alu, issue, smem, latency)
    total = sum(part**power for part in parts) ** (1 / power)
    return StepCycles(tensor=tensor, exp=exp, alu=alu, issue=issue, smem=smem, latency=latency, total=total)


def key_tiles(variant: Variant, shape: Shape) -> list[int]:
    """Return how many key tiles each query tile of one head visits, in launch order."""
    block_m, block_n = variant.schedule.block_m, variant.schedule.block_n
    m_blocks = -(-shape.seqlen_q // block_m)
    if not variant.problem.is_causal:
        return [-(-shape.seqlen_k // block_n)] * m_blocks
    shift = shape.seqlen_k - shape.seqlen_q
    last_rows = [min((m + 1) * block_m, shape.seqlen_q) for m in range(m_blocks)]
    counts = [-(-max(0, min(shape.seqlen_k, row + shift)) // block_n) for row in last_rows]
    return counts[::-1]  # the template starts with the longest


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
    held = occupancy(
        device, registers=registers, threads=variant.schedule.threads, smem_bytes=variant.smem_bytes
    ).blocks
    if held < 1:
        raise ValueError(f"{variant.name}: no thread block fits on an SM of {device.name}")
    rates = tuple(step_cycles(variant, device, resident).total for resident in range(1, held + 1))
    heads = shape.batch * shape.num_heads_q
    makespan = _makespan(tuple(key_tiles(variant, shape)), heads, device.num_sms, rates)
    return _LAUNCH_CYCLES + max(makespan, _memory_cycles(variant, device, shape))


def _memory_cycles(variant: Variant, device: Device, shape: Shape) -> float:
    """Return the clocks that moving every byte once takes, and every byte of the tiles out of L2."""
    row_bytes = 2 * variant.problem.head_dim
    q_rows = shape.batch * shape.num_heads_q * shape.seqlen_q
    kv_rows = shape.batch * shape.num_heads_kv * shape.seqlen_k
    dram_bytes_per_clk = _DRAM_EFFICIENCY * device.dram_gbs * 1e3 / device.boost_mhz
    dram = 2 * row_bytes * (q_rows + kv_rows) / dram_bytes_per_clk
    tiles = sum(key_tiles(variant, shape)) * shape.batch * shape.num_heads_q
    l2 = row_bytes * (q_rows + 2 * tiles * variant.schedule.block_n) / (_L2_BYTES_PER_CLK * device.num_sms)
    return max(dram, l2)


@lru_cache(maxsize=4096)
def _makespan(tiles: tuple[int, ...], heads: int, num_sms: int, rates: tuple[float, ...]) -> float:
    """Return when the last block ends, blocks being given out in launch order to the SM that is free first.

    Blocks on one SM share it evenly; `rates[r - 1]` is the clocks of a key tile where r blocks do.
    """
    start = _START_LATENCY / rates[0]  # in key tiles of a block that is alone
    work = [count + start for count in tiles]
    total, given = len(work) * heads, 0
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
