"""Problem, schedule and variant: names, dictionaries, and what they refuse."""

from dataclasses import replace

import pytest

from kernelwright.gen.errors import SpecError
from kernelwright.gen.spec import FEATURES, ForwardProblem, ForwardSchedule, Variant

PROBLEM = ForwardProblem(dtype="bf16", head_dim=64, is_causal=True)
SCHEDULE = ForwardSchedule(block_m=128, block_n=64, num_warps=4, num_stages=2, q_in_regs=False)
VARIANT = Variant(sm=80, problem=PROBLEM, schedule=SCHEDULE)


def test_the_name_holds_every_field_and_reads_back():
    assert VARIANT.name == "flash_fwd_sm80_bf16_hd64_causal1_m128_n64_w4_s2_qreg0"
    assert Variant.parse(VARIANT.name) == VARIANT


def test_a_field_that_is_not_set_goes_unsaid_and_every_set_one_is_said():
    problem = ForwardProblem(
        dtype="bf16", head_dim=64, head_dim_v=512, **{flag: True for flag in FEATURES.values() if flag != "is_causal"}
    )
    schedule = replace(SCHEDULE, block_n=32, num_slices=4, persistent_blocks=2)
    variant = Variant(sm=80, problem=problem, schedule=schedule)
    assert variant.name == (
        "flash_fwd_sm80_bf16_hd64_dv512_causal0_local_varlen_softcap_alibi_bias_dropout_sparse_m128_n32_w4_s2_qreg0_o4_p2"
    )
    assert Variant.parse(variant.name) == variant
    packed = replace(VARIANT, schedule=replace(SCHEDULE, pack_gqa=True))
    assert packed.name == f"{VARIANT.name}_pack" and Variant.parse(packed.name) == packed


def test_a_feature_is_named_as_users_give_it():
    assert list(FEATURES) == ["causal", "local", "varlen", "softcap", "alibi", "bias", "dropout", "sparse"]
    assert replace(PROBLEM, has_bias=True, is_block_sparse=True).features == ("causal", "bias", "sparse")


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


@pytest.mark.parametrize("head_dim", [-8, 0, 4, 12, 257, 513, 520])
def test_head_dim_is_a_multiple_of_8_up_to_512(head_dim):
    with pytest.raises(SpecError, match="head_dim must be a multiple of 8 from 8 to 512"):
        replace(PROBLEM, head_dim=head_dim)
    if head_dim:  # 0 stands for head_dim
        with pytest.raises(SpecError, match="head_dim_v must be a multiple of 8 from 8 to 512"):
            replace(PROBLEM, head_dim_v=head_dim)


def test_a_head_dim_of_v_that_two_blocks_share_is_a_multiple_of_16():
    assert ForwardProblem(dtype="bf16", head_dim=264, head_dim_v=272).head_dim_v == 272
    with pytest.raises(SpecError, match="head_dim_v above 256 must be a multiple of 16"):
        ForwardProblem(dtype="bf16", head_dim=264)


def test_the_head_dim_of_v_is_that_of_q_unless_given():
    assert ForwardProblem(dtype="bf16", head_dim=96).head_dim_v == 96
    assert ForwardProblem(dtype="bf16", head_dim=96, head_dim_v=64).head_dim_v == 64


def test_causal_and_local_exclude_one_another():
    with pytest.raises(SpecError, match="exclude one another"):
        replace(PROBLEM, is_local=True)


@pytest.mark.parametrize(
    ("problem", "schedule", "fault"),
    [
        ({"head_dim": 72, "head_dim_v": 72}, {"num_slices": 2}, "num_slices 2 does not cut head_dim_v 72"),
        ({"head_dim_v": 512}, {}, "at most 256 output columns, got 512; raise num_slices"),
        ({"has_dropout": True}, {"pack_gqa": True}, "pack_gqa mixes heads in a tile"),
        ({"is_block_sparse": True}, {"pack_gqa": True}, "pack_gqa mixes heads in a tile"),
    ],
)
def test_a_schedule_that_cannot_compute_the_problem_is_refused(problem, schedule, fault):
    with pytest.raises(SpecError, match=fault):
        Variant(sm=80, problem=replace(PROBLEM, **problem), schedule=replace(SCHEDULE, **schedule))


@pytest.mark.parametrize(
    "change",
    [
        {"block_m": 120},
        {"block_m": 0},
        {"block_n": 24},
        {"block_n": 0},
        {"num_warps": 3},
        {"num_stages": 0},
        {"num_slices": 3},
        {"num_slices": 0},
        {"persistent_blocks": -1},
        {"persistent_blocks": 17},
    ],
)
def test_a_schedule_of_no_gpu_is_refused(change):
    with pytest.raises(SpecError):
        replace(SCHEDULE, **change)


def test_q_in_registers_gives_its_shared_memory_to_k_and_v():
    assert VARIANT.smem_bytes == 2 * 64 * (128 + 2 * 2 * 64)
    assert replace(VARIANT, schedule=replace(SCHEDULE, q_in_regs=True)).smem_bytes == 2 * 64 * 2 * 2 * 64


def test_the_head_dim_of_v_and_its_slices_count_in_shared_memory():
    problem = ForwardProblem(dtype="bf16", head_dim=64, head_dim_v=256)
    whole = Variant(sm=80, problem=problem, schedule=SCHEDULE)
    assert whole.smem_bytes == 2 * (128 * 64 + 2 * 64 * (64 + 256))
    assert replace(whole, schedule=replace(SCHEDULE, num_slices=2)).smem_bytes == 2 * (128 * 64 + 2 * 64 * (64 + 128))
    narrow = replace(SCHEDULE, block_n=16, num_stages=1)  # the staged output needs more than Q and the ring
    assert replace(whole, schedule=narrow).smem_bytes == 2 * 128 * 256
