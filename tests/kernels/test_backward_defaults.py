"""The default backward kernels compile without a spill."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kernelwright.gen.ladder import ladder
from kernelwright.gen.spec import FEATURES, ForwardProblem, Variant

pytestmark = pytest.mark.nvcc

EVERY_FEATURE = dict.fromkeys((flag for flag in FEATURES.values() if flag != "is_causal"), True)
KINDS: dict[str, dict[str, bool]] = {
    "full": {},
    "causal": {"is_causal": True},
    "local": {"is_local": True},
    "every feature": EVERY_FEATURE,
    # What does not yet count as much: one feature of the scores, on windows of sequences with a block mask.
    **{
        f"local, sequences, block mask, {flag.removeprefix('has_')}": {
            **{"is_local": True, "is_varlen": True, "is_block_sparse": True},
            flag: True,
        }
        for flag in ("has_softcap", "has_alibi", "has_dropout")
    },
}


def defaults(sm: int, dtype: str, head_dims: Iterable[int], kind: str) -> list[Variant]:
    problems = [
        ForwardProblem(dtype="bf16" if dtype == "bf16" else "fp16", head_dim=head_dim, **KINDS[kind])
        for head_dim in head_dims
    ]
    found = [ladder(sm, one, name)[-1].variant for one in problems for name in ("flash_bwd", "flash_bwd_dq")]
    return list(dict.fromkeys(found))


def faults_of(kernels: Iterable) -> dict[str, object]:
    return {one.variant.name: one.gate_failures for one in kernels if one.gate_failures}


@pytest.mark.parametrize("kind", ["causal", "every feature"])
def test_no_default_kernel_of_the_largest_tiles_spills(build, kind):
    assert faults_of(build([*defaults(86, "bf16", [128, 256], kind), *defaults(80, "bf16", [128], kind)])) == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("sm", [80, 86, 89])
def test_no_default_kernel_of_any_head_dim_spills(build, sm, dtype, kind):
    assert faults_of(build(defaults(sm, dtype, range(8, 257, 8), kind))) == {}
