"""The gate and the checker: right results pass, each way of being wrong is found and named."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import fake_kernel
import pytest
import torch
from fake_driver import StandIn
from fake_kernel import VISIBILITY, attended
from fake_module import FEATURES

from kernelwright.runtime.check import check_module
from kernelwright.runtime.gate import judge
from kernelwright.runtime.options import Options
from kernelwright.runtime.problems import Problem, guarded, make_inputs, problems_for
from kernelwright.runtime.reference import pt, reference

CPU = torch.device("cpu")
PROBLEM = {"dtype": "fp16", "head_dim": 64, "head_dim_v": 64, "is_causal": True, **dict.fromkeys(FEATURES, False)}
SCHEDULE = {"block_m": 32, "block_n": 16, "num_stages": 2}


# ------------------------------------------------------------------ the reference


@pytest.mark.parametrize("causal", [False, True])
def test_the_reference_agrees_with_torch(causal, make_tensors):
    q, k, v = make_tensors(seqlen_q=9, seqlen_k=9)
    repeated = [q, k.repeat_interleave(2, dim=2), v.repeat_interleave(2, dim=2)]
    heads_first = [one.double().transpose(1, 2) for one in repeated]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=causal)
    found = reference(attended(q, k, v, causal=causal))
    torch.testing.assert_close(found.out, expected.transpose(1, 2), atol=1e-12, rtol=0)


def test_chunks_do_not_change_the_reference(make_tensors, monkeypatch):
    q, k, v = make_tensors(seqlen_q=23, seqlen_k=9)
    whole = reference(attended(q, k, v, softmax_scale=0.7, causal=True))
    rounded = pt(attended(q, k, v, softmax_scale=0.7, causal=True))
    monkeypatch.setattr("kernelwright.runtime.reference.MAX_SCORES", 100)
    parts = reference(attended(q, k, v, softmax_scale=0.7, causal=True))
    assert torch.allclose(parts.out, whole.out, atol=1e-14) and torch.equal(parts.lse.isinf(), whole.lse.isinf())
    assert torch.allclose(pt(attended(q, k, v, softmax_scale=0.7, causal=True)), rounded, atol=2e-3)


def test_values_of_one_give_one(make_tensors):
    q, k, v = make_tensors(seqlen_q=9, seqlen_k=5)
    found = reference(attended(q, k, torch.ones_like(v), causal=True))
    assert torch.allclose(found.out[:, 4:], torch.ones(1, dtype=torch.float64))
    assert (found.out[:, :4] == 0).all() and (found.magnitude[:, :4] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pt_is_near_the_reference_and_rounded(make_tensors, dtype):
    q, k, v = make_tensors(seqlen_q=40, seqlen_k=50, dtype=dtype)
    error = (pt(attended(q, k, v, causal=True)).double() - reference(attended(q, k, v, causal=True)).out).abs().max()
    assert 0 < error < 0.05


# ------------------------------------------------------------------ the gate


def right(dtype: torch.dtype = torch.float16, **sizes: int) -> tuple[Any, ...]:
    q = torch.randn(2, sizes.get("seqlen_q", 40), 4, 64, generator=torch.Generator().manual_seed(3)).to(dtype)
    k, v = torch.randn(2, 2, 64, 2, 64, generator=torch.Generator().manual_seed(4)).to(dtype)
    found = reference(attended(q, k, v, causal=True))
    return found.out.to(dtype), found.lse.float(), q, k, v


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_rounded_reference_passes(dtype):
    out, lse, q, k, v = right(dtype)
    verdict = judge(out, lse, attended(q, k, v, causal=True))
    assert verdict.passed and verdict.fault == "" and verdict.row_margin <= 1 and verdict.tensor_margin <= 1


def test_a_large_error_fails_and_names_the_row():
    out, lse, q, k, v = right()
    out[1, 17, 2, 5] += 0.25
    verdict = judge(out, lse, attended(q, k, v, causal=True))
    assert not verdict.passed and verdict.worst_row == (1, 17, 2)
    assert "largest error" in verdict.fault and "row batch 1, query 17, head 2" in verdict.fault


def test_an_error_that_the_tensor_hides_fails_by_row():
    """One head of small values among large ones: its error is below the others' rounding."""
    _, _, q, k, v = right()
    v = v.clone()
    v[:, :, 1] *= 2.0**-9
    found = reference(attended(q, k, v, causal=True))
    out, lse = found.out.half(), found.lse.float()
    out[0, 39, 3] *= 0.95
    verdict = judge(out, lse, attended(q, k, v, causal=True))
    assert verdict.tensor_margin <= 1 and verdict.row_margin > 1
    assert verdict.fault.startswith("row batch 0, query 39, head 3") and "1 of 320 rows fail" in verdict.fault


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_fails(value):
    out, lse, q, k, v = right()
    out[0, 0, 0, 0] = value
    assert "largest error inf" in judge(out, lse, attended(q, k, v, causal=True)).fault


