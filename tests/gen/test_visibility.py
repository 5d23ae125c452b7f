"""Which keys a query sees: the expressions against dense masks by a formula of their own, and what kernels rely on."""

from __future__ import annotations

import itertools

import pytest

from kernelwright.gen.spec import ForwardProblem
from kernelwright.gen.visibility import CAUSAL, FULL, LOCAL, Visibility, visibilities, visibility
from kernelwright.runtime.expressions import parse_expression

SIZES = list(itertools.product(range(1, 8), range(8)))
SIDES = (-1, 0, 1, 2, 4, 8)
FAR = 1000  # a side of a window without a limit, as the run time gives it: more than the sequences


def bounds(one: Visibility, seqlen_q: int, seqlen_k: int, **arguments: int) -> list[tuple[int, int]]:
    first, end = parse_expression(one.first_key), parse_expression(one.end_key)
    numbers = {"seqlen_k": seqlen_k, "shift": seqlen_k - seqlen_q, **arguments}
    return [
        (first.value({**numbers, "query": query}), end.value({**numbers, "query": query})) for query in range(seqlen_q)
    ]


def seen(found: list[tuple[int, int]], seqlen_k: int) -> list[list[bool]]:
    return [[first <= key < end for key in range(seqlen_k)] for first, end in found]


def is_seen(query: int, key: int, seqlen_q: int, seqlen_k: int, left: int, right: int, chunk: int) -> bool:
    """By positions counted from the end, where the last query meets the last key; -1 is no limit."""
    back = (seqlen_q - 1 - query) - (seqlen_k - 1 - key)  # how many positions the key is ahead of the query
    position = seqlen_k - 1 - (seqlen_q - 1 - query)
    if (left >= 0 and -back > left) or (right >= 0 and back > right):
        return False
    return chunk == 0 or (key // chunk == position // chunk if position >= 0 else False)


@pytest.mark.parametrize("seqlens", SIZES, ids=str)
def test_full_and_causal_are_the_dense_masks(seqlens):
    seqlen_q, seqlen_k = seqlens
    for kind, right in ((FULL, -1), (CAUSAL, 0)):
        expected = [
            [is_seen(query, key, seqlen_q, seqlen_k, -1, right, 0) for key in range(seqlen_k)]
            for query in range(seqlen_q)
        ]
        assert seen(bounds(kind, seqlen_q, seqlen_k), seqlen_k) == expected


@pytest.mark.parametrize("seqlens", SIZES, ids=str)
def test_local_is_the_dense_mask_of_every_window_and_chunk(seqlens):
    seqlen_q, seqlen_k = seqlens
    for left, right, chunk in itertools.product(SIDES, SIDES, (0, 1, 2, 3, 5, 20)):
        expected = [
            [is_seen(query, key, seqlen_q, seqlen_k, left, right, chunk) for key in range(seqlen_k)]
            for query in range(seqlen_q)
        ]
        arguments = {"window_left": FAR if left < 0 else left, "window_right": FAR if right < 0 else right}
        found = bounds(LOCAL, seqlen_q, seqlen_k, **arguments, attention_chunk=chunk)
        assert seen(found, seqlen_k) == expected, (left, right, chunk)


@pytest.mark.parametrize("kind", [FULL, CAUSAL, LOCAL])
def test_no_bound_falls_as_the_query_grows(kind):
    """Tiles are chosen by the bounds of their first and last row alone."""
    for (seqlen_q, seqlen_k), left, right, chunk in itertools.product(SIZES, (0, 2, FAR), (0, 2, FAR), (0, 1, 3)):
        arguments = {"window_left": left, "window_right": right, "attention_chunk": chunk}
        found = bounds(kind, seqlen_q, seqlen_k, **arguments)
        for (first, end), (next_first, next_end) in itertools.pairwise(found):
            assert first <= next_first and end <= next_end
        assert all(first >= 0 and end <= seqlen_k for first, end in found)


def test_a_local_kernel_computes_causal_and_full_attention():
    for seqlen_q, seqlen_k in SIZES:
        wide = {"window_left": FAR, "attention_chunk": 0}
        for kind, right in ((FULL, FAR), (CAUSAL, 0)):
            found = bounds(LOCAL, seqlen_q, seqlen_k, **wide, window_right=right)
            assert seen(found, seqlen_k) == seen(bounds(kind, seqlen_q, seqlen_k), seqlen_k)


def test_the_kind_is_chosen_by_the_flags_of_the_problem():
    plain = ForwardProblem(dtype="bf16", head_dim=64)
    assert visibility(plain) is FULL
    assert visibility(ForwardProblem(dtype="bf16", head_dim=64, is_causal=True)) is CAUSAL
    assert visibility(ForwardProblem(dtype="bf16", head_dim=64, is_local=True)) is LOCAL
    assert list(visibilities()) == ["", "is_causal", "is_local"]
    assert visibilities()["is_causal"] == {"first_key": CAUSAL.first_key, "end_key": CAUSAL.end_key}
