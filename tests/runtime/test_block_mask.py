"""Block masks: what they keep of a dense mask, the lists they hold, and what is refused."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch

from kernelwright.runtime.block_mask import BlockMask
from kernelwright.runtime.errors import InputTypeError, UnsupportedInputError


def random_mask(*shape: int, share: float = 0.3) -> torch.Tensor:
    """Blocks of 16 x 32 that are empty, whole or mixed."""
    generator = torch.Generator().manual_seed(sum(shape))
    rows, columns = -(-shape[-2] // 16), -(-shape[-1] // 32)
    kind = torch.randint(0, 3, (*shape[:-2], rows, columns), generator=generator)
    spread = kind.repeat_interleave(16, -2).repeat_interleave(32, -1)[..., : shape[-2], : shape[-1]]
    return (spread == 2) | ((spread == 1) & (torch.rand(spread.shape, generator=generator) < share))


SHAPES = [(64, 128), (1, 1), (17, 33), (15, 31), (100, 70), (3, 50, 90), (2, 3, 40, 65), (2, 1, 48, 200)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block", [(16, 32), (32, 64), (128, 128)])
def test_a_dense_mask_comes_back(shape, block):
    mask = random_mask(*shape)
    made = BlockMask.from_dense(mask, *block)
    assert torch.equal(made.to_dense(), mask.reshape((1,) * (4 - mask.dim()) + mask.shape))
    assert made.lists.dtype == made.counts.dtype == made.bits.dtype == torch.int32
    assert (made.seqlen_q, made.seqlen_k) == shape[-2:]


@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(40, 70), (33, 33), (1, 200)])
def test_a_function_gives_the_mask_of_its_values(seqlen_q, seqlen_k):
    def near(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query - key).abs() <= 5 + 3 * head + batch

    sizes = {"batch": 2, "num_heads": 3, "seqlen_q": seqlen_q, "seqlen_k": seqlen_k}
    made = BlockMask.from_function(near, **sizes, block_q=16, block_k=32)
    axes = torch.meshgrid(*[torch.arange(size) for size in sizes.values()], indexing="ij")
    dense = near(*axes)
    assert torch.equal(made.to_dense(), dense)
    same = BlockMask.from_dense(dense, 16, 32)
    assert torch.equal(made.counts, same.counts) and torch.equal(made.bits, same.bits)
    for one in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(made.counts.shape[2])):
        place = tuple(int(index) for index in one)
        count = int(made.counts[place])
        assert torch.equal(made.lists[place][:count], same.lists[place][:count])


def test_a_function_may_ignore_batch_and_head():
    made = BlockMask.from_function(lambda b, h, q, k: q >= k, seqlen_q=50, seqlen_k=50, block_q=16, block_k=32)
    assert torch.equal(made.to_dense()[0, 0], torch.ones(50, 50).tril().bool())


def test_whole_blocks_need_no_bits_and_empty_ones_are_not_listed():
    mask = torch.zeros(64, 128, dtype=torch.bool)
    mask[:32, 64:] = True  # whole
    mask[40, 3] = True  # one key of another
    made = BlockMask.from_dense(mask, 32, 64)
    assert made.counts.tolist() == [[[1, 1]]]
    assert made.lists[0, 0, 0, 0].tolist() == [1, -1] and made.lists[0, 0, 1, 0].tolist() == [0, 0]
    assert made.bits.shape == (1, 32, 2) and int(made.bits.count_nonzero()) == 1 and int(made.bits[0, 8, 0]) == 1 << 3
    assert made.density == 0.5


def test_a_block_that_ends_with_the_sequence_is_whole_where_all_of_it_is_seen():
    made = BlockMask.from_dense(torch.ones(20, 40, dtype=torch.bool), 16, 32)
    assert (made.lists[..., 1] == -1).all() and made.counts.tolist() == [[[2, 2]]]


def test_listed_blocks_ascend():
    made = BlockMask.from_dense(random_mask(2, 3, 64, 512), 16, 32)
    for counts, lists in zip(made.counts.flatten(), made.lists.flatten(0, 2), strict=True):
        listed = lists[: int(counts), 0].tolist()
        assert listed == sorted(set(listed))


def test_the_highest_bit_of_a_word_is_a_key_too():
    mask = torch.zeros(16, 32, dtype=torch.bool)
    mask[0, 31] = True
    made = BlockMask.from_dense(mask, 16, 32)
    assert int(made.bits[0, 0, 0]) == -(2**31) and torch.equal(made.to_dense()[0, 0], mask)


def test_a_mask_without_a_key_has_no_blocks():
    made = BlockMask.from_dense(torch.zeros(20, 40, dtype=torch.bool), 16, 32)
    assert made.counts.sum() == 0 and made.density == 0 and not made.to_dense().any()


def test_a_mask_moves_to_a_device_with_all_it_has():
    made = BlockMask.from_dense(random_mask(20, 40), 16, 32).to("meta")
    assert {one.device.type for one in (made.counts, made.lists, made.bits)} == {"meta"}
    assert (made.block_q, made.block_k, made.seqlen_q, made.seqlen_k) == (16, 32, 20, 40)


@pytest.mark.parametrize(
    ("mask", "block", "kind", "fault"),
    [
        ([[True]], (16, 32), InputTypeError, "a dense mask must be a bool tensor, got list"),
        (
            torch.ones(4, 4),
            (16, 32),
            InputTypeError,
            "must be a bool tensor, got torch.float32. Compare, as in mask != 0",
        ),
        (
            torch.ones(4, dtype=torch.bool),
            (16, 32),
            UnsupportedInputError,
            r"must be \[seqlen_q, seqlen_k\].*got \[4\]",
        ),
        (torch.ones(1, 1, 1, 4, 4, dtype=torch.bool), (16, 32), UnsupportedInputError, r"got \[1, 1, 1, 4, 4\]"),
        (torch.ones(0, 4, dtype=torch.bool), (16, 32), UnsupportedInputError, r"none of them 0; got \[0, 4\]"),
        (
            torch.ones(4, 4, dtype=torch.bool),
            (24, 32),
            UnsupportedInputError,
            "block_q must be a multiple of 16, got 24",
        ),
        (
            torch.ones(4, 4, dtype=torch.bool),
            (16, 48),
            UnsupportedInputError,
            "block_k must be a multiple of 32, got 48",
        ),
        (torch.ones(4, 4, dtype=torch.bool), (16, 0), UnsupportedInputError, "block_k must be a multiple of 32, got 0"),
        (
            torch.ones(4, 4, dtype=torch.bool),
            (16.0, 32),
            UnsupportedInputError,
            "block_q must be a multiple of 16, got 16.0",
        ),
    ],
)
def test_a_mask_that_cannot_be_made_is_refused_in_words(mask, block, kind, fault):
    with pytest.raises(kind, match=fault):
        BlockMask.from_dense(mask, *block)


@pytest.mark.parametrize(
    ("function", "sizes", "kind", "fault"),
    [
        (lambda b, h, q, k: q - k, {}, InputTypeError, "a mask function must return a bool tensor"),
        (lambda b, h, q, k: True, {}, InputTypeError, "a mask function must return a bool tensor"),
        (lambda b, h, q, k: q >= k, {"seqlen_q": 0}, UnsupportedInputError, "seqlen_q of a mask must be a positive"),
        (
            lambda b, h, q, k: q >= k,
            {"num_heads": 1.5},
            UnsupportedInputError,
            "num_heads of a mask must be a positive",
        ),
        (lambda b, h, q, k: q >= k, {"block_k": 40}, UnsupportedInputError, "block_k must be a multiple of 32"),
    ],
)
def test_a_function_that_makes_no_mask_is_refused_in_words(function, sizes, kind, fault):
    with pytest.raises(kind, match=fault):
        BlockMask.from_function(function, **{"seqlen_q": 8, "seqlen_k": 8, **sizes})


def from_lists(mask: BlockMask) -> torch.Tensor:
    """The dense mask that the lists by keys say, entry by entry."""
    lists = mask.by_keys()
    batch, heads, k_blocks, q_blocks, _ = lists.lists.shape
    dense = torch.zeros(batch, heads, q_blocks * mask.block_q, k_blocks * mask.block_k, dtype=torch.bool)
    for b, h, k in itertools.product(range(batch), range(heads), range(k_blocks)):
        found = lists.lists[b, h, k, : lists.counts[b, h, k]].tolist()
        assert [block for block, _ in found] == sorted({block for block, _ in found})  # ascending
        for block, number in found:
            rows = slice(block * mask.block_q, (block + 1) * mask.block_q)
            words = torch.full((mask.block_q, mask.block_k // 32), -1) if number < 0 else mask.bits[number]
            bits = (words[..., None] >> torch.arange(32)) & 1
            dense[b, h, rows, k * mask.block_k : (k + 1) * mask.block_k] = bits.reshape(mask.block_q, -1).bool()
    return dense[:, :, : mask.seqlen_q, : mask.seqlen_k]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block", [(16, 32), (32, 64), (128, 128)])
def test_the_lists_by_keys_say_the_same_mask_with_the_same_bits(shape, block):
    made = BlockMask.from_dense(random_mask(*shape), *block)
    lists = made.by_keys()
    assert torch.equal(from_lists(made), made.to_dense())
    assert lists.counts.sum() == made.counts.sum()
    assert lists.lists.dtype == lists.counts.dtype == torch.int32 and lists.lists.is_contiguous()
    in_use = torch.arange(made.lists.shape[3]) < made.counts[..., None]
    turned = torch.arange(lists.lists.shape[3]) < lists.counts[..., None]
    assert sorted(made.lists[in_use][:, 1].tolist()) == sorted(lists.lists[turned][:, 1].tolist())


def test_what_lies_behind_a_list_does_not_reach_the_lists_by_keys():
    made = BlockMask.from_dense(random_mask(2, 3, 100, 200), 16, 32)
    in_use = torch.arange(made.lists.shape[3]) < made.counts[..., None]
    made.lists[~in_use] = 2**30
    assert torch.equal(from_lists(made), BlockMask.from_dense(random_mask(2, 3, 100, 200), 16, 32).to_dense())


def test_the_lists_by_keys_are_made_once_and_anew_on_another_device():
    made = BlockMask.from_dense(random_mask(64, 128), 16, 32)
    assert made.by_keys() is made.by_keys()
    assert made.to("cpu").by_keys() is not made.by_keys()
    again = pickle.loads(pickle.dumps(made))
    assert torch.equal(again.by_keys().lists, made.by_keys().lists)
