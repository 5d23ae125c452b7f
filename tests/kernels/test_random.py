"""More than 500 random problems over every head dimension, on the emulator with its checks, against float64."""

from __future__ import annotations

import importlib

import pytest

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]

PER_KERNEL = 8


def test_random_problems_pass_over_every_head_dim(every_head_dim):
    check = importlib.import_module(f"{every_head_dim.__name__}._runtime.check")
    result = check.check_module(every_head_dim, PER_KERNEL, device="cpu", seed=20, only_random=True)
    assert result.passed, str(result)
    problems = [one.problem for variant in result.variants for one in variant.results]
    print(str(result).splitlines()[-2])
    assert len(problems) == 64 * PER_KERNEL > 500
    assert {one.head_dim for one in problems} == set(range(8, 257, 8))
    assert {one.group for one in problems} == set(range(1, 9))
    assert {one.layout for one in problems} == {"plain", "heads_first", "padded_heads", "expanded"}
    for share in (
        sum(one.seqlen_q % 2 for one in problems),
        sum(one.seqlen_k % 2 for one in problems),
        sum(one.seqlen_q > one.seqlen_k for one in problems),
    ):
        assert share >= len(problems) // 5
