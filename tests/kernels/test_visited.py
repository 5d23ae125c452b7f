"""Blocks of keys that nobody sees are neither loaded nor multiplied: counts of the emulator against the mask itself."""

from __future__ import annotations

import importlib

import pytest
import torch

from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]

BLOCK_M, BLOCK_N, HEAD_DIM, HEADS = 32, 32, 64, 2
SCHEDULES = {
    stages: ForwardSchedule(block_m=BLOCK_M, block_n=BLOCK_N, num_warps=2, num_stages=stages, q_in_regs=False)
    for stages in (1, 3)
}


@pytest.fixture(scope="module", params=sorted(SCHEDULES))
def module(request, every_head_dim, build, table_of):
    features = (
        {"is_local": True},
        {"is_local": True, "is_varlen": True},
        {"is_block_sparse": True},
        {"is_block_sparse": True, "is_causal": True},
    )
    problems = [ForwardProblem(dtype="fp16", head_dim=HEAD_DIM, **one) for one in features]
    variants = [Variant(sm=80, problem=one, schedule=SCHEDULES[request.param]) for one in problems]
    every_head_dim.load_table(table_of(f"visited_{request.param}", build(variants)))
    yield every_head_dim
    every_head_dim.load_table(None)


def inputs(seqlen_q: int, seqlen_k: int) -> tuple[torch.Tensor, ...]:
    shapes = ((1, seqlen_q, HEADS, HEAD_DIM), (1, seqlen_k, HEADS, HEAD_DIM), (1, seqlen_k, HEADS, HEAD_DIM))
    return tuple(torch.randn(shape).half() for shape in shapes)


def expected(mask: torch.Tensor) -> dict[str, int]:
    """Bytes and operations for [heads, seqlen_q, seqlen_k]: the tiles in which some row sees a key, and Q once."""
    heads, seqlen_q, seqlen_k = mask.shape
    loaded = flops = 0
    for head in range(heads):
        for m in range(0, seqlen_q, BLOCK_M):
            for n in range(0, seqlen_k, BLOCK_N):
                if bool(mask[head, m : m + BLOCK_M, n : n + BLOCK_N].any()):
                    loaded += 2 * min(BLOCK_N, seqlen_k - n) * HEAD_DIM * 2
                    flops += 2 * 2 * BLOCK_M * BLOCK_N * HEAD_DIM
            if bool(mask[head, m : m + BLOCK_M].any()):
                loaded += min(BLOCK_M, seqlen_q - m) * HEAD_DIM * 2
    return {"cp_async_bytes": loaded, "mma_flops": flops}


def counted(module) -> dict[str, int]:
    counters = module.last_report()["counters"]
    return {name: counters[name] for name in ("cp_async_bytes", "mma_flops")}


def band(seqlen_q: int, seqlen_k: int, left: int, right: int) -> torch.Tensor:
    offset = torch.arange(seqlen_k)[None, :] - torch.arange(seqlen_q)[:, None] - (seqlen_k - seqlen_q)
    return ((offset >= -left) & (offset <= right)).expand(HEADS, -1, -1)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (5, 0), (40, 0), (31, 33), (64, 64), (1, 100)])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(200, 200), (70, 333), (257, 100)])
def test_a_window_loads_only_the_tiles_it_meets(module, left, right, seqlen_q, seqlen_k):
    module.flash_attn_func(*inputs(seqlen_q, seqlen_k), window_size=(left, right))
    assert counted(module) == expected(band(seqlen_q, seqlen_k, left, right))


@pytest.mark.parametrize("chunk", [1, 17, 64, 100])
def test_chunks_load_only_their_own_tiles(module, chunk):
    module.flash_attn_func(*inputs(200, 200), causal=True, attention_chunk=chunk)
    position = torch.arange(200)
    mask = (position[:, None] // chunk == position[None, :] // chunk) & (position[None, :] <= position[:, None])
    assert counted(module) == expected(mask.expand(HEADS, -1, -1))


def test_sequences_load_their_own_tiles_and_no_neighbours(module):
    lengths = torch.tensor([70, 0, 1, 33, 96])
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    q, k, v = (one[0] for one in inputs(200, 200))
    module.flash_attn_varlen_func(q, k, v, ends, ends, 96, 96, window_size=(40, 0))
    parts = [expected(band(int(one), int(one), 40, 0)) for one in lengths if one]
    assert counted(module) == {name: sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_block_sparse_call_loads_in_proportion_to_the_blocks_kept(module, share, causal):
    seqlen, block = 512, 64
    generator = torch.Generator().manual_seed(3)
    kept = torch.rand(HEADS, seqlen // block, seqlen // block, generator=generator) < share
    mask = kept.repeat_interleave(block, 1).repeat_interleave(block, 2)
    block_mask = importlib.import_module(module.__name__).BlockMask.from_dense(mask, block, block)
    module.sparse_attn_func(*inputs(seqlen, seqlen), block_mask, causal=causal)
    seen = mask & torch.ones(seqlen, seqlen, dtype=torch.bool).tril() if causal else mask
    assert counted(module) == expected(seen)
    if not causal:
        assert counted(module)["mma_flops"] == int(kept.sum()) * 4 * block * block * HEAD_DIM
