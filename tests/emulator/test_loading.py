"""Reading PTX: what is accepted, what is refused and how, and that nothing crashes."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_kernels import HEADER, PTX, kernel, run

from kernelwright import emulator as emu


@pytest.mark.parametrize(
    "line",
    ["frobnicate.b32 %r1, %r2;", "add.s33 %r1, %r2, %r3;", "add.rna.f32 %f1, %f2, %f3;", "cvt.rm.f32.f16 %f1, %rs2;",
     "ld.global.v3.u32 {%r1, %r2, %r3}, [%rd1];", "wgmma.fence.sync.aligned;", "call foo;",
     "cp.async.bulk.commit_group;", "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd1}, {%rd2}, {%rd3}, {%rd4};"],
)  # fmt: skip
def test_an_unknown_instruction_is_an_error_that_names_it_and_its_line(line):
    text = kernel("\n\n" + line)
    number = text.splitlines().index(line) + 1
    with pytest.raises(emu.EmulatorError) as caught:
        emu.load(text)
    assert f"line {number}:" in str(caught.value)
    assert line.split(maxsplit=1)[0].rstrip(";") in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("bra $nowhere;", "label"),
        ("add.s32 %r1, %r2;", "operands"),
        ("add.s32 %rd1, %rd2, %rd3;", "type of register"),
        ("ld.global.u64 %r1, [%rd1];", "type of register"),
        ("add.s32 %r1, %r2, %r100;", "r100"),
        ("mov.u32 %r1, nothing;", "nothing"),
        ("mov.u32 %r1, %nosuch;", "nosuch"),
        ("mov.u32 %r1, 0f12;", "number"),
        ("@%r1 add.s32 %r1, %r2, %r3;", "predicate"),
        ("ld.global.u32 %r1, %rd1;", "brackets"),
        ("add.s32 5, %r1, %r2;", "destination"),
        ("setp.eq.s32 1, %r1, %r2;", "destination"),
        ("not.pred !%p1, %p2;", "destination"),
        ("mov.u32 %r1, 0x10000000000000000;", "64 bits"),
        ("cvt..f32 %r1, %f1;", "cvt..f32"),
        ("bar.warp.sync;", "member mask"),
        ("$a:\n$a:\n", "twice"),
        ("cp.async.cg.shared.global [%r1], [%rd1], 8;", "16 bytes"),
    ],
)
def test_malformed_text_is_an_error_that_says_what(body, message):
    with pytest.raises(emu.EmulatorError, match=message):
        emu.load(kernel(body))


@pytest.mark.parametrize("name", ["flash_fwd.ptx", "flash_fwd_no_swizzle.ptx"])
def test_truncated_text_never_crashes(name):
    text = (PTX / name).read_text()
    start = text.index(".version")
    body = text.index("ret;")
    for end in [
        *range(start, start + 1500),
        *range(start + 1500, len(text), 211),
        *range(body, min(body + 200, len(text))),
    ]:
        cut = text[:end]
        try:
            emu.load(cut + "\n")
        except emu.EmulatorError as error:
            assert "line" in str(error)


def test_scopes_of_inline_assembly_have_registers_and_labels_of_their_own():
    block = (
        "{{\n.reg .b32 t;\n.reg .pred p, q;\nmov.b32 t, {value};\nsetp.eq.s32 p|q, t, {value};\n@p bra DONE;\n"
        "mov.b32 t, 99;\nDONE:\nadd.s32 %r1, %r1, t;\n}}\n"
    )
    body = (
        "mov.u32 %r1, 0; ld.param.u64 %rd1, [out];\n"
        + block.format(value=5)
        + block.format(value=7)
        + "st.global.u32 [%rd1], %r1;"
    )
    out = np.zeros(1, np.uint32)
    run(kernel(body), [out], block=1)
    assert out[0] == 12


def test_parameters_are_read_by_name_by_offset_and_through_their_address():
    text = (
        HEADER + ".visible .entry k(.param .u64 out, .param .align 8 .b8 s[24], .param .f32 f)\n{\n"
        ".reg .b64 %rd<9>;\n.reg .b32 %r<9>;\n"
        "ld.param.u64 %rd1, [out];\nmov.b64 %rd2, s;\nadd.s64 %rd3, %rd2, 4;\nld.param.v2.u32 {%r1, %r2}, [s+8];\n"
        "ld.param.u32 %r3, [%rd3+-4];\nld.param.f32 %r4, [f];\nst.global.v4.b32 [%rd1], {%r1, %r2, %r3, %r4};"
        "\nret;\n}\n"
    )
    out = np.zeros(4, np.uint32)
    run(text, [out, np.arange(6, dtype=np.uint32).tobytes(), np.float32(1)], block=1)
    assert out.tolist() == [2, 3, 0, 0x3F800000]


def test_global_const_and_static_shared_variables():
    before = (
        ".const .align 4 .u32 table[4] = {10, 20, 30, 40};\n.global .align 4 .u32 counter;\n"
        ".shared .align 4 .u32 cell;\n.extern .shared .align 16 .b8 dynamic[];"
    )
    body = (
        "mov.u32 %r1, %tid.x; mov.u64 %rd2, table; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd2, %rd2, %rd3; "
        "ld.const.u32 %r2, [%rd2];"
        "atom.global.add.u32 %r3, [counter], %r2; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [cell], 5; "
        "bar.warp.sync -1;"
        "red.shared.add.u32 [cell], 1; bar.warp.sync -1; ld.shared.u32 %r4, [cell]; mov.u32 %r5, dynamic;"
        "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd3, %r1, 16; add.s64 %rd1, %rd1, %rd3;"
        "st.global.v4.u32 [%rd1], {%r2, %r3, %r4, %r5};"
    )
    out = np.zeros((4, 4), np.uint32)
    report = run(kernel(body, before=before), [out], block=4, shared_bytes=64)
    assert out.tolist() == [[10, 0, 9, 16], [20, 10, 9, 16], [30, 30, 9, 16], [40, 60, 9, 16]]
    assert report.counters["atomics"] == 8


def test_local_memory_and_generic_addresses():
    body = (
        ".local .align 8 .b8 depot[16];\nmov.u32 %r1, %tid.x; mov.b64 %rd2, depot; cvta.local.u64 %rd3, %rd2; "
        "st.local.u32 [depot+4], %r1;"
        "ld.u32 %r2, [%rd3+4]; mov.u32 %r3, cell; cvt.u64.u32 %rd4, %r3; cvta.shared.u64 %rd5, %rd4; "
        "shl.b32 %r6, %r1, 2; cvt.u64.u32 %rd6, %r6;"
        "add.s64 %rd5, %rd5, %rd6; st.u32 [%rd5], %r2; add.u32 %r3, %r3, %r6; ld.shared.u32 %r4, [%r3];"
        "cvta.to.shared.u64 %rd7, %rd5; cvt.u32.u64 %r5, %rd7; sub.u32 %r5, %r5, %r3;"
        "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd8, %r1, 8; add.s64 %rd1, %rd1, %rd8; "
        "st.global.v2.u32 [%rd1], {%r4, %r5};"
    )
    out = np.ones((32, 2), np.uint32)
    run(kernel(body, before=".shared .align 4 .b8 cell[128];"), [out])
    assert np.array_equal(out[:, 0], np.arange(32))
    assert not out[:, 1].any()


@pytest.mark.parametrize(("op", "want"), [("and", 0), ("or", 1), ("popc", 40)])
def test_barriers_that_reduce(op, want):
    result = "%r5" if op == "popc" else "%p2"
    body = (
        f"mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 40; "
        f"barrier.cta.red.{op}.aligned.{'u32' if op == 'popc' else 'pred'} {result}, 0, %p1;"
        + ("" if op == "popc" else "selp.u32 %r5, 1, 0, %p2;")
        + "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd1, %rd1, %rd3; st.global.u32 [%rd1], %r5;"
    )
    out = np.full(64, 77, np.uint32)
    run(kernel(body), [out], block=64)
    assert np.array_equal(out, np.full(64, want))


@pytest.mark.parametrize("kind", ["u32", "s32", "f32", "u64"])
@pytest.mark.parametrize("space", ["global", "shared"])
def test_atomic_addition_returns_the_old_value(kind, space):
    dtype = np.dtype({"u32": np.uint32, "s32": np.int32, "f32": np.float32, "u64": np.uint64}[kind])
    reg, size = ("%rd", 8) if dtype.itemsize == 8 else ("%r", 4)
    one = "0f3F800000" if kind == "f32" else "1"
    cell = "[%rd1]" if space == "global" else "[cell]"
    body = (
        "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; setp.eq.u32 %p1, %r1, 0;"
        f"@%p1 st.shared.b{size * 8} [cell], 0; bar.sync 0; atom.{space}.add.{kind} {reg}5, {cell}, {one};"
        f"mul.wide.u32 %rd3, %r1, {size}; add.s64 %rd3, %rd1, %rd3; st.global.b{size * 8} [%rd3+{size}], {reg}5;"
    )
    out = np.zeros(33, dtype)
    run(kernel(body, before=".shared .align 8 .b8 cell[8];"), [out])
    assert sorted(out[1:].tolist()) == list(range(32))
    assert out[0] == (32 if space == "global" else 0)


def test_a_loop_whose_lanes_leave_at_different_times_reconverges():
    body = (
        "mov.u32 %r1, %tid.x; mov.u32 %r2, 0; mov.u32 %r3, 0;\n$loop:\nadd.u32 %r2, %r2, %r3; add.u32 %r3, %r3, 1;"
        "setp.le.u32 %p1, %r3, %r1; @%p1 bra $loop;\nshfl.sync.bfly.b32 %r4, %r2, 1, 31, -1;"
        "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd3, %r1, 8; add.s64 %rd1, %rd1, %rd3; "
        "st.global.v2.u32 [%rd1], {%r2, %r4};"
    )
    out = np.zeros((32, 2), np.uint32)
    run(kernel(body), [out])
    sums = np.arange(32) * (np.arange(32) + 1) // 2
    assert np.array_equal(out[:, 0], sums)
    assert np.array_equal(out[:, 1], sums[np.arange(32) ^ 1])
