"""Counts of the emulator against closed forms: nothing is loaded, multiplied or stored that need not be."""

from __future__ import annotations

import pytest
import torch

from kernelwright.gen.ladder import default_schedule
from kernelwright.gen.spec import ForwardProblem

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]

HEAD_DIMS = list(range(8, 257, 8))
BATCH, SEQLEN, HEADS, HEADS_KV = 1, 200, 2, 1


def kernel_for(head_dim: int, *, is_causal: bool) -> ForwardProblem:
    """The kernel of the module every_head_dim with this head dimension and mask."""
    bf16 = is_causal == bool(head_dim % 16)
    return ForwardProblem(dtype="bf16" if bf16 else "fp16", head_dim=head_dim, is_causal=is_causal)


def counters_of(module, problem: ForwardProblem) -> dict[str, int]:
    dtype = torch.bfloat16 if problem.dtype == "bf16" else torch.float16
    q = torch.randn(BATCH, SEQLEN, HEADS, problem.head_dim).to(dtype)
    k, v = (torch.randn(BATCH, SEQLEN, HEADS_KV, problem.head_dim).to(dtype) for _ in range(2))
    module.flash_attn_func(q, k, v, causal=problem.is_causal)
    return module.last_report()["counters"]


def visited_tiles(problem: ForwardProblem) -> tuple[list[int], int]:
    """Key tiles visited by each query block, and the keys in them all."""
    schedule = default_schedule(problem)
    tiles, keys = [], 0
    for start in range(0, SEQLEN, schedule.block_m):
        seen = min(SEQLEN, start + schedule.block_m) if problem.is_causal else SEQLEN
        tiles.append(-(-seen // schedule.block_n))
        keys += min(SEQLEN, tiles[-1] * schedule.block_n)
    return tiles, keys


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_shared_memory_is_read_and_written_without_bank_conflicts(every_head_dim, head_dim, is_causal):
    counters = counters_of(every_head_dim, kernel_for(head_dim, is_causal=is_causal))
    for kind in ("ldmatrix", "cp_async", "shared_load", "shared_store"):
        assert counters[f"{kind}_wavefronts"] == counters[f"{kind}_wavefronts_ideal"] > 0, kind


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_every_tile_is_loaded_and_multiplied_once(every_head_dim, head_dim, is_causal):
    problem = kernel_for(head_dim, is_causal=is_causal)
    schedule = default_schedule(problem)
    counters = counters_of(every_head_dim, problem)
    tiles, keys = visited_tiles(problem)
    heads = BATCH * HEADS
    assert counters["global_load_bytes"] == 2 * head_dim * heads * (SEQLEN + 2 * keys)
    assert counters["global_store_bytes"] == 2 * head_dim * heads * SEQLEN  # no lse was asked for
    # Q K^T and P V on whole tiles: two products of block_m x block_n x head_dim, no padding of the head dimension.
    assert counters["mma_flops"] == 2 * 2 * schedule.block_m * schedule.block_n * head_dim * sum(tiles) * heads


def test_a_head_dim_of_whole_sectors_is_stored_in_whole_sectors(every_head_dim):
    counters = counters_of(every_head_dim, kernel_for(80, is_causal=False))
    assert counters["global_store_sectors"] == counters["global_store_sectors_ideal"]
    assert counters["global_load_sectors"] == counters["global_load_sectors_ideal"]
