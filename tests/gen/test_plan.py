"""Devices, constraints, profiles and plans: what is legal, and clear words for what is not."""

from dataclasses import replace

import pytest

from kernelwright.gen.binding import forward_binding, struct_fields
from kernelwright.gen.constraints import CONSTRAINTS, constraint, reasons_against, require_legal
from kernelwright.gen.devices import devices, parse_arch, reference_device
from kernelwright.gen.errors import ConfigError, InfeasibleSpec, SpecError
from kernelwright.gen.ladder import ladder
from kernelwright.gen.plan import make_plan
from kernelwright.gen.profile import load_profile
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

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
        ("schema: 1\nproblems: [{dtype: bf16, head_dim: 64}]", r"\$\.problems\[0\]: missing key 'is_causal'"),
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
    with pytest.raises(ConfigError, match="all_head_dims, default"):
        load_profile("llama")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_profile("absent.yaml")


def test_the_parameter_struct_follows_the_binding():
    members = {member.name: member.ctype for member in struct_fields(forward_binding())}
    assert members["q"] == "const char*" and members["out"] == "char*" and members["lse"] == "float*"
    assert members["k_row_stride"] == "long long" and members["softmax_scale"] == "float"
    assert list(members)[:5] == ["q", "k", "v", "out", "lse"]
