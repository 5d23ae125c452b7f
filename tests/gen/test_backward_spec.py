"""Variants of the backward operations: names, dictionaries, what they refuse, and the code they become."""

import itertools
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from kernelwright.gen.binding import bindings, names_of, struct_fields
from kernelwright.gen.commands.show import find_variant
from kernelwright.gen.constraints import least_registers, reasons_against
from kernelwright.gen.devices import SUPPORTED_SMS, reference_device
from kernelwright.gen.errors import SpecError
from kernelwright.gen.ladder import default_backward_schedule, default_query_gradient_schedule
from kernelwright.gen.layout import tile_layouts
from kernelwright.gen.render import TEMPLATES, render
from kernelwright.gen.spec import (
    FEATURES,
    OPERATIONS,
    BackwardSchedule,
    ConvertSchedule,
    DeltaSchedule,
    ForwardProblem,
    ForwardSchedule,
    QueryGradientSchedule,
    Variant,
)
from kernelwright.gen.table import kernel_constants, kernel_entry, table

GOLDEN = Path(__file__).parents[1] / "golden"
PROBLEM = ForwardProblem(dtype="bf16", head_dim=64, is_causal=True)
SCHEDULE = BackwardSchedule(block_m=64, block_n=128, num_warps=8, num_stages=1, warps_scores=4, warps_kv=4, warps_q=4)
BACKWARD = Variant(sm=80, problem=PROBLEM, schedule=SCHEDULE)
ODD = Variant(
    sm=86,
    problem=ForwardProblem(
        dtype="fp16",
        head_dim=72,
        head_dim_v=40,
        **{flag: True for flag in FEATURES.values() if flag != "is_causal"},
    ),
    schedule=replace(
        SCHEDULE,
        **{"block_m": 32, "block_n": 64, "num_warps": 4, "num_stages": 2},
        **{"warps_scores": 2, "warps_kv": 2, "warps_q": 1, "v_in_regs": True},
    ),
)
DQ = replace(BACKWARD, schedule=QueryGradientSchedule(block_m=64, block_n=64, num_warps=4, num_stages=2))
ROWS = ForwardProblem(dtype="bf16", head_dim=64)
DELTA = Variant(sm=80, problem=ROWS, schedule=DeltaSchedule(block_m=64, num_warps=4))
CONVERT = Variant(sm=80, problem=ROWS, schedule=ConvertSchedule(block_m=64, num_warps=4))
EVERY = [BACKWARD, ODD, DQ, DELTA, CONVERT]
CHANGES = {
    BackwardSchedule: {
        "block_m": 128,
        "block_n": 64,
        "num_warps": 4,
        "num_stages": 2,
        "warps_scores": 2,
        "warps_kv": 8,
        "warps_q": 2,
        "v_in_regs": True,
    },
    QueryGradientSchedule: {"block_m": 128, "block_n": 32, "num_warps": 2, "num_stages": 1},
    DeltaSchedule: {"block_m": 32, "num_warps": 2},
    ConvertSchedule: {"block_m": 32, "num_warps": 2},
}


def body(text: str) -> str:
    """The code without its opening comment and without the kernel's name."""
    return re.sub(r"flash_bwd\w*_sm\w+", "NAME", "\n".join(text.splitlines()[5:]))


def test_a_name_says_the_operation_and_every_field_and_reads_back():
    assert BACKWARD.name == "flash_bwd_sm80_bf16_hd64_causal1_m64_n128_w8_s1_a4_4_4"
    assert DQ.name == "flash_bwd_dq_sm80_bf16_hd64_causal1_m64_n64_w4_s2"
    assert DELTA.name == "flash_bwd_delta_sm80_bf16_hd64_causal0_m64_w4"
    assert CONVERT.name == "flash_bwd_convert_sm80_bf16_hd64_causal0_m64_w4"
    assert [Variant.parse(one.name) for one in EVERY] == EVERY
    assert [Variant.from_dict(one.to_dict()) for one in EVERY] == EVERY
    assert find_variant(ODD.name) == ODD


def test_the_schedule_says_the_operation():
    assert [one.operation for one in EVERY] == [
        *["flash_bwd", "flash_bwd", "flash_bwd_dq", "flash_bwd_delta", "flash_bwd_convert"]
    ]
    assert set(OPERATIONS) == set(bindings()) == set(TEMPLATES)


