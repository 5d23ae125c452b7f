"""How many thread blocks an SM holds at once. Source: cuda_occupancy.h of the CUDA toolkit."""

from __future__ import annotations

from dataclasses import dataclass

from kernelwright.gen.devices import Device

_REGISTER_UNIT = 256  # registers are given to warps in units of 256
_WARP_GRANULARITY = 4  # and to warps in fours, one for each scheduler
_SMEM_UNIT = 128  # bytes
_SMEM_RESERVED = 1024  # bytes of each block that the system keeps, compute capability 8.0 and later


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """Thread blocks an SM holds, and what keeps it from holding more."""

    blocks: int
    limit: str


def occupancy(device: Device, *, registers: int, threads: int, smem_bytes: int) -> Occupancy:
    """Return how many blocks of a kernel fit on one SM.

    Args:
        device: the GPU.
        registers: of a thread, as ptxas reports.
        threads: of a block.
        smem_bytes: of a block, static and dynamic.
    """
    warps = -(-threads // 32)
    warp_registers = -(-max(registers, 1) * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    resident_warps = device.regs_per_sm // warp_registers // _WARP_GRANULARITY * _WARP_GRANULARITY
    block_smem = -(-(smem_bytes + _SMEM_RESERVED) // _SMEM_UNIT) * _SMEM_UNIT
    bounds = {
        "registers": resident_warps // warps,
        "shared memory": device.smem_per_sm_bytes // block_smem if smem_bytes <= device.max_smem_bytes else 0,
        "threads": device.max_threads_per_sm // (32 * warps),
        "blocks": device.max_blocks_per_sm,
    }
    limit = min(bounds, key=lambda name: bounds[name])
    return Occupancy(blocks=bounds[limit], limit=limit)
