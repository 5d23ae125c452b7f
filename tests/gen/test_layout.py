"""Shared-memory layouts: no bank conflict for any head dimension, judged by the banks themselves."""

import pytest

from kernelwright.gen.ladder import default_schedule
from kernelwright.gen.layout import tile_layouts
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

HEAD_DIMS = [*range(8, 257, 8), 384, 512]


def layout_of(head_dim, **schedule):
    problem = ForwardProblem(dtype="bf16", head_dim=head_dim, head_dim_v=min(head_dim, 256))
    chosen = ForwardSchedule(**schedule) if schedule else default_schedule(problem)
    variant = Variant(sm=80, problem=problem, schedule=chosen)
    return variant, tile_layouts(variant)["qk"]


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_chunk_has_a_place_of_its_own(head_dim):
    variant, layout = layout_of(head_dim)
    rows = variant.schedule.block_n
    places = {layout.chunk(row, column) for row in range(rows) for column in range(layout.row_chunks)}
    assert places == set(range(rows * layout.row_chunks))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_a_matrix_read_touches_every_bank_once(head_dim):
    _, layout = layout_of(head_dim)
    for column in range(layout.row_chunks):
        for first in (0, 8):
            assert len({layout.chunk(first + row, column) % 8 for row in range(8)}) == 8


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("num_warps", [1, 2, 4, 8])
@pytest.mark.parametrize("block_n", [16, 48, 64, 128])
def test_the_copy_covers_every_chunk_once(head_dim, num_warps, block_n):
    schedule = {"block_m": 16 * num_warps, "block_n": block_n, "num_warps": num_warps}
    variant, layout = layout_of(head_dim, **schedule, num_stages=1, q_in_regs=False)
    copied = []
    for thread in range(min(variant.schedule.threads, layout.copy_cols * layout.copy_rows)):
        first_row, first_column = divmod(thread, layout.copy_cols)
        for row in range(first_row, block_n, layout.copy_rows):
            copied += [(row, c) for c in range(first_column, layout.row_chunks, layout.copy_cols)]
    assert sorted(copied) == [(row, c) for row in range(block_n) for c in range(layout.row_chunks)]


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("num_warps", [1, 4, 8])
@pytest.mark.parametrize("block_n", [32, 48, 64])
def test_eight_threads_write_to_every_bank_once(head_dim, num_warps, block_n):
    schedule = {"block_m": 16 * num_warps, "block_n": block_n, "num_warps": num_warps}
    _, layout = layout_of(head_dim, **schedule, num_stages=1, q_in_regs=False)
    active = layout.copy_cols * layout.copy_rows
    for first in range(0, active - 7, 8):
        places = [divmod(thread, layout.copy_cols) for thread in range(first, first + 8)]
        assert len({layout.chunk(row, column) % 8 for row, column in places}) == 8


def test_odd_rows_need_no_swizzle_and_powers_of_two_use_all_of_it():
    assert layout_of(40)[1].swizzle_group == 1
    assert layout_of(80)[1].swizzle_group == 2
    assert layout_of(160)[1].swizzle_group == 4
    assert layout_of(128)[1].swizzle_group == 8


def test_the_values_have_a_layout_of_their_own():
    problem = ForwardProblem(dtype="bf16", head_dim=192, head_dim_v=80)
    layouts = tile_layouts(Variant(sm=80, problem=problem, schedule=default_schedule(problem)))
    assert (layouts["qk"].row_chunks, layouts["v"].row_chunks) == (24, 10)
    sliced = ForwardProblem(dtype="bf16", head_dim=64, head_dim_v=512)
    layouts = tile_layouts(Variant(sm=80, problem=sliced, schedule=default_schedule(sliced)))
    assert (layouts["qk"].row_chunks, layouts["v"].row_chunks) == (8, 32)  # a thread block's half of the columns