def test_the_dictionary_of_another_operation_is_refused():
    with pytest.raises(SpecError, match="operation must be one of flash_fwd, flash_bwd"):
        Variant.from_dict({**BACKWARD.to_dict(), "operation": "flash_sideways"})
    with pytest.raises(SpecError, match="BackwardSchedule has the fields"):
        Variant.from_dict({**DQ.to_dict(), "operation": "flash_bwd"})
    with pytest.raises(SpecError, match="ForwardSchedule has the fields"):
        Variant.from_dict({key: value for key, value in DQ.to_dict().items() if key != "operation"})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"num_warps": 3}, "num_warps must be"),
        ({"num_stages": 3}, "num_stages must be 1 or 2"),
        ({"num_stages": 0}, "num_stages must be 1 or 2"),
        ({"warps_q": 16}, "warps_q must be 1, 2, 4 or 8"),
        ({"warps_kv": 0}, "warps_kv must be 1, 2, 4 or 8"),
        ({"num_warps": 2}, "warps_scores must be .* no more than 2 warps"),
        ({"block_m": 32}, r"block_m must be a multiple of 16 for each of 4 warps \(warps_scores\)"),
        ({"block_m": 32, "warps_scores": 2}, r"for each of 4 warps \(warps_q\)"),
        ({"block_n": 96}, r"block_n must be a multiple of 16 for each of 4 warps \(warps_kv\)"),
        ({"block_n": 64, "warps_scores": 1}, r"for each of 8 warps \(num_warps / warps_scores\)"),
        ({"block_n": 0}, "block_n must be"),
    ],
)
def test_a_backward_schedule_of_no_gpu_is_refused(change, fault):
    with pytest.raises(SpecError, match=fault):
        replace(SCHEDULE, **change)


@pytest.mark.parametrize("change", [{"block_m": 48}, {"block_n": 24}, {"num_warps": 16}, {"num_stages": 4}])
def test_a_query_gradient_schedule_of_no_gpu_is_refused(change):
    with pytest.raises(SpecError):
        replace(DQ.schedule, **change)


@pytest.mark.parametrize("change", [{"block_m": 0}, {"block_m": 2000}, {"num_warps": 5}])
def test_a_row_schedule_of_no_gpu_is_refused(change):
    with pytest.raises(SpecError):
        replace(DELTA.schedule, **change)


@pytest.mark.parametrize("variant", [BACKWARD, DQ], ids=lambda v: v.operation)
def test_what_has_no_backward_kernel_is_refused(variant):
    with pytest.raises(SpecError, match="head_dim and head_dim_v up to 256"):
        replace(variant, problem=replace(PROBLEM, head_dim=264, head_dim_v=272))


def test_a_kernel_of_rows_has_one_problem_for_one_code():
    for changes in ({"is_causal": True}, {"head_dim_v": 32}, {"has_dropout": True}):
        with pytest.raises(SpecError, match="another problem would be the same code"):
            replace(DELTA, problem=replace(ROWS, **changes))


def test_shared_memory_holds_the_tiles_and_p_and_ds():
    assert BACKWARD.smem_bytes == 2 * 128 * (64 + 64) + 2 * 64 * (64 + 64) + 2 * 2 * 64 * 128
    assert replace(BACKWARD, schedule=replace(SCHEDULE, num_stages=2)).smem_bytes == BACKWARD.smem_bytes + 2 * 64 * 128
    assert (
        replace(BACKWARD, schedule=replace(SCHEDULE, v_in_regs=True)).smem_bytes == BACKWARD.smem_bytes - 2 * 128 * 64
    )
    wide = replace(BACKWARD, problem=replace(PROBLEM, head_dim_v=200))  # V is longer than P and dS
    saved = wide.smem_bytes - replace(wide, schedule=replace(SCHEDULE, v_in_regs=True)).smem_bytes
    assert saved == 2 * 2 * 64 * 128
    assert DQ.smem_bytes == 2 * (64 + 2 * 64) * (64 + 64)
    assert DELTA.smem_bytes == CONVERT.smem_bytes == 0


def test_registers_and_shared_memory_bound_a_schedule():
    large = replace(BACKWARD, problem=replace(PROBLEM, head_dim=256, head_dim_v=256))
    assert {rule for rule, _ in reasons_against(large, reference_device(80))} == {"smem_fits", "registers_fit"}
    fat = replace(BACKWARD, schedule=replace(SCHEDULE, num_warps=2, warps_scores=2, warps_kv=2, warps_q=2))
    [(rule, reason)] = reasons_against(fat, reference_device(80))
    assert (
        rule == "registers_fit" and "dK 128, dV 128, scores and dP, or dQ 256, V 0" in reason and "slices" not in reason
    )
    held = replace(BACKWARD, schedule=replace(SCHEDULE, v_in_regs=True, warps_scores=1, block_m=16, warps_q=1))
    assert (
        least_registers(held) - least_registers(replace(held, schedule=replace(held.schedule, v_in_regs=False))) == 16
    )
    tall = replace(DQ, schedule=replace(DQ.schedule, block_m=128, num_warps=1))
    [(rule, reason)] = reasons_against(tall, reference_device(80))
    assert rule == "registers_fit" and "dQ 256, scores and dP 512" in reason


