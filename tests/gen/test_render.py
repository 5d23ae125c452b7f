"""Emitted code: golden, deterministic, and different wherever the spec is."""

import itertools
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from kernelwright.gen.render import render
from kernelwright.gen.spec import FEATURES, ForwardProblem, ForwardSchedule, Variant

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANT = Variant(
    sm=80,
    problem=ForwardProblem(dtype="bf16", head_dim=40, is_causal=True),
    schedule=ForwardSchedule(block_m=128, block_n=64, num_warps=4, num_stages=2, q_in_regs=False),
)
ONE_STAGE = replace(
    VARIANT,
    problem=replace(VARIANT.problem, dtype="fp16", head_dim=128, head_dim_v=128, is_causal=False),
    schedule=replace(VARIANT.schedule, block_n=32, num_stages=1, q_in_regs=True),
)


SCHEDULE_CHANGES = [
    *[("block_m", 64), ("block_n", 32), ("num_warps", 8), ("num_stages", 3), ("num_stages", 1), ("q_in_regs", True)],
    *[("num_slices", 2), ("pack_gqa", True), ("persistent_blocks", 1)],
]
PROBLEM_CHANGES = [
    *[("dtype", "fp16"), ("head_dim", 48), ("head_dim_v", 48), ("is_causal", True)],
    *[(flag, True) for flag in FEATURES.values() if flag != "is_causal"],
]


def body(text: str) -> str:
    """The code without its opening comment and without the kernel's name."""
    return re.sub(r"flash_fwd_sm\w+", "NAME", "\n".join(text.splitlines()[5:]))


EVERY_FEATURE = Variant(
    sm=80,
    problem=ForwardProblem(
        dtype="bf16",
        head_dim=64,
        head_dim_v=128,
        **{flag: True for flag in FEATURES.values() if flag != "is_causal"},
    ),
    schedule=replace(VARIANT.schedule, block_m=64, block_n=32, num_slices=2, persistent_blocks=1),
)
SLICEABLE = replace(VARIANT, problem=ForwardProblem(dtype="bf16", head_dim=64))
PACKED = replace(
    VARIANT,
    problem=replace(VARIANT.problem, head_dim=64, head_dim_v=64, is_varlen=True),
    schedule=replace(VARIANT.schedule, pack_gqa=True),
)


@pytest.mark.parametrize("variant", [VARIANT, ONE_STAGE, EVERY_FEATURE, PACKED], ids=lambda v: v.name)
def test_emitted_code_is_the_golden_file(variant, request):
    path = GOLDEN / f"{variant.name}.cu"
    if request.config.getoption("--update-golden"):
        path.write_text(render(variant))
    assert render(variant) == path.read_text(), "pytest --update-golden rewrites it"


def test_the_same_variant_gives_the_same_bytes():
    assert render(VARIANT) == render(Variant.parse(VARIANT.name))


@pytest.mark.parametrize(
    ("field", "other"),
    SCHEDULE_CHANGES,
)
def test_every_schedule_field_changes_the_code(field, other):
    changed = replace(SLICEABLE, schedule=replace(SLICEABLE.schedule, **{field: other}))
    assert changed.name != SLICEABLE.name
    assert body(render(changed)) != body(render(SLICEABLE))  # else the tuner times one binary twice


@pytest.mark.parametrize(
    ("field", "other"),
    PROBLEM_CHANGES,
)
def test_every_problem_field_changes_the_code(field, other):
    changed = replace(SLICEABLE, problem=replace(SLICEABLE.problem, **{field: other}))
    assert changed.name != SLICEABLE.name
    assert body(render(changed)) != body(render(SLICEABLE))


def test_no_field_is_left_out_of_the_tests_above():
    assert {field for field, _ in SCHEDULE_CHANGES} == {field.name for field in fields(ForwardSchedule)}
    assert {field for field, _ in PROBLEM_CHANGES} == {field.name for field in fields(ForwardProblem)}


def test_two_fields_that_differ_make_two_kernels():
    """No two problems of one schedule are one kernel, whatever flags are set."""
    names = [flag for flag in FEATURES.values() if flag != "is_causal"]
    chosen = [dict(zip(names, values, strict=True)) for values in itertools.product([False, True], repeat=len(names))]
    made = [replace(SLICEABLE, problem=replace(SLICEABLE.problem, **flags)) for flags in chosen]
    assert len({one.name for one in made}) == len({body(render(one)) for one in made}) == 2 ** len(names)


@pytest.mark.parametrize("variant", [VARIANT, ONE_STAGE, EVERY_FEATURE, PACKED], ids=lambda v: v.name)
def test_emitted_code_is_meant_to_be_read(variant):
    text = render(variant)
    assert text.startswith(f"// {variant.name}\n// Generated from templates/flash_fwd_mma.cu.jinja.")
    assert "\n\n\n" not in text
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)
    assert "{%" not in text and "{{" not in text
