"""The table of static figures: the right loop is found and counted, in machine code and in PTX."""

from __future__ import annotations

import pytest
import static
from static import Instruction, collect, find_tool, markdown, per_score, steady_loop, virtual_code

from kernelwright.build.errors import ToolchainError
from kernelwright.gen.errors import KernelError
from kernelwright.gen.ladder import ladder
from kernelwright.gen.plan import mma_per_step
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

VARIANT = Variant(
    sm=80,
    problem=ForwardProblem(dtype="bf16", head_dim=64),
    schedule=ForwardSchedule(block_m=64, block_n=32, num_warps=4, num_stages=2, q_in_regs=False),
)


def code(*opcodes: str, back: dict[int, int]) -> list[Instruction]:
    return [Instruction(opcode=one, target=back.get(at)) for at, one in enumerate(opcodes)]


def test_the_shortest_innermost_loop_that_multiplies_is_the_steady_one():
    opcodes = ["MOV", "HMMA.16816", "FSEL", "MUFU.EX2", "BRA", "HMMA.16816", "MUFU.EX2", "BRA", "IADD3", "BRA", "BRA"]
    listing = code(*opcodes, back={4: 1, 7: 5, 9: 8, 10: 0})
    assert [one.opcode for one in steady_loop(listing)] == ["HMMA.16816", "MUFU.EX2", "BRA"]
    with pytest.raises(KernelError, match="no loop over key tiles"):
        steady_loop(code("IADD3", "BRA", back={1: 0}))


def test_instructions_are_counted_for_each_score_and_key_tile():
    scores, mma = 64 * 32 // 128, mma_per_step(VARIANT)
    loop = code(*["HMMA.16816"] * 2 * mma, *["MUFU.EX2"] * 2 * scores, *["FFMA"] * 4 * scores, *["IADD3"] * scores,
                back={})  # fmt: skip
    found = per_score(VARIANT, loop)
    assert found["tiles"] == 2 and found["special"] == 1 and found["float"] == 2 and found["other"] == 0.5
    assert found["mma"] == round(mma / scores, 3)


def test_ptx_is_read_with_its_labels_and_guards():
    text = """.visible .entry k(.param .b8 p[8]) {
    .reg .b32 %r<9>;
$L__BB0_1: // a loop
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f1};
    @%p1 ex2.approx.ftz.f32 %f2, %f1;
    @%p1 bra $L__BB0_1;
    ret;
}
"""
    found = virtual_code(text)
    assert [one.opcode.partition(".")[0] for one in found[-4:-1]] == ["mma", "ex2", "bra"]
    assert found[-2].target == found.index(next(one for one in found if one.opcode.startswith("mma")))


# The toolkit of a machine with nvcc need not have cuobjdump, and CI fails a skip of a test marked nvcc.
@pytest.mark.parametrize("has_tool", [pytest.param(False, marks=pytest.mark.nvcc), True])
def test_a_kernel_has_one_exponential_and_its_mma_for_each_score(tmp_path, monkeypatch, has_tool):
    if not has_tool:
        monkeypatch.setattr(static, "find_tool", lambda: None)
    elif find_tool() is None:
        pytest.skip("no cuobjdump: the wheel nvidia-cuda-cuobjdump")
    monkeypatch.setattr(static, "sample", lambda sm: [VARIANT])
    trained = ladder(80, VARIANT.problem, "flash_bwd")[-1].variant
    monkeypatch.setattr(static, "backward_sample", lambda sm: [trained])
    try:
        result = collect([], [80], tmp_path)
    except ToolchainError as error:  # only without the mark: nvcc is there where a test so marked runs
        pytest.skip(str(error))
    row, of_backward = result["rows"]
    assert of_backward["variant"] == trained.name and of_backward["per_score"] is None
    assert of_backward["spill_bytes"] == 0 and 0 < of_backward["cpu_seconds"] < 5
    assert f"`{trained.name}`" in markdown(result)
    assert result["code"] == ("machine code" if has_tool else "PTX")
    figures = row["per_score"]
    assert 1 <= figures["special"] < 1.2 and figures["mma"] == round(mma_per_step(VARIANT) / 16, 3)
    assert figures["all"] == pytest.approx(sum(figures[name] for name in (*static._CLASSES, "other")), abs=0.01)
    assert row["spill_bytes"] == 0 and row["registers"] <= 255
    assert f"`{VARIANT.name}`" in markdown(result) and "No kernel spills" in markdown(result)
