"""Devices, constraints, profiles and plans: what is legal, and clear words for what is not."""

import collections
import itertools
from dataclasses import replace

import pytest

from kernelwright.gen.binding import forward_binding, struct_fields
from kernelwright.gen.constraints import CONSTRAINTS, constraint, reasons_against, require_legal
from kernelwright.gen.devices import devices, parse_arch, reference_device
from kernelwright.gen.errors import ConfigError, InfeasibleSpec, SpecError
from kernelwright.gen.ladder import default_schedule, ladder
from kernelwright.gen.plan import make_plan, predict_cost
from kernelwright.gen.profile import load_profile
from kernelwright.gen.spec import FEATURES, OPERATIONS, ForwardProblem, ForwardSchedule, Variant

BIG = Variant(
    sm=80,
    problem=ForwardProblem(dtype="fp16", head_dim=256, is_causal=False),
    schedule=ForwardSchedule(block_m=128, block_n=64, num_warps=8, num_stages=1, q_in_regs=False),
)


def test_the_devices_of_the_field_are_there():
    assert set(devices()) == {"a100", "rtx3090", "a10", "rtx4090", "l40s", "h100", "h200"}
    assert reference_device(86).max_smem_bytes == 101_376


def test_peaks_follow_from_the_table():
    peaks = {name: d.mma_flops * d.num_sms * d.boost_mhz / 1e6 for name, d in devices().items()}
    published = {"a100": 312, "rtx3090": 71, "a10": 125, "rtx4090": 165, "l40s": 362}
    for name, tflops in published.items():
        assert peaks[name] == pytest.approx(tflops, rel=0.02)


@pytest.mark.parametrize(("text", "sm"), [("sm80", 80), ("86", 86), ("8.9", 89), ("SM_80", 80)])
def test_an_architecture_is_read_in_its_usual_spellings(text, sm):
    assert parse_arch(text) == sm


@pytest.mark.parametrize("text", ["", "sm70", "ampere", "sm90a", "sm80x"])
def test_an_unknown_architecture_lists_the_known_ones(text):
    with pytest.raises(SpecError, match="sm80, sm86, sm89"):
        parse_arch(text)


def test_a_tile_over_99_kib_is_refused_for_sm86_and_not_for_sm80():
    assert reasons_against(BIG, reference_device(80)) == []
    small = replace(BIG, sm=86)
    assert [name for name, _ in reasons_against(small, reference_device(86))] == ["smem_fits"]
    with pytest.raises(InfeasibleSpec, match=r"131,072 bytes.*sm86 has 101,376"):
        require_legal(small, reference_device(86))


def test_each_constraint_refuses_something():
    tall = ForwardSchedule(block_m=128, block_n=64, num_warps=2, num_stages=1, q_in_regs=False)
    deep = replace(BIG.schedule, block_n=16, num_stages=5)
    refused = {
        "arch_matches": (replace(BIG, sm=89), 80),
        "smem_fits": (replace(BIG, sm=86), 86),
        "registers_fit": (replace(BIG, schedule=tall), 80),
        "stages_are_used": (replace(BIG, schedule=deep), 80),
    }
    assert set(refused) == set(CONSTRAINTS)
    for name, (variant, sm) in refused.items():
        assert name in dict(reasons_against(variant, reference_device(sm)))


def test_an_unknown_constraint_lists_the_known_ones():
    with pytest.raises(SpecError, match="smem_fits"):
        constraint("fits")


@pytest.mark.parametrize("sm", [80, 86, 89])
def test_every_default_variant_is_legal_everywhere(sm):
    plan = make_plan(load_profile("all_head_dims"), [sm])
    assert len(plan.kernels) == 128 and not plan.refusals
    assert max(kernel.variant.smem_bytes for kernel in plan.kernels) <= 101_376


def features_of_every_kind():
    """Each flag alone and all at once, under each mask."""
    extra = [flag for flag in FEATURES.values() if flag not in ("is_causal", "is_local")]
    for mask in ({}, {"is_causal": True}, {"is_local": True}):
        for flags in ([], *[[one] for one in extra], extra):
            yield {**mask, **dict.fromkeys(flags, True)}


def test_default_schedules_are_legal_for_every_head_dim_and_feature():
    dims = [(d, d) for d in range(8, 513, 8) if d <= 256 or d % 16 == 0]
    dims += [(192, 128), (128, 192), (64, 256), (64, 512), (576 - 64, 512), (264, 64), (256, 512), (512, 64), (128, 8)]
    for sm in (80, 86, 89):
        for head_dim, head_dim_v in dims:
            for flags in features_of_every_kind():
                problem = ForwardProblem(dtype="fp16", head_dim=head_dim, head_dim_v=head_dim_v, **flags)
                (rung,) = ladder(sm, problem)
                assert reasons_against(rung.variant, reference_device(sm)) == []
                assert rung.variant.smem_bytes <= 101_376
                if problem.is_block_sparse:  # the default size of a block mask's blocks
                    assert 128 % rung.variant.schedule.block_m == 128 % rung.variant.schedule.block_n == 0