@pytest.mark.parametrize("value", [3e-5, torch.nan, torch.inf, -torch.inf])
def test_lse_is_held_to_its_own_tolerance(value):
    out, lse, q, k, v = right()
    lse[0, 0, 0] += value
    assert "lse off by" in judge(out, lse, attended(q, k, v, causal=True)).fault


@pytest.mark.parametrize(("value", "passes"), [(5e-5, True), (2e-4, False)])
def test_an_lse_in_the_hundreds_may_be_off_by_roundings_of_its_size(value, passes):
    _, _, q, k, v = right()
    q, k = torch.full_like(q, 16), torch.full_like(k, 2)  # each score is 16 * 2 * 64 / sqrt(64) = 256
    case = attended(q, k, v, causal=True)
    found = reference(case)
    assert judge(found.out.half(), (found.lse + value).float(), case).passed == passes


def test_rows_without_a_key_must_be_zero_with_lse_minus_infinity():
    out, lse, q, k, v = right(seqlen_q=80)  # 16 queries see no key
    assert judge(out, lse, attended(q, k, v, causal=True)).passed
    for wrong in (torch.inf, 0.0, torch.nan):
        bad = lse.clone()
        bad[0, 0, 3] = wrong
        assert "lse off by inf" in judge(out, bad, attended(q, k, v, causal=True)).fault
    out[0, 3, 0, 0] = 0.001
    assert "query 3" in judge(out, lse, attended(q, k, v, causal=True)).fault


# ------------------------------------------------------------------ problems


def test_problems_cover_what_kernels_get_wrong():
    found = problems_for(PROBLEM, SCHEDULE, 20, 0)
    assert len(found) == 20 and len(set(found)) == 20
    assert {31, 32, 33} <= {one.seqlen_q for one in found} and {15, 16, 17} <= {one.seqlen_k for one in found}
    assert any(one.seqlen_q > one.seqlen_k for one in found) and any(one.seqlen_k > 2 * 16 + 16 for one in found)
    assert {one.layout for one in found} == {"plain", "heads_first", "padded_heads", "expanded"}
    assert {1, 2, 3, 8} <= {one.group for one in found} and {one.kind for one in found} == {"random", "needle"}
    assert found == problems_for(PROBLEM, SCHEDULE, 20, 0) and found[:12] == problems_for(PROBLEM, SCHEDULE, 12, 5)


@pytest.mark.parametrize("layout", ["plain", "heads_first", "padded_heads", "expanded"])
def test_inputs_lie_in_nan(layout):
    problem = Problem(seqlen_q=5, seqlen_k=6, dtype="fp16", head_dim=16, is_causal=False, batch=2, layout=layout)
    inputs = make_inputs(problem, 16, 0, CPU, VISIBILITY)
    for tensor in (inputs.q, inputs.k, inputs.v):
        assert tensor.isfinite().all() and tensor.data_ptr() % 16 == 0
        assert all(stride % 8 == 0 for stride in tensor.stride()[:3]) and tensor.stride()[3] == 1
        whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        held = tensor[:1] if tensor.stride(0) == 0 else tensor
        assert int(whole.isfinite().sum()) == held.numel()
        assert whole[: tensor.storage_offset()].isnan().all() and whole[-8:].isnan().all()


@pytest.mark.parametrize("layout", ["plain", "heads_first", "padded_heads"])
def test_a_write_beside_a_tensor_is_seen(layout):
    one = guarded((2, 3, 4, 16), torch.float16, CPU, layout)
    one.tensor.fill_(1.0)
    assert one.is_intact()
    for beside in (one.tensor.storage_offset() - 1, len(one.buffer) - 256):
        one.buffer[beside] = 0.0
        assert not one.is_intact()
        one.buffer[beside] = torch.nan


@pytest.mark.parametrize("causal", [False, True])
def test_a_needle_carries_its_row(causal):
    problem = Problem(seqlen_q=40, seqlen_k=50, dtype="bf16", head_dim=64, is_causal=causal, kind="needle", group=2)
    inputs = make_inputs(problem, 16, 0, CPU, VISIBILITY)
    assert isinstance(inputs.options, Options) and inputs.options.causal is causal
    found = reference(attended(inputs.q, inputs.k, inputs.v, causal=causal))
    assert torch.allclose(found.out.abs(), torch.ones(1, dtype=torch.float64), atol=1e-3)
    last = found.out[0, 0, 0, :12] if not causal else found.out[0, 36, 0, :12]
    key = sum(int(bit > 0) << index for index, bit in enumerate(last))
    assert key == (49 if not causal else 46)


