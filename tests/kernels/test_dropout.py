"""What a kernel drops, read off its result: V is the identity, so column j of it is the probability of key j."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]

BATCH, HEADS, SEQLEN_Q, SEQLEN_K = 2, 3, 150, 128
STATE = torch.tensor([2**61 + 12345, 2**40 + 77])
TILES = [(128, 64, 4, 2), (16, 16, 1, 1), (64, 48, 2, 1), (96, 80, 2, 3)]  # block_m, block_n, num_warps, num_stages


def variant(tile: tuple[int, int, int, int], *, is_varlen: bool = False) -> Variant:
    names = ("block_m", "block_n", "num_warps", "num_stages")
    return Variant(
        sm=80,
        problem=ForwardProblem(dtype="fp16", head_dim=32, head_dim_v=SEQLEN_K, has_dropout=True, is_varlen=is_varlen),
        schedule=ForwardSchedule(**dict(zip(names, tile, strict=True)), q_in_regs=False),
    )


@pytest.fixture(scope="module")
def module(every_head_dim, build, table_of):
    variants = [variant(tile, is_varlen=one) for tile in TILES for one in (False, True)]
    every_head_dim.load_table(table_of("dropout", build(variants)))
    yield every_head_dim
    every_head_dim.load_table(None)


def kept_by(module, tile, p: float, state: torch.Tensor = STATE) -> torch.Tensor:
    """Which probabilities a kernel keeps, [batch, heads, seqlen_q, seqlen_k]."""
    q = torch.randn(BATCH, SEQLEN_Q, HEADS, 32).half()
    k = torch.randn(BATCH, SEQLEN_K, HEADS, 32).half()
    v = torch.eye(SEQLEN_K).half()[None, :, None, :].expand(BATCH, -1, HEADS, -1)
    with module.force_variant(variant(tile).name):
        out = module.flash_attn_func(q, k, v, dropout_p=p, rng_state=state)
    return (out != 0).transpose(1, 2)


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_the_mask_is_the_documented_one_whatever_the_tiles(module, tile, p):
    dropout = importlib.import_module(f"{module.__name__}._runtime.dropout")
    expected = dropout.keep_mask(STATE, BATCH, HEADS, SEQLEN_Q, SEQLEN_K, math.floor(255 * (1 - p)))
    assert torch.equal(kept_by(module, tile, p), expected)


def test_sequences_draw_by_their_own_rows_and_keys(module):
    lengths = [(40, 128), (0, 5), (17, 31)]
    q_ends, k_ends = (torch.tensor([0, *(one[side] for one in lengths)]).cumsum(0).int() for side in (0, 1))
    q = torch.randn(57, HEADS, 32).half()
    k = torch.randn(164, HEADS, 32).half()
    v = torch.cat([torch.eye(SEQLEN_K)[:keys] for _, keys in lengths]).half()[:, None].expand(-1, HEADS, -1)
    with module.force_variant(variant(TILES[2], is_varlen=True).name):
        out = module.flash_attn_varlen_func(
            q, k, v.contiguous(), q_ends, k_ends, 40, 128, dropout_p=0.3, rng_state=STATE
        )
    dropout = importlib.import_module(f"{module.__name__}._runtime.dropout")
    mask = dropout.keep_mask(STATE, 3, HEADS, 40, 128, math.floor(255 * 0.7))
    for number, (queries, keys) in enumerate(lengths):
        found = (out[int(q_ends[number]) : int(q_ends[number + 1])] != 0).transpose(0, 1)
        assert torch.equal(found[..., :keys], mask[number, :, :queries, :keys])


@pytest.mark.parametrize("p", [0.1, 0.17, 0.5, 0.9])
def test_the_rate_and_the_independence_of_heads_rows_and_tiles(module, p):
    kept = kept_by(module, TILES[0], p).double()
    rate = (math.floor(255 * (1 - p)) + 1) / 256  # a byte is not above the threshold
    sigma = math.sqrt(rate * (1 - rate))
    assert abs(float(kept.mean()) - rate) < 4 * sigma / math.sqrt(kept.numel())
    centred = (kept - rate) / sigma
    pairs = {
        "batch": (centred[0], centred[1]),
        "heads": (centred[:, 0], centred[:, 1]),
        "rows": (centred[:, :, :-1], centred[:, :, 1:]),
        "columns": (centred[..., :-1], centred[..., 1:]),
        "row tiles": (centred[:, :, :-16], centred[:, :, 16:]),
        "column tiles": (centred[..., :-32], centred[..., 32:]),
    }
    for name, (one, other) in pairs.items():
        assert abs(float((one * other).mean())) < 4 / math.sqrt(one.numel()), name


def test_another_seed_or_offset_draws_anew(module):
    masks = [kept_by(module, TILES[0], 0.5, STATE + torch.tensor(step)) for step in ([0, 0], [1, 0], [0, 1], [0, 192])]
    for index, one in enumerate(masks):
        for other in masks[index + 1 :]:
            assert 0.4 < float((one == other).double().mean()) < 0.6
