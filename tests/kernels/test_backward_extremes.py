"""The backward kernels on large values, and on NaN where they must not look."""

from __future__ import annotations

import pytest
import torch

from gradients import faults, inputs_of, make_case, run, scalars_of, scaled_case
from kernelwright.emulator.launch import load
from kernelwright.gen.commands import emulated
from kernelwright.gen.spec import BackwardSchedule, ForwardProblem, QueryGradientSchedule, Variant
from kernelwright.runtime.gate import UNIT_ROUNDOFF
from kernelwright.runtime.gradient_check import Case
from kernelwright.runtime.problems import Problem

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]

SIZES = {"seqlen_q": 75, "seqlen_k": 107, "group": 2}
# As FlashAttention-2's test of overflow, where keys behind the last one once gave NaN; scores in the thousands; and one
# factor of each product as large as its format has it, the other as small as that asks for.
LARGEST: dict[str, dict[str, float]] = {
    "five times as large": {"q": 20.0, "k": 20.0, "v": 20.0, "dout": 20.0},
    "scores in the thousands": {"q": 400.0, "k": 400.0},
    "q at the limit": {"q": 6e4, "k": 0.5},
    "k at the limit": {"q": 0.5, "k": 6e4},
    "v at the limit": {"v": 6e4, "dout": 0.1},
    "dout at the limit": {"v": 0.1, "dout": 6e4},
}


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def kernels(request, build):
    problem = ForwardProblem(dtype=request.param, head_dim=40, is_causal=True)
    along = {"warps_scores": 2, "warps_kv": 2, "warps_q": 2}
    schedules = (
        BackwardSchedule(block_m=32, block_n=32, num_warps=4, num_stages=2, **along),
        BackwardSchedule(block_m=32, block_n=64, num_warps=4, num_stages=1, v_in_regs=True, **along),
        QueryGradientSchedule(block_m=32, block_n=32, num_warps=2, num_stages=1),
    )
    return build([Variant(sm=80, problem=problem, schedule=one) for one in schedules])


def problem_of(variant: Variant, **changes: object) -> Problem:
    problem = variant.problem
    return Problem(**{"dtype": problem.dtype, "head_dim": problem.head_dim, "is_causal": True, **SIZES, **changes})


def largest_score(case: Case) -> float:
    return float(case.reference.lse.abs().nan_to_num(posinf=0.0, neginf=0.0).max())


@pytest.mark.parametrize("name", LARGEST)
def test_gradients_of_large_values_are_finite_and_near(kernels, name):
    """A score of size s, and its lse, are rounded to float32, which moves a probability by some 2^-22 s of itself."""
    for kernel in kernels:
        case = scaled_case(problem_of(kernel.variant), LARGEST[name])
        outputs = run(load(kernel.ptx.decode()), kernel.variant, case).outputs
        relative = 4 * (UNIT_ROUNDOFF[case.request.q.dtype] + 2.0**-22 * largest_score(case))
        assert relative < 0.2
        for gradient, found in outputs.items():
            allowed = relative * case.reference.magnitudes[gradient].amax(-1) + 1e-5
            error = (found.double() - case.reference.values[gradient]).abs().amax(-1)
            assert found.isfinite().all(), gradient
            assert (error <= allowed).all(), f"{gradient}: {(error / allowed).max():.3g} times"


def test_a_nan_in_a_query_stays_in_its_row_and_in_the_keys_it_sees(kernels):
    """Causal: the rows before and the keys behind do not see it."""
    for kernel in kernels:
        case = make_case(problem_of(kernel.variant, seqlen_q=75, seqlen_k=75))
        row = 40
        case.request.q[:, row] = torch.nan
        inputs = inputs_of(case, kernel.variant)
        inputs["lse"][..., row] = torch.nan
        if kernel.variant.operation == "flash_bwd":
            inputs["dq_sum"] = torch.zeros(case.request.q.shape)
        module = load(kernel.ptx.decode())
        done = emulated.launch(module, emulated.Kernel.of(kernel.variant), inputs, scalars_of(case, kernel.variant))
        found = {**done.outputs, **({"dq": inputs["dq_sum"]} if "dq_sum" in inputs else {})}
        others = [index for index in range(75) if index != row]
        assert found["dq"][:, row].isnan().any() and found["dq"][:, others].isfinite().all()
        if "dk" in found:
            assert found["dk"][:, : row + 1].isnan().any() and found["dk"][:, 64:].isfinite().all()


@pytest.mark.parametrize("group", [1, 2, 4])
def test_dk_and_dv_repeat_bit_by_bit_beside_sums_of_dq_that_do_not_and_dq_by_itself_does(kernels, group):
    for kernel in kernels:
        case = make_case(problem_of(kernel.variant, group=group))
        module = load(kernel.ptx.decode())
        found = [run(module, kernel.variant, case, seed=seed).outputs for seed in range(3)]
        repeated = ("dq",) if kernel.variant.operation == "flash_bwd_dq" else ("dk", "dv")
        assert all(torch.equal(found[0][name], one[name]) for one in found for name in repeated)
        assert faults(found[0], case) == []


def test_rows_that_see_no_key_have_no_gradient_and_give_none(kernels):
    """More queries than keys: the first rows, and a sequence of keys that is shorter than a tile."""
    for kernel in kernels:
        case = make_case(problem_of(kernel.variant, seqlen_q=90, seqlen_k=20))
        outputs = run(load(kernel.ptx.decode()), kernel.variant, case).outputs
        assert faults(outputs, case) == []
        assert outputs["dq"][:, :70].abs().sum() == 0
