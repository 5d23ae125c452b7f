"""Values nobody wrote: copying them is legal, a use that matters is a finding."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from emulator_kernels import PTX, Flash, kernel, run

from kernelwright import emulator as emu

# %r90 is the thread, %rd90 its word of `out`, %p90 true in lanes 16 and on.
START = """
mov.u32 %r90, %tid.x;
ld.param.u64 %rd90, [out];
mul.wide.u32 %rd91, %r90, 4;
add.s64 %rd90, %rd90, %rd91;
setp.gt.u32 %p90, %r90, 15;
"""
STORE = "st.global.u32 [%rd90], {};\n"
HALF = "mov.b32 %r2, {%rs1, %rs2};\n"  # the lower half may be defined, the upper is not
ONLY_LOW_LANES = "@%p90 bra $past;\n{}\n$past:\n"


def collected(body: str, **launch: object) -> tuple[emu.Report, np.ndarray]:
    out = np.zeros(64, np.uint32)
    return run(kernel(START + body), [out], on_finding="collect", **launch), out  # type: ignore[arg-type]


def the_finding(body: str, **launch: object) -> emu.Finding:
    """The only finding of a kernel, about an undefined value."""
    report, _ = collected(body, **launch)
    (finding,) = [one for one in report.findings if one.kind == "undefined_value"]
    return finding


def defined(body: str) -> np.ndarray:
    """What a kernel stores that may see undefined values and uses none."""
    report, out = collected(body)
    assert report.tracks_undefined
    assert report.findings == []
    return out


@pytest.mark.parametrize(
    ("use", "register", "purpose"),
    [
        ("setp.eq.u32 %p1, %r1, 3;\n@%p1 bra $end;\n$end:", "%p1", "decides this branch"),
        ("setp.eq.u32 %p1, %r1, 3;\n@%p1 exit;", "%p1", "decides whether the thread exits"),
        ("setp.eq.u32 %p1, %r1, 3;\n@%p1 st.global.u32 [%rd90], 1;", "%p1", "decides whether this instruction"),
        ("setp.eq.u32 %p1, %r1, 3;\n@!%p1 ld.global.u32 %r2, [%rd90];", "%p1", "decides whether this instruction"),
        ("cvt.u64.u32 %rd1, %r1;\nadd.s64 %rd2, %rd90, %rd1;\nst.global.u32 [%rd2], 1;", "%rd2", "is the address"),
        ("cvt.u64.u32 %rd1, %r1;\nadd.s64 %rd2, %rd90, %rd1;\nld.global.u32 %r2, [%rd2];", "%rd2", "is the address"),
        ("st.global.u32 [%rd90], %r1;", "%r1", "is stored"),
        ("st.global.v2.u32 [%rd92], {%r90, %r1};", "%r1", "is stored"),
        ("st.shared.u32 [tile], %r1;", "%r1", "is stored"),
        ("atom.global.add.u32 %r2, [%rd90], %r1;", "%r1", "is stored"),
        ("red.global.max.u32 [%rd90], %r1;", "%r1", "is stored"),
        ("cp.async.ca.shared.global [tile], [%rd90], 4, %r1;", "%r1", "is an operand"),
        ("add.cc.u32 %r2, %r1, 1;\naddc.u32 %r3, 0, 0;", "%r1", "is an operand"),
        ("bar.sync 0, %r1;", "%r1", "names the barrier"),
        ("shfl.sync.idx.b32 %r2, %r90, %r1, 31, -1;", "%r1", "says which thread"),
        ("vote.sync.ballot.b32 %r2, %p2, -1;", "%p2", "is read by other threads"),
        ("redux.sync.add.u32 %r2, %r1, -1;", "%r1", "is read by other threads"),
        ("match.any.sync.b32 %r2, %r1, -1;", "%r1", "is read by other threads"),
        ("barrier.sync 0, 32;\nbar.red.popc.u32 %r2, 0, %p2;", "%p2", "is read by other threads"),
    ],
)
def test_a_use_that_matters_is_a_finding_with_its_register(use, register, purpose):
    some_lanes = ONLY_LOW_LANES.format("mov.u32 %r1, 32;\nsetp.eq.u32 %p2, %r90, 1;\nsetp.eq.u32 %p3, %r90, 1;")
    start = ".shared .align 16 .b8 tile[64];\nand.b64 %rd92, %rd90, -16;\n" + some_lanes
    found = the_finding(start + use)
    assert found.lane == 16
    assert found.text.startswith(f"{register} {purpose}")


@pytest.mark.parametrize("operand", ["a", "b", "c"])
def test_every_operand_of_a_matrix_product_is_read(operand):
    names = {name: ("%f9" if name == "c" else "%r9") if name == operand else "" for name in "abc"}
    a, b, c = names["a"] or "%r1", names["b"] or "%r1", names["c"] or "%f1"
    found = the_finding(
        "mov.u32 %r1, 0;\nmov.f32 %f1, 0f00000000;\n"
        + ONLY_LOW_LANES.format("mov.u32 %r9, 0;\nmov.f32 %f9, 0f00000000;")
        + "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f5,%f6,%f7,%f8}, "
        + f"{{%r1,{a}}}, {{{b}}}, {{%f1,%f1,%f1,{c}}};"
    )
    assert (found.lane, found.text.split()[0]) == (16, names[operand])


def test_a_finding_names_the_line_that_would_have_written_the_register():
    found = the_finding(ONLY_LOW_LANES.format("mov.u32 %r1, 3;") + "add.u32 %r2, %r1, 1;\n" + STORE.format("%r2"))
    assert "it comes from %r1, which the thread has not written" in found.text
    assert "`mov.u32 %r1, 3`" in found.text
    text = kernel(START + ONLY_LOW_LANES.format("mov.u32 %r1, 3;") + "add.u32 %r2, %r1, 1;\n" + STORE.format("%r2"))
    assert text.split("\n")[found.ptx_line - 1].startswith("st.global.u32 [%rd90], %r2")


def test_a_register_that_nothing_writes_is_said_to_be_so():
    assert "no instruction does" in the_finding(STORE.format("%r7")).text


def test_a_finding_is_not_repeated_by_later_uses_of_the_same_register():
    report, _ = collected(STORE.format("%r7") + STORE.format("%r7"))
    assert len(report.findings) == 1


def test_the_first_finding_ends_the_launch_by_default():
    with pytest.raises(emu.EmulatorError, match=r"undefined_value in kernel k at PTX line .*%r7 is stored here"):
        run(kernel(START + STORE.format("%r7")), [np.zeros(64, np.uint32)])


def test_without_the_check_nothing_is_tracked():
    report, _ = collected(STORE.format("%r7"), checks=("memory", "race"))
    assert report.findings == []
    assert not report.tracks_undefined


@pytest.mark.parametrize(
    "body",
    [
        "mov.u32 %r2, %r1;\nadd.u32 %r3, %r2, 1;\nmul.wide.u32 %rd1, %r3, 8;",
        "setp.eq.u32 %p1, %r1, 3;\n@%p1 mov.u32 %r4, 1;",
        "mov.b64 %rd1, {%r1, %r90};\nmov.b64 {%r3, %r4}, %rd1;\n" + STORE.format("%r4"),
        HALF + "mov.b32 {%rs3, %rs4}, %r2;\nst.global.u16 [%rd90], %rs3;",
        "mov.b64 %rd1, {%rs1, %rs2, %rs2, %rs1};\nmov.b64 {%rs3, %rs4, %rs5, %rs6}, %rd1;\n"
        "st.global.v2.u16 [%rd90], {%rs3, %rs6};",
        HALF + "st.global.u16 [%rd90], %r2;",
        HALF + "and.b32 %r3, %r2, 0xff00;\n" + STORE.format("%r3"),
        "or.b32 %r3, %r1, -1;\n" + STORE.format("%r3"),
        "lop3.b32 %r3, %r1, %r90, 0, 0x30;\nlop3.b32 %r4, %r3, %r90, %r90, 0x0c;\n" + STORE.format("%r4"),
        HALF + "shl.b32 %r3, %r2, 16;\n" + STORE.format("%r3"),
        "mov.b32 %r2, {%rs2, %rs1};\nshr.u32 %r3, %r2, 16;\n" + STORE.format("%r3"),
        HALF + "shf.l.wrap.b32 %r3, %r90, %r2, 16;\nand.b32 %r3, %r3, 0xffff0000;\n" + STORE.format("%r3"),
        HALF + "prmt.b32 %r3, %r2, %r90, 0x5410;\n" + STORE.format("%r3"),
        "mov.b32 %r2, {%rs2, %rs1};\nprmt.b32 %r3, %r2, 0, 0xbb32;\n" + STORE.format("%r3"),
        "bfi.b32 %r3, %r90, %r1, 0, 8;\nbfe.u32 %r4, %r3, 0, 8;\n" + STORE.format("%r4"),
        HALF + "bfe.s32 %r4, %r2, 4, 12;\n" + STORE.format("%r4"),
        HALF + "brev.b32 %r3, %r2;\nshr.u32 %r3, %r3, 16;\n" + STORE.format("%r3"),
        HALF + "cvt.u16.u32 %rs3, %r2;\ncvt.s32.s16 %r3, %rs3;\n" + STORE.format("%r3"),
        HALF + "add.u32 %r3, %r2, %r90;\nst.global.u16 [%rd90], %r3;",
        HALF + "add.f16x2 %r3, %r2, %r2;\nmov.b32 {%rs3, %rs4}, %r3;\nst.global.u16 [%rd90], %rs3;",
        "mov.f32 %f2, 0f3f800000;\ncvt.rn.f16x2.f32 %r3, %f1, %f2;\nst.global.u16 [%rd90], %r3;",
        "selp.b32 %r3, %r1, %r90, %p91;\n" + STORE.format("%r3"),
        "setp.eq.u32 %p1, %r1, 3;\nselp.b32 %r3, 5, 5, %p1;\n" + STORE.format("%r3"),
        "slct.b32.s32 %r3, %r90, %r1, %r90;\n" + STORE.format("%r3"),
        "xor.b32 %r3, %r1, %r1;\nsub.u32 %r4, %r2, %r2;\nadd.u32 %r3, %r3, %r4;\n" + STORE.format("%r3"),
        HALF + "setp.ne.u32 %p1, %r2, 8;\n@%p1 bra $end;\nst.global.u32 [%rd90], 1;\n$end:",
        "setp.eq.u32 %p1, %r1, 3;\nand.pred %p2, %p1, %p91;\n@%p2 bra $end;\n$end:",
        "setp.eq.and.u32 %p2, %r1, 3, %p91;\n@%p2 bra $end;\n$end:",
        "setp.eq.u32 %p1, %r1, 3;\nsetp.ge.or.u32 %p2|%p3, %r90, 0, %p1;\n@!%p2 bra $end;\n$end:",
        "shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;",
        "@!%p90 mov.u32 %r3, 7;\nshfl.sync.idx.b32 %r4, %r3, 2, 31, -1;\n" + STORE.format("%r4"),
        "@!%p90 mov.u32 %r3, 7;\n@%p90 mov.u32 %r3, 8;\n" + STORE.format("%r3"),
        "@!%p90 setp.eq.u32 %p3, %r90, 1;\n@%p90 setp.eq.u32 %p3, %r90, 2;\n@%p3 st.global.u32 [%rd90], 1;",
        "movmatrix.sync.aligned.m8n8.trans.b16 %r3, %r1;",
        "cvta.global.u64 %rd1, %rd2;\nneg.f32 %f2, %f1;\nmul.f32 %f3, %f2, %f1;\npopc.b32 %r3, %r1;",
    ],
)  # fmt: skip
def test_moving_an_undefined_value_around_is_no_finding(body):
    defined("mov.u16 %rs1, 4;\nsetp.gt.u32 %p91, %r90, 99;\n" + body)


@pytest.mark.parametrize(
    "body",
    [
        HALF + STORE.format("%r2"),
        "mov.b32 %r2, {%rs2, %rs1};\nst.global.u16 [%rd90], %r2;",
        HALF + "and.b32 %r3, %r2, 0x1ffff;\n" + STORE.format("%r3"),
        "and.b32 %r3, %r1, %r90;\n" + STORE.format("%r3"),
        HALF + "shl.b32 %r3, %r2, 15;\n" + STORE.format("%r3"),
        "shl.b32 %r3, %r90, %r1;\n" + STORE.format("%r3"),
        HALF + "shr.s32 %r3, %r2, 16;\n" + STORE.format("%r3"),
        HALF + "prmt.b32 %r3, %r2, 0, 0x4420;\n" + STORE.format("%r3"),
        "prmt.b32 %r3, %r90, %r90, %r1;\n" + STORE.format("%r3"),
        "bfi.b32 %r3, %r90, %r1, 0, 8;\nbfe.u32 %r4, %r3, 0, 9;\n" + STORE.format("%r4"),
        HALF + "bfe.s32 %r4, %r2, 4, 13;\n" + STORE.format("%r4"),
        HALF + "add.u32 %r3, %r2, %r90;\n" + STORE.format("%r3"),
        "mov.b32 %r2, {%rs2, %rs1};\nadd.u32 %r3, %r2, %r90;\nshr.u32 %r3, %r3, 16;\n" + STORE.format("%r3"),
        HALF + "fma.rn.f16x2 %r3, %r2, %r2, %r2;\nmov.b32 {%rs3, %rs4}, %r3;\nst.global.u16 [%rd90], %rs4;",
        "mov.f32 %f2, 0f3f800000;\ncvt.rn.f16x2.f32 %r3, %f2, %f1;\nst.global.u16 [%rd90], %r3;",
        "selp.b32 %r3, %r1, %r90, %p92;\n" + STORE.format("%r3"),
        "setp.eq.u32 %p1, %r1, 3;\nselp.b32 %r3, 5, 4, %p1;\n" + STORE.format("%r3"),
        "slct.b32.s32 %r3, %r1, %r90, %r90;\n" + STORE.format("%r3"),
        HALF + "setp.ne.u32 %p1, %r2, 4;\n@%p1 bra $end;\nst.global.u32 [%rd90], 1;\n$end:",
        "setp.eq.u32 %p1, %r1, 3;\nand.pred %p2, %p1, %p92;\n@%p2 bra $end;\n$end:",
        "setp.eq.and.u32 %p2, %r1, 3, %p92;\n@%p2 bra $end;\n$end:",
        "setp.eq.or.u32 %p2|%p3, %r1, 3, %p91;\n@%p3 bra $end;\n$end:",
        "set.eq.u32.u32 %r2, %r1, 3;\n" + STORE.format("%r2"),
        "shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;\n" + STORE.format("%r2"),
        "movmatrix.sync.aligned.m8n8.trans.b16 %r3, %r1;\n" + STORE.format("%r3"),
        "setp.eq.u32 %p1, %r1, 3;\nmov.u32 %r4, 0;\n@%p1 mov.u32 %r4, 1;\n" + STORE.format("%r4"),
        "mul.f32 %f3, %f1, %f1;\n st.global.f32 [%rd90], %f3;",
        "cvt.s64.s32 %rd1, %r1;\nadd.s64 %rd2, %rd1, %rd90;\nld.global.u32 %r2, [%rd2];",
        "mov.pred %p1, %p5;\nnot.pred %p2, %p1;\n@%p2 trap;",
    ],
)  # fmt: skip
def test_undefined_bits_survive_all_that_does_not_overwrite_them(body):
    start = "mov.u16 %rs1, 4;\nsetp.gt.u32 %p91, %r90, 99;\nsetp.le.u32 %p92, %r90, 99;\n"
    assert the_finding(start + body).kind == "undefined_value"


def test_a_value_defined_in_some_lanes_only_is_undefined_in_the_others_after_a_loop():
    loop = (
        "mov.u32 %r2, 0;\n$loop:\nadd.u32 %r1, %r1, %r2;\nadd.u32 %r2, %r2, 1;\n"
        "setp.lt.u32 %p1, %r2, 10;\n@%p1 bra $loop;\n" + STORE.format("%r1")
    )
    found = the_finding(ONLY_LOW_LANES.format("mov.u32 %r1, 0;") + loop)
    assert (found.lane, "%r1 is stored here" in found.text) == (16, True)
    assert (
        defined("@%p90 bra $past;\nmov.u32 %r1, 0;\n$past:\n@!%p90 mov.u32 %r3, 1;\n@%p90 mov.u32 %r1, 2;\n" + loop)[
            :32
        ]
        >= 45
    ).all()


def test_a_register_does_not_inherit_what_shared_its_place_in_the_register_file():
    """%r2 to %r9 live and die before %r50 is read; the place is another one, or the state would be of theirs."""
    chain = "".join(f"add.u32 %r{n}, %r{n - 1}, %r90;\n" for n in range(3, 10))
    body = "mov.u32 %r2, %r90;\n" + chain + STORE.format("%r9") + chain + STORE.format("%r9")
    found = the_finding(body + STORE.format("%r50"))
    assert found.text.startswith("%r50 ")


def test_every_block_starts_with_undefined_registers():
    body = (
        "mov.u32 %r93, %ctaid.x;\nsetp.eq.u32 %p1, %r93, 0;\n@!%p1 bra $past;\nmov.u32 %r1, 3;\n$past:\n"
        + STORE.format("%r1")
    )
    assert the_finding(body, grid=2).block == (1, 0, 0)


def test_counters_are_the_same_with_and_without_tracking():
    body = (
        "mov.f32 %f2, 0f3f800000;\n@%p90 mul.f32 %f3, %f2, %f1;\n"
        "add.f32 %f4, %f2, %f1;\n@!%p90 ex2.approx.f32 %f5, %f1;\n"
    )
    with_check, _ = collected(body)
    without, _ = collected(body, checks=("memory",))
    assert with_check.tracks_undefined
    assert with_check.counters == without.counters
    assert with_check.counters["mufu"] == 16
    assert with_check.fidelity == without.fidelity


LOCAL = ".local .align 8 .b8 depot[32];\nmov.u64 %rd1, depot;\ncvta.local.u64 %rd2, %rd1;\n"


@pytest.mark.parametrize(
    "body",
    [
        "st.local.u32 [depot+4], %r90;\nld.local.v2.u32 {%r1, %r2}, [depot];\n" + STORE.format("%r2"),
        "st.u16 [%rd2+8], %r90;\nld.u32 %r4, [%rd2+8];\nand.b32 %r4, %r4, 0xffff;\n" + STORE.format("%r4"),
        "st.local.u8 [depot], %r90;\nld.local.s8 %r4, [depot];\n" + STORE.format("%r4"),
        "st.local.u64 [depot], %rd90;\nld.local.u64 %rd3, [depot];\nst.global.u32 [%rd3], 1;",
        "ld.local.u32 %r4, [depot+12];\nst.local.u32 [depot+16], %r4;",
        "st.local.u32 [depot], %r1;\nst.local.u32 [depot], %r90;\nld.local.u32 %r4, [depot];\n" + STORE.format("%r4"),
        "ld.u32 %r4, [%rd90];\n" + STORE.format("%r4"),
    ],
)
def test_local_memory_that_was_written_is_defined(body):
    defined(LOCAL + body)


@pytest.mark.parametrize(
    "body",
    [
        "st.local.u32 [depot+4], %r90;\nld.local.v2.u32 {%r1, %r2}, [depot];\n" + STORE.format("%r1"),
        "st.u16 [%rd2+8], %r90;\nld.u32 %r4, [%rd2+8];\n" + STORE.format("%r4"),
        "st.local.u8 [depot], %r90;\nld.local.s16 %r4, [depot];\n" + STORE.format("%r4"),
        "st.local.u32 [depot], %r90;\nst.local.u16 [depot+2], %rs1;\n"
        "ld.local.u32 %r4, [depot];\n" + STORE.format("%r4"),
        "ld.local.u32 %r4, [depot+12];\nst.u32 [%rd2+16], %r4;\nld.local.u32 %r5, [depot+16];\n" + STORE.format("%r5"),
    ],
)  # fmt: skip
def test_local_memory_read_before_it_is_written_is_undefined(body):
    found = the_finding(LOCAL + body)
    assert "local memory" in found.text
    assert "`ld." in found.text


def test_a_generic_store_of_an_undefined_value_matters_where_it_is_not_local():
    body = LOCAL + "selp.b64 %rd3, %rd2, %rd90, %p90;\nst.u32 [%rd3], %r1;\nld.local.u32 %r2, [depot];"
    assert the_finding(body).lane == 0


@pytest.mark.parametrize("name", ["flash_fwd", "flash_fwd_no_swizzle"])
def test_fragments_loaded_in_the_first_round_of_a_loop_are_no_finding(name):
    problem = Flash(1, 2, 1, 100, 130)
    report = problem.launch(emu.load(PTX / f"{name}.ptx"), on_finding="collect")
    assert report.tracks_undefined  # `if (tile == 0)` is not proof that a path does not exist
    assert report.findings == []


def test_no_array_of_the_flash_kernel_may_go_without_its_first_load():
    """The same kernel with the fragments' first load left out of one path: what was tracked above is found here."""
    text = (PTX / "flash_fwd.ptx").read_text()
    load = next(line for line in text.split("\n") if "ldmatrix" in line and "%r1026}" in line)
    problem = Flash(1, 1, 1, 64, 64)
    report = problem.launch(emu.load(text.replace(load, "")), on_finding="collect")
    found = [one for one in report.findings if one.kind == "undefined_value"]
    assert found
    assert all("matrix product" in one.text for one in found)
    assert all(one.cuda_line > 0 for one in found)