NEEDLES = {
    "a window": {"window": (20, 3)},
    "a causal window of sequences": {"window": (17, 0), "lengths": ((40, 50), (0, 7), (33, 0), (9, 31))},
    "chunks": {"attention_chunk": 19, "is_causal": True},
    "sequences partly used": {"lengths": ((40, 50), (1, 1), (12, 37)), "is_partly_used": True},
    "blocks": {"block": (16, 32), "batch": 2},
    "wider values": {"head_dim_v": 88, "is_causal": True},
    "a bias and slopes": {"bias": "heads", "slopes": "batch", "batch": 2, "layout": "expanded"},
    "a sink": {"has_sink": True},
}


@pytest.mark.parametrize("features", NEEDLES.values(), ids=NEEDLES)
def test_a_needle_of_any_feature_carries_its_row_and_is_a_key_at_an_end(features):
    sizes = {"seqlen_q": 40, "seqlen_k": 50, "dtype": "bf16", "head_dim": 64, "is_causal": False, "group": 2}
    problem = Problem(**{**sizes, "kind": "needle", **features})
    inputs = make_inputs(problem, 16, 0, CPU, VISIBILITY)
    named = vars_of(inputs.options)
    found = reference(attended(inputs.q, inputs.k, inputs.v, **named))
    seen = found.lse.isfinite().transpose(1, 2) & (found.magnitude > 0.5)  # a row with a sink alone has an lse too
    assert seen.float().mean() > 0.3
    assert ((found.out.abs() - 1).abs().amax(-1) < 1e-2)[seen].all()
    bits = (found.out[..., :12] > 0) << torch.arange(12)
    assert len(bits.sum(-1)[seen].unique()) >= 6  # the keys that carry


def vars_of(options: Options) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}


def test_a_cap_leaves_no_needle():
    problem = {**PROBLEM, "has_softcap": True}
    assert {one.kind for one in problems_for(problem, SCHEDULE, 30, 0)} == {"random"}


# ------------------------------------------------------------------ the checker


Mutation = Callable[[dict[str, Any], torch.Tensor], None]


@pytest.fixture
def checked(new_module) -> Iterator[Callable[..., Any]]:
    """A module of two kernels, checked with kernels that do something more after the right computation."""
    fake = new_module()
    for causal in (False, True):
        fake.add("fp16", 64, causal, 32)
    fake.add("fp16", 64, False, 32, sm=90)
    fake.table["kernels"] = {
        name: kernel | {"schedule": kernel["schedule"] | SCHEDULE} for name, kernel in fake.table["kernels"].items()
    }
    fake.write()
    module = fake.load()
    stand_in = StandIn(fake.folder / "_emulator.so")

    def run(mutation: Mutation | None = None, fail: int = 0, **arguments: Any) -> Any:
        stand_in.fail("cuLaunchKernelEx", fail)

        def compute() -> None:
            fields, name = stand_in.parameters, stand_in.launches[-1].split()[1]
            fake_kernel.compute(fields, name)
            if mutation:
                mutation(fields, fake_kernel.inputs_and_out(fields, name)[3])

        stand_in.expect()
        stand_in.on_launch(compute)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # emulating is what is asked for here: no warning
            return check_module(module, device="cpu", **arguments)

    yield run
    stand_in.reset()


def test_right_kernels_pass(checked):
    lines: list[str] = []
    result = checked(problems=14, progress=lines.append)
    assert result.passed, str(result)
    assert len(lines) == 3 and "14 problems" in lines[0]
    assert [bool(one.skipped) for one in result.variants] == [False, False, True]
    assert "is compiled for sm90, the device is sm80" in str(result)
    assert result.to_dict()["passed"] is True


def test_named_variants_alone_are_checked(checked):
    name = "flash_fwd_sm80_fp16_hd64_causal1_m32"
    assert [one.variant for one in checked(problems=1, variants=[name]).variants] == [name]


def test_nothing_checked_is_not_passed(checked):
    assert not checked(problems=1, variants=["flash_fwd_sm90_fp16_hd64_causal0_m32"]).passed


def lose_the_last_tile(fields: dict[str, Any], out: torch.Tensor) -> None:
    out[:, -1:] *= 0.98


def write_behind(fields: dict[str, Any], out: torch.Tensor) -> None:
    fake_kernel.memory(fields["out"] - 2, (1,), (1,), torch.float16).fill_(0.0)


def write_beside_lse(fields: dict[str, Any], out: torch.Tensor) -> None:
    fake_kernel.memory(fields["lse"] - 4, (1,), (1,), torch.float32).fill_(0.0)


def forget_a_row(fields: dict[str, Any], out: torch.Tensor) -> None:
    out[0, 0] = torch.nan


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        (lose_the_last_tile, "error"),
        (write_behind, "memory beside out was written"),
        (write_beside_lse, "memory beside lse was written"),
        (forget_a_row, "largest error inf"),
    ],
)
def test_wrong_kernels_fail(checked, mutation, message):
    result = checked(mutation, problems=4)
    assert not result.passed and message in str(result)


def test_a_launch_that_fails_is_a_result(checked):
    result = checked(problems=2, fail=719)
    assert not result.passed and "LaunchError: flash_fwd_sm80" in str(result)
