"""Synchronisations that a kernel holds and its race check can do without, with the reason for each.

`gen verify --mutate` takes every synchronisation out in turn and fails when that goes unnoticed, unless it is listed
here. An entry names what else orders every pair of accesses that the synchronisation orders. It is no licence to be
blind: the kernel without it runs with all checks, and vector clocks judge what is ordered, not how results come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernelwright.gen.layout import TileLayout, tile_layouts
from kernelwright.gen.spec import ForwardSchedule, QueryGradientSchedule, Variant

Edge = Literal["ldmatrix", "barrier", "thread"]
"""What orders the accesses instead: that `ldmatrix` reads for all lanes at once, another barrier of the kernel, or that
they are of one thread."""


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
    """Return what is redundant in the kernel of a variant."""
    schedule = variant.schedule
    if isinstance(schedule, QueryGradientSchedule):
        orders = f"it orders a warp's last ldmatrix of its Q rows before its stores of dQ to them; {_WHOLE_WARP}"
        return (RedundantSync(kind="warp_sync", index=-1, edge="ldmatrix", reason=orders),)
    if not isinstance(schedule, ForwardSchedule):
        return ()
    if not schedule.q_in_regs and variant.problem.head_dim == variant.slice_columns:  # O's rows lie where Q's lie
        orders = f"it orders a warp's last ldmatrix of its Q rows before its stores of O to them; {_WHOLE_WARP}"
        return (RedundantSync(kind="warp_sync", index=-2, edge="ldmatrix", reason=orders),)
    found = []
    if schedule.q_in_regs and _warps_overwrite_own_q(variant):
        to_copies = f"it orders each warp's ldmatrix of Q before its own copies to the same bytes; {_WHOLE_WARP}"
        found.append(RedundantSync(kind="barrier", index=1, edge="ldmatrix", reason=to_copies))
    before_o = -2 if schedule.persistent_blocks else -1  # the last is that before the next tile
    if schedule.num_stages == 1 and not _o_reaches_v(variant):
        in_k = (
            "O is staged in the bytes of Q and K, which nobody reads after the barrier between Q K^T and P V of the "
            "last tile. It is there for larger tiles of O, which reach into V, and costs once a block"
        )
        found.append(RedundantSync(kind="barrier", index=before_o, edge="barrier", reason=in_k))
    elif schedule.num_warps == 1:
        to_stores = f"it orders the only warp's last ldmatrix before its stores of O to the same bytes; {_WHOLE_WARP}"
        found.append(RedundantSync(kind="barrier", index=before_o, edge="ldmatrix", reason=to_stores))
    if schedule.persistent_blocks and schedule.q_in_regs and _threads_overwrite_own_o(variant):
        to_q = (
            "each thread copies the next tile's Q to the very bytes of O that it has read. The PTX memory model orders "
            "no asynchronous copy by its thread's reads, so it stays"
        )
        found.append(RedundantSync(kind="barrier", index=-1, edge="thread", reason=to_q))
    return tuple(found)


def _o_reaches_v(variant: Variant) -> bool:
    """Whether the tile of O is longer than Q's share of shared memory and the only tile of K after it."""
    schedule, row = variant.forward, variant.problem.head_dim
    before_v = row * (schedule.block_n + (0 if schedule.q_in_regs else schedule.block_m))
    return schedule.block_m * variant.slice_columns > before_v


def _threads_overwrite_own_o(variant: Variant) -> bool:
    """Whether each chunk of O that Q of the next tile overwrites is read by the thread that copies to it.

    With Q in registers K and V come after a barrier. A warp reads its rows of O chunk after chunk, a lane each.
    """
    schedule, layouts = variant.forward, tile_layouts(variant)
    q, o = layouts["qk"], layouts["v"]
    rows_per_warp = schedule.block_m // schedule.num_warps
    readers = {
        o.chunk(row, column): 32 * (row // rows_per_warp) + (row % rows_per_warp * o.row_chunks + column) % 32
        for row in range(schedule.block_m)
        for column in range(o.row_chunks)
    }
    copiers = {
        q.chunk(row, column): row % q.copy_rows * q.copy_cols + column % q.copy_cols
        for row in range(schedule.block_m)
        for column in range(q.row_chunks)
    }
    return all(readers.get(chunk, thread) == thread for chunk, thread in copiers.items())


def _warps_overwrite_own_q(variant: Variant) -> bool:
    """Whether each chunk of Q that the first copies of K and V overwrite was read by the warp that copies to it.

    Later copies come after a barrier of the main loop. Q and the stages of K begin at the start of shared memory, those
    of V behind all of K's.
    """
    schedule, layouts = variant.forward, tile_layouts(variant)
    k_chunks, v_chunks = (schedule.block_n * one.row_chunks for one in (layouts["qk"], layouts["v"]))
    tiles = range(max(1, schedule.num_stages - 1))
    copies = [(layouts["qk"], stage * k_chunks) for stage in tiles]
    if schedule.num_stages > 1:  # with one stage V is copied after a barrier
        copies += [(layouts["v"], schedule.num_stages * k_chunks + stage * v_chunks) for stage in tiles]
    return all(
        _reader(variant, layouts["qk"], start + layout.chunk(row, column)) in (None, _copier(layout, row, column))
        for layout, start in copies
        for row in range(schedule.block_n)
        for column in range(layout.row_chunks)
    )


def _reader(variant: Variant, layout: TileLayout, chunk: int) -> int | None:
    """Return the warp that reads a chunk of Q, None behind its end."""
    row = chunk // layout.row_chunks
    schedule = variant.forward
    return row // (schedule.block_m // schedule.num_warps) if row < schedule.block_m else None


def _copier(layout: TileLayout, row: int, column: int) -> int:
    """Return the warp that copies a chunk of a tile."""
    return (row % layout.copy_rows * layout.copy_cols + column % layout.copy_cols) // 32