CUDA = """
#include <cuda_fp16.h>
extern "C" __global__ void k(unsigned* out) {
    const unsigned t = threadIdx.x;
    %s
}
"""


@pytest.fixture
def compiled(tmp_path):
    def compile_body(body: str) -> emu.Module:
        source, ptx = tmp_path / "k.cu", tmp_path / "k.ptx"
        source.write_text(CUDA % body)
        command = ["nvcc", "-ptx", "-w", "-arch=sm_80", "-lineinfo", "-o", str(ptx), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        return emu.load(ptx)

    assert shutil.which("nvcc")
    return compile_body


def launched(module: emu.Module) -> emu.Report:
    return module.launch("k", grid=(1,), block=(64,), args=[np.zeros(64, np.uint32)], on_finding="collect")


@pytest.mark.nvcc
@pytest.mark.parametrize(
    "body",
    [
        # an output that the assembly leaves alone in some threads
        'unsigned x; asm volatile("{ .reg .pred p; setp.gt.u32 p, %1, 40; @p mov.u32 %0, 7; }" : "=r"(x) : "r"(t));\n'
        "out[t] = x;",
        "unsigned part[8]; for (unsigned n = 0; n < t; ++n) part[n & 7] = n;\nout[t] = part[t & 7];",
        'float c[4]; unsigned a = 0;\nasm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, '
        '{%4,%4}, {%4}, {%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a));\n'
        "out[t] = (unsigned)c[0];",
    ],
)  # fmt: skip
def test_an_uninitialised_variable_of_cuda_code_is_found(compiled, body):
    report = launched(compiled(body))
    assert {one.kind for one in report.findings} == {"undefined_value"}
    assert all(one.cuda_file.endswith("k.cu") and one.cuda_line >= 5 for one in report.findings)


@pytest.mark.nvcc
@pytest.mark.parametrize(
    "body",
    [
        # set in some threads, used in these
        "unsigned x; if (t > 40) x = out[t] + 1;\nfor (int n = 0; n < 3; ++n) __syncwarp();\nif (t > 40) out[t] = x;",
        # only one half of a pair is used
        "__half2 h; h.x = __float2half((float)t); __half2 g = __hadd2(h, h);\n"
        "out[t] = __half2ushort_rz(__low2half(g));",
        # written before it is read, in an array that stays in local memory
        "unsigned part[16]; for (unsigned n = 0; n < 16; ++n) part[(n * 7 + t) & 15] = n;\nout[t] = part[t & 15];",
        # asm that reads and writes what nobody wrote, of which nothing is used
        'unsigned x; asm volatile("add.u32 %0, %0, 1;" : "+r"(x));\nout[t] = x & 0u;',
        # a structure copied whole through a local array
        "struct S { unsigned a; unsigned char b; }; S s[4];\n"
        "for (unsigned n = 0; n < 4; ++n) s[n] = S{n, (unsigned char)t};\n"
        "const S one = s[t & 3]; out[t] = one.a + one.b;",
        # `&&` in one test
        "unsigned x; const bool have = out[t] > 3; if (have) x = out[t ^ 1];\nif (have && x > 2) out[t] = 1;",
    ],
)  # fmt: skip
def test_what_nvcc_makes_of_correct_code_is_no_finding(compiled, body):
    assert launched(compiled(body)).findings == []
