"""Shared-memory layout of a tile and the share of each thread in copying it.

`ldmatrix` reads 16-byte chunks of 8 consecutive rows at once and is free of bank conflicts when those chunks
lie in 8 different 16-byte bank groups. A row of C chunks starts C bank groups after the one before. With g the
largest power of two that divides C, up to 8, row r starts at a bank group that is a multiple of g, and 8 / g
consecutive rows start at different ones; chunks of the same column in rows 8 / g apart collide. Exchanging chunks
within groups of g by XOR with (r / (8 / g)) mod g separates them, for every C: a group never leaves its row,
so no padding is needed and 5, 10, 14 or 20 chunks a row are as good as 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelwright.gen.spec import BackwardSchedule, ForwardSchedule, QueryGradientSchedule, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLayout:
    """Layout of rows of `row_chunks` 16-byte chunks, and the copy pattern of a thread block.

    Chunk c of row r lies at chunk `c ^ ((r >> swizzle_shift) & (swizzle_group - 1))` of the row. `copy_cols`
    threads lie side by side on a row and `copy_rows` rows are copied at once.
    """

    row_chunks: int
    swizzle_group: int
    swizzle_shift: int
    copy_cols: int
    copy_rows: int

    @property
    def arguments(self) -> tuple[int, int, int, int, int]:
        """Those of `kw::TileLayout` (templates/include/kw_tile.cuh)."""
        return self.row_chunks, self.swizzle_group, self.swizzle_shift, self.copy_cols, self.copy_rows

    def chunk(self, row: int, column: int) -> int:
        """Return where chunk `column` of `row` lies, in chunks from the start of the tile."""
        return row * self.row_chunks + (column ^ ((row >> self.swizzle_shift) & (self.swizzle_group - 1)))


def tile_layouts(variant: Variant) -> dict[str, TileLayout]:
    """Return the layouts for a variant's head dimensions and the copy patterns for its thread block.

    `qk` is that of Q and K, `v` of V and the output or its gradient, `p` of a tile of probabilities in shared memory.
    """
    problem = variant.problem
    match variant.schedule:
        case ForwardSchedule() as schedule:
            widths = {"qk": problem.head_dim, "v": variant.slice_columns}
        case BackwardSchedule() | QueryGradientSchedule() as schedule:
            widths = {"qk": problem.head_dim, "v": problem.head_dim_v}
        case _:
            return {}
    layouts = {name: tile_layout(width, schedule.block_n, schedule.threads) for name, width in widths.items()}
    if isinstance(schedule, BackwardSchedule):
        layouts["p"] = tile_layout(schedule.block_n, schedule.block_m, schedule.threads)
    return layouts


def tile_layout(row_elements: int, rows: int, threads: int) -> TileLayout:
    """Return the layout of a tile of 16-bit elements and how `threads` threads copy it."""
    row_chunks = row_elements // 8
    group = min(8, row_chunks & -row_chunks)
    columns = _copy_columns(row_chunks, group, rows, threads)
    return TileLayout(
        row_chunks=row_chunks,
        swizzle_group=group,
        swizzle_shift=(8 // group).bit_length() - 1,
        copy_cols=columns,
        copy_rows=threads // columns,
    )


def _copy_columns(row_chunks: int, group: int, rows: int, threads: int) -> int:
    """Choose how many threads share a row: fewest copies a thread, then a constant swizzle, then whole sectors.

    8 threads in a row write at once. They touch each bank once when they write a run of chunks (whole rows, or
    multiples of 8 chunks) or one group of chunks in each of 8 / group rows; other widths are not considered. A thread's
    swizzle is constant when the rows it visits are a multiple of 8 apart, or when there is none.
    """

    def cost(columns: int) -> tuple[int, bool, int]:
        row_step = threads // columns
        copies = -(-rows // row_step) * (row_chunks // columns)
        return copies, group > 1 and row_step % 8 != 0, -columns

    choices = [c for c in range(1, row_chunks + 1) if row_chunks % c == 0 and c <= threads]
    return min((c for c in choices if c in (group, row_chunks) or c % 8 == 0), key=cost)