def test_the_tile_of_the_plain_kernels_for_head_dim_128_stays():
    for flags in ({}, {"is_causal": True}):
        schedule = default_schedule(ForwardProblem(dtype="bf16", head_dim=128, **flags))
        assert (schedule.block_m, schedule.block_n, schedule.num_warps, schedule.num_stages) == (128, 32, 4, 1)


def test_registers_are_counted_for_the_columns_of_one_slice():
    problem = ForwardProblem(dtype="fp16", head_dim=64, head_dim_v=256)
    whole = ForwardSchedule(block_m=128, block_n=64, num_warps=4, num_stages=1, q_in_regs=False)
    variants = [Variant(sm=80, problem=problem, schedule=replace(whole, num_slices=slices)) for slices in (1, 2)]
    refused = [dict(reasons_against(one, reference_device(80))) for one in variants]
    assert "output 256" in refused[0]["registers_fit"] and refused[1] == {}


MODELS = {
    "flash2": (288, {32, 64, 96, 128, 192, 256}, set(FEATURES) - {"bias", "sparse"}),
    "llama": (12, {64, 128}, {"causal", "local", "varlen"}),
    "gpt2": (8, {64}, {"causal", "varlen", "dropout"}),
    "gemma2": (16, {128, 256}, {"causal", "local", "varlen", "softcap"}),
    "mistral": (8, {128}, {"causal", "local", "varlen"}),
    "gpt-oss": (8, {64}, {"causal", "local", "varlen"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_profile_of_a_model_holds_what_it_says(name):
    count, head_dims, features = MODELS[name]
    profile = load_profile(name)
    assert len(profile.problems) == count
    assert {one.head_dim for one in profile.problems} == head_dims
    assert {feature for one in profile.problems for feature in one.features} == features
    for sm in (80, 86, 89):
        assert make_plan(profile, [sm]).refusals == ()


def test_the_problems_of_flash2_answer_every_call_of_flash_attention_2():
    """Its softcap excludes dropout; a local kernel computes causal and full attention too."""
    held = {(one.is_varlen, frozenset(one.features) - {"varlen"}) for one in load_profile("flash2").problems}
    for is_varlen, softcap, alibi, dropout in itertools.product([False, True], repeat=4):
        if softcap and dropout:
            continue
        extra = {name for name, chosen in (("softcap", softcap), ("alibi", alibi), ("dropout", dropout)) if chosen}
        assert (is_varlen, frozenset(extra | {"local"})) in held


@pytest.mark.parametrize("sm", [80, 86, 89])
def test_a_trained_problem_gets_a_kernel_of_every_operation(sm):
    plan = make_plan(load_profile("train"), [sm])
    counts = collections.Counter(kernel.variant.operation for kernel in plan.kernels)
    # Two dtypes, two head dimensions, with and without mask; kernels of rows are shared by what differs in the mask.
    shared = {"flash_bwd_delta": 4, "flash_bwd_convert": 4}
    assert counts == {"flash_fwd": 8, "flash_bwd": 8, "flash_bwd_dq": 8, **shared}
    assert len({kernel.variant.name for kernel in plan.kernels}) == len(plan.kernels) and not plan.refusals


def test_kernels_of_rows_follow_the_head_dim_that_they_work_on():
    problem = ForwardProblem(dtype="bf16", head_dim=192, head_dim_v=128, is_local=True, has_alibi=True)
    names = [ladder(80, problem, one)[-1].variant.name for one in ("flash_bwd_delta", "flash_bwd_convert")]
    assert names == [
        "flash_bwd_delta_sm80_bf16_hd128_causal0_m64_w4",
        "flash_bwd_convert_sm80_bf16_hd192_causal0_m64_w4",
    ]


def test_an_operation_that_no_kernel_computes_is_named():
    with pytest.raises(SpecError, match=r"operation must be one of flash_fwd, flash_bwd, .* got 'flash_sideways'"):
        ladder(80, ForwardProblem(dtype="bf16", head_dim=64), "flash_sideways")


def test_backward_is_kept_per_problem_or_asked_of_every_one(tmp_path):
    path = tmp_path / "mixed.yaml"
    rows = "{dtype: fp16, head_dim: 64, backward: true}, {dtype: fp16, head_dim: [64, 96], backward: false}"
    path.write_text(f"schema: 1\nproblems: [{rows}]")
    profile = load_profile(str(path))
    assert [one.head_dim for one in profile.problems] == [64, 96]
    assert {one.head_dim for one in profile.trained} == {64}
    assert profile.restricted(None, ["bf16"]).trained == {ForwardProblem(dtype="bf16", head_dim=64)}
    assert profile.restricted([128], None).trained == {ForwardProblem(dtype="fp16", head_dim=128)}
    everything = profile.restricted(None, None, backward=True)
    assert everything.trained == set(everything.problems)
    assert load_profile("default").trained == set()


def test_a_problem_without_backward_kernels_cannot_be_trained(tmp_path):
    with pytest.raises(SpecError, match="a backward kernel takes head_dim and head_dim_v up to 256, got 512 and 512"):
        load_profile("default").restricted([512], None, backward=True)
    path = tmp_path / "wide.yaml"
    path.write_text("schema: 1\nproblems: [{dtype: fp16, head_dim: 272, backward: true}]")
    with pytest.raises(ConfigError, match=r"\$\.problems\[0\]: a backward kernel takes head_dim"):
        load_profile(str(path))


def test_no_kernel_is_predicted_to_take_more_than_four_seconds():
    flags = [flag for flag in FEATURES.values() if flag not in ("is_causal", "is_local", "is_block_sparse")]
    for head_dim, operation, every in itertools.product((8, 64, 128, 256), OPERATIONS, (False, True)):
        problem = ForwardProblem(dtype="bf16", head_dim=head_dim, is_local=True, **dict.fromkeys(flags, every))
        cost = predict_cost(ladder(86, problem, operation)[-1].variant)
        assert 0.3 < cost.cpu_seconds < 4 and 80 < cost.peak_mib < 200 and 5 < cost.size_kib < 1000


def test_features_are_chosen_in_place_of_the_profiles():
    chosen = load_profile("default").restricted([192], ["fp16"], 128, ["local", "varlen", "sparse"])
    wanted = {"is_local": True, "is_varlen": True, "is_block_sparse": True}
    assert chosen.problems == (ForwardProblem(dtype="fp16", head_dim=192, head_dim_v=128, **wanted),)
    plain = load_profile("gemma2").restricted([64], ["bf16"], None, [])
    assert plain.problems == (ForwardProblem(dtype="bf16", head_dim=64),)
    with pytest.raises(SpecError, match="feature 'window': unknown; known: causal, local, varlen, softcap"):
        load_profile("default").restricted(None, None, None, ["window"])


def test_the_last_rung_of_a_ladder_has_no_bounds():
    for problem in load_profile("all_head_dims").problems:
        assert ladder(80, problem)[-1].when == {}


def test_the_default_profile_is_small():
    profile = load_profile("default")
    assert {(p.dtype, p.head_dim, p.is_causal) for p in profile.problems} == {
        (dtype, d, c) for dtype in ("fp16", "bf16") for d in (64, 128) for c in (False, True)
    }
    restricted = profile.restricted([96], ["bf16"])
    assert {(p.dtype, p.head_dim) for p in restricted.problems} == {("bf16", 96)}
    assert len(restricted.problems) == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "schema"),
        ("schema: 2\nproblems: []", "schema is 2"),
        ("schema: 1", "missing key 'problems'"),
        ("schema: 1\nproblems: []", r"\$\.problems: expected at least one"),
        ("schema: 1\nproblems: 3", r"\$\.problems: expected a list"),
        ("schema: 1\nproblems: [{dtype: bf16, is_causal: true}]", r"\$\.problems\[0\]: missing key 'head_dim'"),
        ("schema: 1\nproblems: [{dtype: bf16, head_dim: 64, is_causal: true, is_local: true}]", "exclude one another"),
        ("schema: 1\nproblems: [{dtype: bf16, head_dim: 64, head_dim_v: 264}]", "above 256 must be a multiple of 16"),
        (
            "schema: 1\nproblems: [{dtype: bf16, head_dim: 64, is_causal: true, window: 3}]",
            r"\$\.problems\[0\]: unknown key 'window'; known: dtype",
        ),
        ("schema: 1\nproblems: [{dtype: fp8, head_dim: 64, is_causal: true}]", r"\.dtype: found 'fp8'; allowed"),
        ("schema: 1\nproblems: [{dtype: bf16, head_dim: 63, is_causal: true}]", r"\[0\]: head_dim must be a multiple"),
        ("schema: 1\nproblems: [{dtype: bf16, head_dim: 64, is_causal: 1}]", "expected true or false"),
        ("schema: 1\nschema: 1\nproblems: []", "given twice"),
        ("schema: 1\nproblems: !!python/object/apply:os.system ['true']", "not plain YAML"),
        ("schema: 1\nproblems: [", "not plain YAML"),
        ("[" * 5000, "not plain YAML"),
    ],
)
def test_a_profile_with_a_fault_names_the_place(tmp_path, text, fault):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=fault):
        load_profile(str(path))


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(ConfigError, match="all_head_dims, default, flash2, gemma2"):
        load_profile("lama")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_profile("absent.yaml")


def test_the_parameter_struct_follows_the_binding():
    members = {member.name: member.ctype for member in struct_fields(forward_binding())}
    assert members["q"] == "const char*" and members["out"] == "char*" and members["lse"] == "float*"
    assert members["k_row_stride"] == "long long" and members["softmax_scale"] == "float"
    assert list(members)[:5] == ["q", "k", "v", "out", "lse"]
