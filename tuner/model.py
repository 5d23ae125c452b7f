"""Modelled cost of a kernel: cycles of each resource for an iteration of its main loop, then blocks over the SMs.

Everything here is `modelled`: computed from the variant, ptxas' register count and a row of `configs/devices.yaml`,
never from a clock. It ranks variants; figures within 10 % of each other are ties. Rates are per SM and clock.
What an iteration executes is in `step_work.py`, which tiles are visited in `walks.py`.
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
from kernelwright.tuner.step_work import step_work
from kernelwright.tuner.walks import Block, bytes_once, call_counts, thread_blocks

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

_STEP_LATENCY = 250.0  # clocks a phase takes beside issuing: barrier, ldmatrix, two shuffles, mma and exp2 drains
_LOAD_LATENCY = 600.0  # clocks from cp.async to data, from L2 (about 270) or DRAM (about 500) with queueing
_L2_BYTES_PER_CLK = 48.0  # an SM's share: 5,120 bytes a clock over 108 SMs, NVIDIA A100 whitepaper
_START_LATENCY = 1500.0  # clocks before the first step (launch of a block, Q and first K) and after the last (O)
_DRAM_EFFICIENCY = 0.85  # of the datasheet's bandwidth, reached by copies
_LAUNCH_CYCLES = 5000.0  # a launch, 3 to 4 microseconds
_BIAS_LOAD_CLOCKS = 2.0  # of a warp's load, which touches 8 rows; our guess, no source


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCycles:
    """Clocks of an SM that an iteration of one thread block takes of each resource, and together.

    `atomics`: of the L2 cache, whose sectors they pass to and fro.
    """

    tensor: float
    exp: float
    alu: float
    issue: float
    smem: float
    latency: float
    atomics: float
    total: float


def step_cycles(variant: Variant, device: Device, resident: int) -> StepCycles:
    """Return what an iteration of one block costs an SM that holds `resident` such blocks."""
    work, warps = step_work(variant), variant.schedule.threads // 32
    mma = work.mma_flops / _MMA_FLOPS
    vector = (work.mufu + work.fp32 + work.half_rate) / 32
    ldmatrix, copies = work.read_bytes / 512, 2 * work.copied_elements / 512
    stores = work.stored_bytes / 128
    moved = ldmatrix + 2 * copies + work.bias_loads + stores + work.atomics

    tensor = work.mma_flops / device.mma_flops
    exp = work.mufu / device.mufu
    alu = work.fp32 / device.fp32_lanes + work.half_rate / _HALF_RATE_LANES
    issue = (mma + vector + moved) / _SCHEDULERS
    smem_bytes = work.read_bytes + work.stored_bytes + 2 * work.copied_elements
    smem = smem_bytes / device.smem_bytes_per_clk + work.bias_loads * _BIAS_LOAD_CLOCKS

    # One warp's own time: the stall counts in its code, and what waiting comes with every barrier.
    mma_clocks = min(_MMA_STALL, _MMA_FLOPS * _SCHEDULERS / device.mma_flops)
    alone = (mma * mma_clocks + 2 * (vector + moved)) / warps + _STEP_LATENCY * work.barriers
    load = _LOAD_LATENCY + 2 * work.copied_elements / _L2_BYTES_PER_CLK
    latency = (alone + max(0.0, load - alone * work.hidden)) / resident

    power = _OVERLAP if resident > 1 else _OVERLAP_ALONE
    atomics = work.atomic_bytes / _L2_BYTES_PER_CLK
    parts = {"tensor": tensor, "exp": exp, "alu": alu, "issue": issue, "smem": smem, "latency": latency}
    parts["atomics"] = atomics
    return StepCycles(**parts, total=sum(part**power for part in parts.values()) ** (1 / power))


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
    blocks, repeats = thread_blocks(variant, shape, device.num_sms)
    makespan = _makespan(blocks, repeats, device.num_sms, rates)
    return _LAUNCH_CYCLES + max(makespan, _memory_cycles(variant, device, shape))


def _memory_cycles(variant: Variant, device: Device, shape: Shape) -> float:
    """Return the clocks that moving every byte once takes, and every byte of the tiles out of L2 and into it."""
    counts = call_counts(variant, shape)
    dram_bytes_per_clk = _DRAM_EFFICIENCY * device.dram_gbs * 1e3 / device.boost_mhz
    dram = (bytes_once(variant, shape) + counts.bias_bytes) / dram_bytes_per_clk
    moved = counts.copied_bytes + counts.bias_bytes + counts.atomic_bytes
    return max(dram, moved / (_L2_BYTES_PER_CLK * device.num_sms))


@lru_cache(maxsize=4096)
def _makespan(blocks: tuple[Block, ...], repeats: int, num_sms: int, rates: tuple[float, ...]) -> float:
    """Return when the last block ends, blocks being given out in launch order to the SM that is free first.

    Blocks on one SM share it evenly; `rates[r - 1]` is the clocks of an iteration where r blocks do.
    """
    start = _START_LATENCY / rates[0]  # in iterations of a block that is alone
    work = [steps + start * starts for steps, starts in blocks]
    total, given = len(work) * repeats, 0
    resident: list[deque[float]] = [deque() for _ in range(num_sms)]  # service at which each block ends, sorted
    service = [0.0] * num_sms  # iterations that every block of an SM has been given so far
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