@pytest.mark.parametrize("sm", SUPPORTED_SMS)
def test_every_head_dim_has_legal_default_schedules_that_fit(sm):
    for head_dim, head_dim_v in itertools.product(range(8, 257, 8), range(8, 257, 40)):
        problem = ForwardProblem(dtype="fp16", head_dim=head_dim, head_dim_v=head_dim_v)
        for schedule in (default_backward_schedule(sm, problem), default_query_gradient_schedule(problem)):
            assert reasons_against(Variant(sm=sm, problem=problem, schedule=schedule), reference_device(sm)) == []


@pytest.mark.parametrize("variant", [BACKWARD, ODD, DQ, DELTA, CONVERT], ids=lambda v: v.name)
def test_emitted_code_is_the_golden_file_and_meant_to_be_read(variant, request):
    path, text = GOLDEN / f"{variant.name}.cu", render(variant)
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text(), "pytest --update-golden rewrites it"
    assert text.startswith(f"// {variant.name}\n// Generated from templates/{TEMPLATES[variant.operation][0]}.")
    assert "\n\n\n" not in text
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)
    assert "{%" not in text and "{{" not in text


@pytest.mark.parametrize("variant", [BACKWARD, DQ, DELTA, CONVERT], ids=lambda v: v.operation)
def test_every_schedule_field_changes_the_name_and_the_code(variant):
    changes = CHANGES[type(variant.schedule)]
    assert set(changes) == {field.name for field in fields(variant.schedule)}
    for field, other in changes.items():
        changed = replace(variant, schedule=replace(variant.schedule, **{field: other}))
        assert changed.name != variant.name
        assert body(render(changed)) != body(render(variant)), field


@pytest.mark.parametrize("variant", [BACKWARD, DQ], ids=lambda v: v.operation)
def test_every_problem_field_changes_the_name_and_the_code(variant):
    plain = replace(variant, problem=replace(PROBLEM, is_causal=False))
    changes = {"dtype": "fp16", "head_dim": 48, "head_dim_v": 48, **dict.fromkeys(FEATURES.values(), True)}
    assert set(changes) == set(asdict(PROBLEM))
    for field, other in changes.items():
        changed = replace(plain, problem=replace(plain.problem, **{field: other}))
        assert changed.name != plain.name
        assert body(render(changed)) != body(render(plain)), field


def test_the_layout_of_p_has_rows_of_keys():
    layouts = tile_layouts(ODD)
    assert {name: layout.row_chunks for name, layout in layouts.items()} == {"qk": 9, "v": 5, "p": 8}
    assert tile_layouts(DELTA) == {}


def test_an_updated_tensor_is_a_pointer_that_is_written():
    members = {one.name: one.ctype for one in struct_fields(bindings()["flash_bwd"])}
    assert members["dq_sum"] == "float*" and members["lse"] == "const float*" and members["dk"] == "char*"
    assert members["dbias"] == "float*" and members["block_lists"] == "const int*"


@pytest.mark.parametrize("variant", EVERY, ids=lambda v: v.operation)
def test_the_launcher_is_given_the_numbers_of_a_schedule_that_the_binding_names(variant):
    constants = kernel_constants(variant)
    names = {"flash_bwd": ["block_n"]}.get(variant.operation, ["block_m"])
    assert list(constants) == names and set(names) <= names_of(bindings()[variant.operation])


def test_a_table_has_the_bindings_of_its_kernels():
    forward = Variant(
        sm=80,
        problem=PROBLEM,
        schedule=ForwardSchedule(block_m=64, block_n=64, num_warps=4, num_stages=1, q_in_regs=False),
    )
    assert list(kernel_constants(forward)) == ["block_m", "num_slices", "pack_gqa", "persistent_blocks"]
    entries = {
        one.name: kernel_entry(one, registers=1, spill_bytes=0, files={}, source_digest="") for one in (forward, DQ)
    }
    assert [one["operation"] for one in entries.values()] == ["flash_fwd", "flash_bwd_dq"]
    assert list(table("some", entries, [])["operations"]) == ["flash_fwd", "flash_bwd_dq"]
