"""Synchronisations that a kernel holds and its race check can do without, with the reason for each.

`gen verify --mutate` takes every synchronisation out in turn and fails when that goes unnoticed, unless it is listed
here. An entry names what else orders every pair of accesses that the synchronisation orders. It is no licence to be
blind: the kernel without it runs with all checks, and vector clocks judge what is ordered, not how results come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernelwright.gen.layout import tile_layouts
from kernelwright.gen.spec import Variant

Edge = Literal["ldmatrix", "barrier"]
"""What orders the accesses instead: that `ldmatrix` reads for all lanes at once, or another barrier of the kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedundantSync:
    """One synchronisation: the `index`-th of its kind in the PTX, from the end if negative."""

    kind: str  # as in emulator/mutate.py
    index: int
    edge: Edge
    reason: str


_WHOLE_WARP = (
    "ldmatrix is one instruction of the whole warp, whose reads are done when it is over. "
    "The PTX memory model does not promise that, so it stays"
)


def redundant_syncs(variant: Variant) -> tuple[RedundantSync, ...]:
    """Return what is redundant in the kernel of a variant (templates/flash_fwd_mma.cu.jinja)."""
    schedule = variant.schedule
    if not schedule.q_in_regs:
        orders = f"it orders a warp's last ldmatrix of its Q rows before its stores of O to them; {_WHOLE_WARP}"
        return (RedundantSync(kind="warp_sync", index=-2, edge="ldmatrix", reason=orders),)
    found = []
    if _warps_overwrite_own_q(variant):
        to_copies = f"it orders each warp's ldmatrix of Q before its own copies to the same bytes; {_WHOLE_WARP}"
        found.append(RedundantSync(kind="barrier", index=1, edge="ldmatrix", reason=to_copies))
    if schedule.num_stages == 1 and schedule.block_m <= schedule.block_n:
        in_k = (
            "O is staged in the bytes of K, which nobody reads after the barrier between Q K^T and P V of the last "
            "tile. It is there for larger tiles of O, which reach into V, and costs once a block"
        )
        found.append(RedundantSync(kind="barrier", index=-1, edge="barrier", reason=in_k))
    elif schedule.num_warps == 1:
        to_stores = (
            f"it orders the only warp's last ldmatrix of V before its stores of O to the same bytes; {_WHOLE_WARP}"
        )
        found.append(RedundantSync(kind="barrier", index=-1, edge="ldmatrix", reason=to_stores))
    return tuple(found)


def _warps_overwrite_own_q(variant: Variant) -> bool:
    """Whether each row of Q that the first copies of K and V overwrite was read by the warp that copies to it.

    Later copies come after a barrier of the main loop. In rows from the start of shared memory, Q and the stages of K
    begin at 0 and those of V at `num_stages * block_n`.
    """
    schedule = variant.schedule
    step = tile_layouts(variant).qk.copy_rows
    rows_per_warp = schedule.block_m // schedule.num_warps
    tiles = range(max(1, schedule.num_stages - 1))
    starts = [stage * schedule.block_n for stage in tiles]
    if schedule.num_stages > 1:  # with one stage V is copied after a barrier
        starts += [(schedule.num_stages + stage) * schedule.block_n for stage in tiles]
    columns = tile_layouts(variant).qk.copy_cols
    return all(
        (start + row) // rows_per_warp == lane_row * columns // 32 == ((lane_row + 1) * columns - 1) // 32
        for start in starts
        for row in range(schedule.block_n)
        if start + row < schedule.block_m
        for lane_row in [row % step]
    )
