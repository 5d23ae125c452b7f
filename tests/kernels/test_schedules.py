"""A schedule changes speed, never the result beyond rounding: one problem under many schedules, all checks on."""

from __future__ import annotations

import importlib

import pytest
import torch

from direct_launch import launch
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]

# (block_m, block_n, num_warps, num_stages, q_in_regs): every field at its ends, tiles that are no powers of two.
SCHEDULES = [
    (16, 16, 1, 1, False),
    (16, 32, 1, 3, True),
    (32, 16, 2, 4, False),
    (64, 48, 2, 2, True),
    (64, 64, 4, 1, True),
    (64, 112, 4, 2, False),
    (128, 32, 8, 3, False),
    (128, 80, 8, 1, False),
    (192, 64, 4, 2, False),
    (256, 64, 8, 2, True),
]


def variants(head_dim: int, *, is_causal: bool) -> list[Variant]:
    problem = ForwardProblem(dtype="fp16", head_dim=head_dim, is_causal=is_causal)
    names = ("block_m", "block_n", "num_warps", "num_stages", "q_in_regs")
    return [
        Variant(sm=80, problem=problem, schedule=ForwardSchedule(**dict(zip(names, values, strict=True))))
        for values in SCHEDULES
    ]


@pytest.mark.parametrize(("head_dim", "is_causal"), [(64, True), (40, True), (80, False)])
def test_every_schedule_gives_the_right_result(every_head_dim, build, table_of, head_dim, is_causal):
    check = importlib.import_module(f"{every_head_dim.__name__}._runtime.check")
    chosen = variants(head_dim, is_causal=is_causal)
    every_head_dim.load_table(table_of(f"schedules_{head_dim}", build(chosen)))
    try:
        result = check.check_module(every_head_dim, 12, device="cpu", variants=[one.name for one in chosen])
    finally:
        every_head_dim.load_table(None)
    assert result.passed, str(result)
    assert not any(one.skipped for one in result.variants)


@pytest.mark.parametrize("values", SCHEDULES[2:6], ids=str)
def test_the_order_of_warps_changes_nothing(build, values):
    variant = next(one for one in variants(40, is_causal=True) if one.name.endswith(tail(values)))
    ptx = build([variant])[0].ptx.decode()
    q, k, v = (torch.randn(1, 200, 2, 40).to(torch.float16) for _ in range(3))
    expected, expected_lse, _ = launch(ptx, variant, q, k, v)
    for seed in range(1, 21):
        out, lse, _ = launch(ptx, variant, q, k, v, seed=seed)
        assert torch.equal(out, expected) and torch.equal(lse, expected_lse), f"seed {seed}"


def tail(values: tuple[int, int, int, int, bool]) -> str:
    block_m, block_n, num_warps, num_stages, q_in_regs = values
    return f"_m{block_m}_n{block_n}_w{num_warps}_s{num_stages}_qreg{int(q_in_regs)}"
