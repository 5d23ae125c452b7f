"""Problem, schedule and variant: names, dictionaries, and what they refuse."""

from dataclasses import replace

import pytest

from kernelwright.gen.errors import SpecError
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

PROBLEM = ForwardProblem(dtype="bf16", head_dim=64, is_causal=True)
SCHEDULE = ForwardSchedule(block_m=128, block_n=64, num_warps=4, num_stages=2, q_in_regs=False)
VARIANT = Variant(sm=80, problem=PROBLEM, schedule=SCHEDULE)


def test_the_name_holds_every_field_and_reads_back():
    assert VARIANT.name == "flash_fwd_sm80_bf16_hd64_causal1_m128_n64_w4_s2_qreg0"
    assert Variant.parse(VARIANT.name) == VARIANT


def test_a_dictionary_reads_back():
    assert Variant.from_dict(VARIANT.to_dict()) == VARIANT


@pytest.mark.parametrize("name", ["", "flash_fwd", VARIANT.name + "_x", VARIANT.name.replace("bf16", "fp8")])
def test_other_text_is_no_variant(name):
    with pytest.raises(SpecError, match="not a variant's name"):
        Variant.parse(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("sm"),
        lambda d: d.update(extra=1),
        lambda d: d["problem"].pop("dtype"),
        lambda d: d["problem"].update(head_dim="64"),
        lambda d: d["problem"].update(is_causal=1),
        lambda d: d["schedule"].update(block_k=1),
    ],
)
def test_a_dictionary_with_a_fault_is_refused(change):
    data = VARIANT.to_dict()
    change(data)
    with pytest.raises(SpecError):
        Variant.from_dict(data)


@pytest.mark.parametrize("head_dim", [-8, 0, 4, 12, 257, 264])
def test_head_dim_is_a_multiple_of_8_up_to_256(head_dim):
    with pytest.raises(SpecError, match="multiple of 8"):
        replace(PROBLEM, head_dim=head_dim)


@pytest.mark.parametrize(
    "change", [{"block_m": 120}, {"block_m": 0}, {"block_n": 24}, {"block_n": 0}, {"num_warps": 3}, {"num_stages": 0}]
)
def test_a_schedule_of_no_gpu_is_refused(change):
    with pytest.raises(SpecError):
        replace(SCHEDULE, **change)


def test_q_in_registers_gives_its_shared_memory_to_k_and_v():
    assert VARIANT.smem_bytes == 2 * 64 * (128 + 2 * 2 * 64)
    assert replace(VARIANT, schedule=replace(SCHEDULE, q_in_regs=True)).smem_bytes == 2 * 64 * 2 * 2 * 64
