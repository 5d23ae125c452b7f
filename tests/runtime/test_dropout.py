"""Dropout's mask: Philox by an independent implementation, the rate, and no pattern."""

from __future__ import annotations

import math

import pytest
import torch

from kernelwright.runtime.dropout import keep_mask

SEED, OFFSET = 0x0123456789ABCDEF, 0x0FEDCBA987654321 >> 2


def philox_4x32_7(seed: int, offset: int, row_block: int, column_block: int) -> list[int]:
    """One counter at a time, with Python's whole numbers: Salmon et al. 2011, section 3.3."""
    counter = [offset % 2**32, offset >> 32, row_block, column_block]
    key = [seed % 2**32, seed >> 32]
    for _ in range(7):
        high0, low0 = divmod(counter[0] * 0xD2511F53, 2**32)
        high1, low1 = divmod(counter[2] * 0xCD9E8D57, 2**32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def state(seed: int = SEED, offset: int = OFFSET) -> torch.Tensor:
    return torch.tensor([seed, offset], dtype=torch.int64)


def byte_of(seq_head: int, row: int, column: int, seed: int = SEED, offset: int = OFFSET) -> int:
    """What is drawn for one probability, from where the fragments of m16n8k16 hold it."""
    lane = 4 * (row % 8) + column % 8 // 2
    word = philox_4x32_7(seed, offset + 32 * seq_head + lane, row // 16, column // 32)[column % 32 // 8]
    return word.to_bytes(4, "little")[2 * (row % 16 // 8) + column % 2]


def test_the_counter_is_philox_4x32_of_7_rounds():
    """Random123 publishes known answers, in kat_vectors; this is of philox4x32 with 7 rounds, all zero."""
    assert philox_4x32_7(0, 0, 0, 0) == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]


@pytest.mark.parametrize(("seed", "offset"), [(SEED, OFFSET), (0, 0), (2**62 - 1, 2**32 - 7), (5, 2**62 - 1)])
def test_every_decision_is_that_of_the_scalar_implementation(seed, offset):
    num_seqs, num_heads, rows, columns, threshold = 2, 3, 37, 70, 140
    found = keep_mask(state(seed, offset), num_seqs, num_heads, rows, columns, threshold)
    assert found.shape == (num_seqs, num_heads, rows, columns)
    places = torch.cartesian_prod(*map(torch.arange, found.shape))
    for one in places[::41].tolist():
        sequence, head, row, column = one
        drawn = byte_of(sequence * num_heads + head, row, column, seed, offset)
        assert bool(found[sequence, head, row, column]) == (drawn <= threshold), one


def test_a_mask_is_a_part_of_the_mask_of_longer_sequences():
    whole = keep_mask(state(), 1, 4, 200, 300, 127)
    assert torch.equal(keep_mask(state(), 1, 4, 65, 99, 127), whole[:, :, :65, :99])
    assert torch.equal(keep_mask(state(), 1, 2, 200, 300, 127), whole[:, :2])


def test_seed_and_offset_change_everything():
    one = keep_mask(state(), 1, 2, 64, 64, 127)
    for other in (state(seed=SEED + 1), state(offset=OFFSET + 2 * 32)):
        share = float((keep_mask(other, 1, 2, 64, 64, 127) == one).float().mean())
        assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(one.numel())


@pytest.mark.parametrize("p", [0.0, 0.1, 0.17, 0.5, 0.9, 0.999])
def test_the_rate_of_what_is_kept_is_within_four_sigma(p):
    threshold = math.floor(255 * (1 - p))
    found = keep_mask(state(), 2, 4, 512, 512, threshold)
    rate, count = (threshold + 1) / 256, found.numel()
    sigma = math.sqrt(rate * (1 - rate) / count)
    assert abs(float(found.double().mean()) - rate) <= 4 * sigma
    for dim in range(4):  # nor does any row, column, head or sequence differ
        others = [axis for axis in range(4) if axis != dim]
        means = found.double().mean(others)
        spread = math.sqrt(rate * (1 - rate) * means.numel() / count)
        assert float((means - rate).abs().max()) <= 5 * spread + 1e-12


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.double().flatten() - one.double().mean(), other.double().flatten() - other.double().mean()
    return float((one * other).mean() / (one.std() * other.std()))


@pytest.mark.parametrize(
    ("what", "shift"),
    [
        ("heads", (0, 1, 0, 0)),
        ("sequences", (1, 0, 0, 0)),
        ("rows", (0, 0, 1, 0)),
        ("rows of a fragment", (0, 0, 8, 0)),
        ("tiles of rows", (0, 0, 16, 0)),
        ("large tiles of rows", (0, 0, 128, 0)),
        ("columns", (0, 0, 0, 1)),
        ("fragments", (0, 0, 0, 8)),
        ("tiles of columns", (0, 0, 0, 32)),
        ("large tiles of columns", (0, 0, 0, 128)),
        ("tiles along the diagonal", (0, 0, 16, 32)),
        ("heads and tiles", (0, 1, 16, 0)),
    ],
)
def test_what_is_kept_in_one_place_says_nothing_of_another(what, shift):
    found = keep_mask(state(), 2, 4, 256, 256, 127)
    here = tuple(slice(0, size - step) for size, step in zip(found.shape, shift, strict=True))
    there = tuple(slice(step, size) for size, step in zip(found.shape, shift, strict=True))
    one, other = found[here], found[there]
    assert abs(correlation(one, other)) < 4 / math.sqrt(one.numel()), what


def test_the_bits_of_a_byte_are_even():
    """Thresholds at powers of two see every bit of the bytes."""
    for threshold in (0, 1, 3, 7, 15, 31, 63, 127, 254):
        rate = (threshold + 1) / 256
        found = keep_mask(state(), 1, 4, 256, 256, threshold).double()
        assert abs(float(found.mean()) - rate) <= 4 * math.sqrt(rate * (1 - rate) / found.numel())
    assert keep_mask(state(), 1, 1, 64, 64, 255).all()
