"""Emitted code: golden, deterministic, and different wherever the spec is."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kernelwright.gen.render import render
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANT = Variant(
    sm=80,
    problem=ForwardProblem(dtype="bf16", head_dim=40, is_causal=True),
    schedule=ForwardSchedule(block_m=128, block_n=64, num_warps=4, num_stages=2, q_in_regs=False),
)
ONE_STAGE = replace(
    VARIANT,
    problem=replace(VARIANT.problem, dtype="fp16", head_dim=128, is_causal=False),
    schedule=replace(VARIANT.schedule, block_n=32, num_stages=1, q_in_regs=True),
)


def body(text: str) -> str:
    """The code without its opening comment and without the kernel's name."""
    return re.sub(r"flash_fwd_sm\w+", "NAME", "\n".join(text.splitlines()[5:]))


@pytest.mark.parametrize("variant", [VARIANT, ONE_STAGE], ids=lambda v: v.name)
def test_emitted_code_is_the_golden_file(variant, request):
    path = GOLDEN / f"{variant.name}.cu"
    if request.config.getoption("--update-golden"):
        path.write_text(render(variant))
    assert render(variant) == path.read_text(), "pytest --update-golden rewrites it"


def test_the_same_variant_gives_the_same_bytes():
    assert render(VARIANT) == render(Variant.parse(VARIANT.name))


@pytest.mark.parametrize(
    ("field", "other"),
    [("block_m", 64), ("block_n", 32), ("num_warps", 8), ("num_stages", 3), ("num_stages", 1), ("q_in_regs", True)],
)
def test_every_schedule_field_changes_the_code(field, other):
    changed = replace(VARIANT, schedule=replace(VARIANT.schedule, **{field: other}))
    assert changed.name != VARIANT.name
    assert body(render(changed)) != body(render(VARIANT))  # else the tuner times one binary twice


@pytest.mark.parametrize(("field", "other"), [("dtype", "fp16"), ("head_dim", 48), ("is_causal", False)])
def test_every_problem_field_changes_the_code(field, other):
    changed = replace(VARIANT, problem=replace(VARIANT.problem, **{field: other}))
    assert changed.name != VARIANT.name
    assert body(render(changed)) != body(render(VARIANT))


def test_emitted_code_is_meant_to_be_read():
    text = render(VARIANT)
    assert text.startswith(f"// {VARIANT.name}\n// Generated from templates/flash_fwd_mma.cu.jinja.")
    assert "\n\n\n" not in text
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)
    assert "{%" not in text and "{{" not in text
