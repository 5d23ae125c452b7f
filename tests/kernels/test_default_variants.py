"""Every default kernel: each mutant is noticed, and any order of warps is clean.

Slow for its compiling: 384 kernels. The PTX of sm86 and sm89 is that of sm80 but for the target, so it is run once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import pytest

from kernelwright.gen.commands.emulated import Kernel
from kernelwright.gen.commands.stress import Shipped, check_mutants, check_seeds, ring_cases, telling_cases
from kernelwright.gen.ladder import ladder
from kernelwright.gen.plan import make_plan
from kernelwright.gen.profile import load_profile
from kernelwright.gen.redundant_syncs import redundant_syncs
from kernelwright.gen.spec import Dtype, ForwardProblem, Variant

pytestmark = [pytest.mark.nvcc, pytest.mark.slow]
RUNTIME = "kernelwright.runtime"
SMS = [80, 86, 89]
NUM_ORDERS = 200
# Head dimensions of each class of gen/ladder.py, multiples of 16 and not, with masks, dtypes and architectures mixed.
SAMPLE: list[tuple[int, Dtype, bool, int]] = [
    (8, "fp16", False, 80),
    (40, "bf16", True, 86),
    (64, "fp16", True, 89),
    (64, "bf16", False, 80),
    (72, "bf16", False, 89),
    (96, "fp16", True, 80),
    (104, "fp16", False, 86),
    (128, "bf16", True, 80),
    (136, "bf16", True, 89),
    (192, "fp16", False, 86),
    (200, "fp16", True, 80),
    (256, "bf16", False, 89),
]
BY_PROBLEM = pytest.mark.parametrize(("dtype", "is_causal"), [(d, c) for d in ("fp16", "bf16") for c in (False, True)])


@pytest.fixture(scope="module")
def defaults(build) -> Mapping[str, Shipped]:
    """All default kernels by name."""
    plan = make_plan(load_profile("all_head_dims"), SMS)
    built = build([one.variant for one in plan.kernels])
    return {one.variant.name: shipped(one.variant, one.ptx) for one in built}


def shipped(variant: Variant, ptx: bytes) -> Shipped:
    return Shipped(name=variant.name, ptx=ptx.decode(), kernel=Kernel.of(variant), variant=variant)


def text_without_target(one: Shipped) -> str:
    text = re.sub(r"(?m)^(//.*|\.target sm_\d+)$", "", one.ptx)
    return text.replace(one.name, "the_kernel")


def test_there_are_384_and_architectures_differ_in_the_target_alone(defaults):
    texts = {name: text_without_target(one) for name, one in defaults.items()}
    assert Counter(one.variant.sm for one in defaults.values()) == dict.fromkeys(SMS, 128)
    for name, text in texts.items():
        assert text == texts[re.sub(r"_sm\d+_", "_sm80_", name)], name


@BY_PROBLEM
def test_every_mutant_of_every_default_kernel_is_caught_or_listed(defaults, dtype, is_causal):
    """Of sm80: the other architectures' PTX is the same text."""
    results = {
        one.name: check_mutants(one, telling_cases(RUNTIME, one.variant, 0))
        for one in defaults.values()
        if one.variant.sm == 80 and (one.variant.problem.dtype, one.variant.problem.is_causal) == (dtype, is_causal)
    }
    assert len(results) == 32
    assert [str(one) for one in results.values() if not one.passed] == []
    for name, result in results.items():
        verdicts = Counter(one.verdict for one in result.mutants)
        assert verdicts["redundant"] == len(redundant_syncs(defaults[name].variant)), str(result)
        assert verdicts["caught"] >= 10, str(result)


@pytest.mark.parametrize(("head_dim", "dtype", "is_causal", "sm"), SAMPLE)
def test_rings_of_any_length_are_clean_and_bitwise_equal_under_200_orders(defaults, head_dim, dtype, is_causal, sm):
    problem = ForwardProblem(dtype=dtype, head_dim=head_dim, is_causal=is_causal)
    one = defaults[ladder(sm, problem)[-1].variant.name]
    result = check_seeds(one, ring_cases(RUNTIME, one.variant, 0), NUM_ORDERS)
    assert result.passed, str(result)
    assert result.launches >= 3 * NUM_ORDERS


def test_the_sample_has_every_class_mask_dtype_and_architecture():
    schedules = {ladder(80, ForwardProblem(dtype="fp16", head_dim=n, is_causal=True))[-1].variant.schedule
                 for n in range(8, 257, 8)}  # fmt: skip
    sampled = [ladder(sm, ForwardProblem(dtype=d, head_dim=n, is_causal=c))[-1].variant for n, d, c, sm in SAMPLE]
    assert {one.schedule for one in sampled} == schedules
    assert {(one.problem.dtype, one.problem.is_causal) for one in sampled} == {
        (d, c) for d in ("fp16", "bf16") for c in (False, True)
    }
    assert {one.sm for one in sampled} == set(SMS)
