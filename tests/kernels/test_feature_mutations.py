"""Breaking kernels of every feature: each synchronisation taken out or weakened is noticed or listed."""

from __future__ import annotations

from collections import Counter

import pytest

from feature_variants import covering_variants
from kernelwright.gen.commands.emulated import Kernel
from kernelwright.gen.commands.stress import Shipped, check_mutants, check_seeds, telling_cases
from kernelwright.gen.redundant_syncs import redundant_syncs
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

pytestmark = pytest.mark.nvcc
RUNTIME = "kernelwright.runtime"
SEEDS = (1, 2, 3)


def variant(
    stages: int, *, q_in_regs: bool = False, warps: int = 2, pack: bool = False, persistent: int = 0, **problem
):
    return Variant(
        sm=80,
        problem=ForwardProblem(**{"dtype": "fp16", "head_dim": 64, **problem}),
        schedule=ForwardSchedule(
            block_m=32 * warps, block_n=32, num_warps=warps, num_stages=stages, q_in_regs=q_in_regs,
            pack_gqa=pack, persistent_blocks=persistent,
        ),
    )  # fmt: skip


# The barriers that features add or change: before O where its rows are no longer Q's, and before the next tile.
KERNELS = {
    "wider values": variant(2, head_dim_v=96, is_local=True),
    "wider values, one stage": variant(1, head_dim_v=80, is_causal=True),
    "much wider values, one stage": variant(1, head_dim_v=256, warps=1, is_causal=True),
    "narrower values, one warp": variant(2, head_dim_v=40, warps=1),
    "persistent": variant(2, persistent=2, is_causal=True, is_varlen=True),
    "persistent, q in registers": variant(3, q_in_regs=True, persistent=1, pack=True, is_varlen=True),
    "persistent, each thread over its own": variant(
        1, q_in_regs=True, warps=1, persistent=1, head_dim=8, head_dim_v=40, is_causal=True
    ),
    "sparse": variant(3, is_block_sparse=True, has_dropout=True),
}


def shipped(one: Variant, ptx: bytes) -> Shipped:
    return Shipped(name=one.name, ptx=ptx.decode(), kernel=Kernel.of(one), variant=one)


def judged(one: Shipped):
    """The mutants of a kernel, each caught or listed, and whatever is listed passing."""
    result = check_mutants(one, telling_cases(RUNTIME, one.variant, 0))
    assert result.passed, str(result)
    passing = [mutant.how for mutant in result.mutants if mutant.verdict == "redundant"]
    assert sorted(passing) == sorted(entry.reason for entry in redundant_syncs(one.variant)), str(result)
    return Counter(mutant.verdict for mutant in result.mutants)


@pytest.mark.parametrize("name", KERNELS)
def test_barriers_that_features_add_are_needed_or_listed(build, name):
    (kernel,) = build([KERNELS[name]])
    assert judged(shipped(KERNELS[name], kernel.ptx))["caught"] >= 8


def test_a_persistent_kernel_takes_tile_after_tile_in_any_order_of_warps(build):
    one = KERNELS["persistent"]
    (kernel,) = build([one])
    cases = telling_cases(RUNTIME, one, 0)
    result = check_seeds(shipped(one, kernel.ptx), cases, 8)
    assert result.passed, str(result)
    assert result.launches == 8 * len(cases)


def covering(seed: int) -> list[Variant]:
    return [one for one, _ in covering_variants(seed)]


def test_the_variants_broken_are_at_least_forty():
    assert len({one.name for seed in SEEDS for one in covering(seed)}) >= 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_every_mutant_of_variants_with_every_pair_of_features_is_caught_or_listed(build, seed):
    counts: Counter[str] = Counter()
    kernels = build(covering(seed))
    for one in kernels:
        counts += judged(shipped(one.variant, one.ptx))
    print(f"{len(kernels)} feature variants: {dict(counts)}")
    assert counts["caught"] >= 10 * len(kernels)
