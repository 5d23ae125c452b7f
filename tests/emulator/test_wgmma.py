"""wgmma: products of every type and layout, and what must come before and after them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from emulator_kernels import aligned
from second_opinion.hopper_layouts import DEPTH, Tile, a_places, bits_of, d_places

from kernelwright import emulator as emu

SEEDS = range(4)
THREADS, SMEM, B_AT = 128, 65536, 16384


@pytest.fixture(autouse=True)
def hopper() -> Iterator[None]:
    emu.configure(sm=90, smem_optin=232448)
    yield
    emu.configure(sm=80, smem_optin=166912)


# ------------------------------------------------------------------------------------------ running one


def module(line: str, registers: int, *, sm: str = "sm_90a", extra: str = "") -> str:
    """`line` names accumulators %d0.., %a0.. to %a3 (A), %rd10 and %rd11 (descriptors) and %p1 (scale-d)."""
    loads = "".join(f"ld.global.b32 %d{n}, [%rd6+{4 * n}];\n" for n in range(registers))
    stores = "".join(f"st.global.b32 [%rd6+{4 * n}], %d{n};\n" for n in range(registers))
    return (
        f".version 8.6\n.target {sm}\n.address_size 64\n.shared .align 1024 .b8 smem[{SMEM}];\n"
        ".visible .entry k(.param .u64 image, .param .u64 sums, .param .u64 a, .param .u64 descriptors, .param "
        ".u32 scale) {\n"
        f".reg .pred %p<9>; .reg .b32 %r<40>, %d<{registers}>, %a<8>; .reg .b64 %rd<20>;\n"
        "mov.u32 %r1, %tid.x; mov.u32 %r2, smem; ld.param.u64 %rd1, [image]; ld.param.u64 %rd2, [sums];\n"
        "ld.param.u64 %rd3, [a]; ld.param.u64 %rd4, [descriptors]; ld.param.u32 %r3, [scale]; "
        "setp.ne.u32 %p1, %r3, 0;\n"
        "shl.b32 %r4, %r1, 4; mov.u32 %r5, 0;\n$fill:\nadd.s32 %r6, %r4, %r2; cvt.u64.u32 %rd5, %r4; "
        "add.s64 %rd5, %rd1, %rd5;\n"
        "ld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%rd5]; st.shared.v4.u32 [%r6], {%r10, %r11, %r12, %r13};\n"
        f"add.s32 %r4, %r4, {16 * THREADS}; setp.lt.u32 %p2, %r4, {SMEM};\n@%p2 bra $fill;\n"
        f"mul.wide.u32 %rd6, %r1, {4 * registers}; add.s64 %rd6, %rd2, %rd6;\n{loads}"
        "mul.wide.u32 %rd7, %r1, 16; add.s64 %rd7, %rd3, %rd7; ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%rd7];\n"
        "ld.global.u64 %rd10, [%rd4]; ld.global.u64 %rd11, [%rd4+8]; cvt.u64.u32 %rd8, %r2; shr.u64 %rd8, %rd8, 4;\n"
        "add.s64 %rd10, %rd10, %rd8; add.s64 %rd11, %rd11, %rd8;\n"
        f"{extra}fence.proxy.async;\nbar.sync 0;\nwgmma.fence.sync.aligned;\n{line}\n"
        f"wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n{stores}ret;\n}}\n"
    )


def multiply(
    kind: str, columns: int, *, a: Tile | None, b: Tile, b_kind: str = "", sum_kind: str = "f32", scale: int = 1,
    signs: tuple[int, int] = (1, 1), tail: str = "", seed: int = 0,
) -> None:  # fmt: skip
    """Run one product of random whole numbers and compare it with numpy's."""
    rng = np.random.default_rng(columns)
    depth, b_kind = DEPTH[kind], b_kind or kind
    low = 0 if kind == "u8" else -3
    left, right = rng.integers(low, 4, (64, depth)), rng.integers(0 if b_kind == "u8" else -3, 4, (columns, depth))
    image = aligned((SMEM,), np.uint8)
    image[:] = rng.integers(0, 256, SMEM)
    b.put(image, bits_of(right, b_kind))
    registers = columns // 4 if sum_kind == "f16" else columns // 2
    given_a = aligned((THREADS, 4), np.uint32)
    if a:
        a.put(image, bits_of(left, kind))
    else:
        row, column = a_places(kind)
        given_a[:] = np.ascontiguousarray(bits_of(left, kind)[row, column]).view(np.uint32)
    sums = rng.integers(-9, 10, (64, columns))
    rows, places = d_places(columns)
    types = {"f32": np.float32, "f16": np.float16, "s32": np.int32}
    given = aligned((THREADS, registers), np.uint32)
    given[:] = np.ascontiguousarray(sums.astype(types[sum_kind])[rows, places]).view(np.uint32)
    operands = ["{%a0, %a1, %a2, %a3}" if a is None else "%rd10", "%rd11", "%p1"]
    if sum_kind != "s32":
        operands += [str(one) for one in signs]
    if depth == 16:
        operands += [str(int(one.major != "k")) for one in (a, b) if one]
    opcode = f"wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.{sum_kind}.{kind}.{b_kind}{tail}"
    accumulators = ", ".join(f"%d{n}" for n in range(registers))
    text = module(f"{opcode} {{{accumulators}}}, {', '.join(operands)};", registers)
    descriptors = np.array([a.descriptor if a else 0, b.descriptor], np.uint64)
    args = [emu.Memory(array=image, access="read"), given, given_a, descriptors, np.uint32(scale)]
    report = emu.load(text).launch("k", grid=(1,), block=(THREADS,), args=args, seed=seed)
    want = signs[0] * signs[1] * (left @ right.T) + scale * sums
    assert (given.view(types[sum_kind]) == want.astype(types[sum_kind])[rows, places]).all()
    assert report.counters["wgmma"] == 1 and report.counters["wgmma_flops"] == 2 * 64 * columns * depth


@pytest.mark.parametrize("columns", range(8, 257, 8))
def test_every_number_of_columns(columns):
    multiply("f16", columns, a=Tile(), b=Tile(start=B_AT), scale=columns % 16 // 8)


@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize("a_major", ["k", "mn"])
@pytest.mark.parametrize("b_major", ["k", "mn"])
def test_every_layout_of_shared_memory(span, a_major, b_major):
    def tile(major: str, start: int) -> Tile:
        if major == "k":  # without a swizzle: the two chunks of k, then the groups of eight rows
            return Tile(span=span, leading=128 if not span else 16, stride=256 if not span else 8 * span, start=start)
        if span:  # two groups of eight k, then blocks as wide as the swizzle
            return Tile(major="mn", span=span, leading=16 * span, stride=8 * span, start=start)
        return Tile(major="mn", span=0, leading=128, stride=256, start=start)

    for kind in ("f16", "bf16"):
        multiply(kind, 136, a=tile(a_major, 0), b=tile(b_major, B_AT))


@pytest.mark.parametrize(("span", "slice_at"), [(128, 32), (128, 96), (64, 32)])
def test_a_later_slice_of_k_starts_within_the_swizzled_row(span, slice_at):
    multiply(
        "f16",
        64,
        a=Tile(span=span, stride=8 * span, start=slice_at),
        b=Tile(span=span, stride=8 * span, start=B_AT + slice_at),
    )


@pytest.mark.parametrize("base", range(8))
def test_a_pattern_that_starts_elsewhere_has_a_base_offset(base):
    multiply("f16", 64, a=Tile(start=128 * base, base=base), b=Tile(start=B_AT + 128 * base, base=base))


@pytest.mark.parametrize("from_registers", [True, False])
@pytest.mark.parametrize(
    ("kind", "b_kind", "sum_kind"),
    [
        ("f16", "f16", "f16"), ("bf16", "bf16", "f32"), ("tf32", "tf32", "f32"), ("e4m3", "e5m2", "f32"),
        ("e5m2", "e4m3", "f16"), ("e4m3", "e4m3", "f16"), ("e5m2", "e5m2", "f32"), ("s8", "s8", "s32"),
        ("u8", "s8", "s32"), ("s8", "u8", "s32"), ("u8", "u8", "s32"),
    ],
)  # fmt: skip
def test_every_type_with_a_from_both_places(kind, b_kind, sum_kind, from_registers):
    for scale in (0, 1):
        multiply(
            kind,
            96,
            a=None if from_registers else Tile(),
            b=Tile(start=B_AT),
            b_kind=b_kind,
            sum_kind=sum_kind,
            scale=scale,
        )


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1), (-1, -1)])
def test_both_operands_can_be_negated(signs):
    multiply("f16", 64, a=Tile(), b=Tile(start=B_AT), signs=signs)
    multiply("e4m3", 64, a=None, b=Tile(start=B_AT), signs=signs)


def test_integer_sums_can_saturate():
    multiply("s8", 64, a=Tile(), b=Tile(start=B_AT), sum_kind="s32", tail=".satfinite")
    text = module("{mma}", 4).replace(
        "{mma}", "wgmma.mma_async.sync.aligned.m64n8k32.s32.u8.u8.satfinite {%d0, %d1, %d2, %d3}, %rd10, %rd11, %p1;"
    )
    image, sums = aligned((SMEM,), np.uint8), aligned((THREADS, 4), np.int32)
    image[:], sums[:] = 255, 2**31 - 1
    args = [emu.Memory(array=image, access="read"), sums, aligned((THREADS, 4), np.uint32)]
    descriptors = np.array([Tile().descriptor, Tile(start=B_AT).descriptor], np.uint64)
    emu.load(text).launch("k", grid=(1,), block=(THREADS,), args=[*args, descriptors, np.uint32(1)])
    assert (sums == 2**31 - 1).all()


# ------------------------------------------------------------------------------------------ checks

N8 = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%d0, %d1, %d2, %d3}, %rd10, %rd11, %p1, 1, 1, 0, 0;"
NEXT = N8.replace("%d0, %d1, %d2, %d3", "%d4, %d5, %d6, %d7")
RS = N8.replace("%rd10", "{%a0, %a1, %a2, %a3}").replace("0, 0;", "0;")
FENCE, COMMIT = "wgmma.fence.sync.aligned;", "wgmma.commit_group.sync.aligned;"
WAIT = "wgmma.wait_group.sync.aligned {};"


def run(text: str, *, scale: int = 1, seed: int = 0, **options: object) -> emu.Report:
    args = [
        emu.Memory(array=aligned((SMEM,), np.uint8), access="read"),
        aligned((THREADS, 8), np.uint32),
        aligned((THREADS, 4), np.uint32),
    ]
    descriptors = np.array([Tile().descriptor, Tile(start=B_AT).descriptor], np.uint64)
    options = {"grid": (1,), "block": (THREADS,), **options}
    return emu.load(text).launch("k", args=[*args, descriptors, np.uint32(scale)], seed=seed, **options)


def finding(text: str, kind: str, *, scale: int = 1, block: int = THREADS) -> str:
    for seed in SEEDS:
        with pytest.raises(emu.EmulatorError) as caught:
            run(text, scale=scale, seed=seed, block=(block,))
        assert caught.value.report is not None, caught.value
        found = caught.value.report.findings[0]
        assert found.kind == kind, (seed, found)
    return found.text


def is_clean(text: str, **options: object) -> None:
    for seed in range(10):
        assert run(text, seed=seed, **options).findings == []


def test_a_wgmma_without_a_fence_before_the_first_is_found():
    text = module(N8, 8)
    is_clean(text)
    assert "needs a wgmma.fence before it" in finding(text.replace(FENCE, ""), "wgmma")


def test_registers_written_after_the_last_fence_are_found():
    again = f"{N8}{COMMIT}{WAIT.format(0)}mov.b32 %r20, 0;\nadd.f32 %d1, %d1, 0f3f800000;\n@fence{N8}"
    is_clean(module(again.replace("@fence", FENCE), 8))
    text = finding(module(again.replace("@fence", ""), 8), "wgmma")
    assert "adds to a register that was written at PTX line" in text and "`add.f32 %d1" in text
    assert "wgmma.fence must come between" in text
    a = f"{N8}{COMMIT}{WAIT.format(0)}add.u32 %a2, %a2, 1;\n@fence{RS}"
    is_clean(module(a.replace("@fence", FENCE), 8))
    assert "reads A from a register that was written" in finding(module(a.replace("@fence", ""), 8), "wgmma")
    # Copies that ptxas gives one place carry what they copy, and are no writes of their own; constants are.
    is_clean(module(f"{FENCE}mov.b32 %d0, %d4;\n{N8}", 8))
    finding(module(f"{FENCE}mov.b32 %d0, 0;\n{N8}", 8), "wgmma")


def test_accumulators_in_flight_may_not_be_read_or_written():
    for touch in ("st.global.b32 [%rd2], %d2;", "add.f32 %d5, %d2, %d2;", "mov.b32 %d2, 0;"):
        text = finding(module(f"{N8}{COMMIT}{touch}\n", 8), "wgmma")
        assert "%d2, which the wgmma at PTX line" in text and "wgmma.wait_group must come first" in text
        is_clean(module(f"{N8}{COMMIT}{WAIT.format(0)}{touch}\n", 8))
    # A wait that leaves the group in flight is none; one for the older group of two is enough for it.
    two = f"{N8}{COMMIT}{NEXT}{COMMIT}{WAIT.format(1)}add.f32 @d, @d, @d;\n"
    is_clean(module(two.replace("@d", "%d3"), 8))
    finding(module(two.replace("@d", "%d4"), 8), "wgmma")
    # A group that was not committed is not waited for.
    finding(module(f"{N8}{WAIT.format(0)}add.f32 %d3, %d3, %d3;\n", 8), "wgmma")


def test_a_copy_of_an_accumulator_in_flight_carries_the_mark():
    is_clean(module(f"{N8}mov.b32 %d4, %d0;\nmov.b32 %d0, %d4;\n{N8}", 8))
    assert "%d4, which the wgmma" in finding(module(f"{N8}mov.b32 %d4, %d0;\nadd.f32 %d4, %d4, %d4;\n", 8), "wgmma")


def test_registers_of_a_in_flight_may_not_be_written():
    assert "%a1, which the wgmma at" in finding(module(f"{RS}{COMMIT}add.u32 %a1, %a1, 1;\n", 8), "wgmma")
    is_clean(module(f"{RS}{RS}{COMMIT}{WAIT.format(0)}add.u32 %a1, %a1, 1;\n", 8))


def test_accumulators_of_one_shape_may_follow_one_another_and_no_others():
    is_clean(module(N8 + N8, 8))
    wider = N8.replace("m64n8k16", "m64n16k16").replace("%d3}", "%d3, %d4, %d5, %d6, %d7}")
    assert "adds to a register that the wgmma at" in finding(module(N8 + wider, 8), "wgmma")
    is_clean(module(f"{N8}{COMMIT}{WAIT.format(0)}{wider}", 8))


def test_what_a_wgmma_reads_must_be_fenced_and_may_not_be_overwritten_before_the_wait():
    text = module(N8, 8)
    assert "reads byte" in finding(text.replace("fence.proxy.async;\n", ""), "proxy")
    over = f"{N8}{COMMIT}@waitbar.sync 0;\nsetp.eq.u32 %p3, %r1, 0;\n@%p3 st.shared.u32 [%r2], 0;\n"
    is_clean(module(over.replace("@wait", WAIT.format(0)), 8))
    assert "which the wgmma at" in finding(module(over.replace("@wait", ""), 8), "race")
    assert "may still read" in finding(module(over.replace("@wait", ""), 8), "race")
    # One warp's wait is its warpgroup's: all four have issued by then.
    single = f"{N8}{COMMIT}{WAIT.format(0)}setp.eq.u32 %p3, %r1, 0;\n@%p3 st.shared.u32 [%r2], 0;\n"
    is_clean(module(single, 8))


def test_undefined_accumulators_are_legal_where_they_are_not_added_to():
    text = module(N8, 8)
    undefined = text.replace("ld.global.b32 %d0, [%rd6+0];\n", "")
    is_clean(undefined, scale=0)
    assert "%d0" in finding(undefined, "undefined_value", scale=1)
    no_a = module(RS, 8).replace("ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%rd7];\n", "")
    assert "is an operand of this matrix product" in finding(no_a, "undefined_value", scale=0)


def test_a_tile_outside_shared_memory_is_found():
    outside = finding(module("add.s64 %rd11, %rd11, 3072;\n" + N8, 8), "out_of_bounds")
    assert "bytes of shared memory at offset" in outside


def test_a_warpgroup_is_four_warps_that_go_together():
    assert "the last 3 warps of the block are none" in finding(module(N8, 8), "wgmma", block=96)
    lost = "shr.u32 %r20, %r1, 5; setp.eq.u32 %p3, %r20, 2;\n@%p3 ret;\n" + N8
    text = finding(module(lost, 8), "deadlock")
    assert "for the warps of its warpgroup to commit the same groups" in text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (N8.replace("m64n8k16", "m64n12k16"), "not one the emulator knows"),
        (N8.replace("m64n8k16", "m64n8k8"), "not one the emulator knows"),
        (N8.replace("f32.f16.f16", "f16.bf16.bf16"), "not one the emulator knows"),
        (N8.replace("m64n8k16", "m64n16k16"), "8 registers of D"),
        (N8.replace(", 0, 0;", ", 0;"), "8 operands here"),
        (N8.replace("1, 1, 0", "1, 2, 0"), "is 1 or -1"),
        (N8.replace("k16.f32.f16.f16", "k256.s32.b1.b1"), "of these types"),
        ("wgmma.wait_group.sync.aligned 8;", "constant from 0 to 7"),
        ("wgmma.fence.aligned;", "not one the emulator knows"),
    ],
)
def test_what_is_no_wgmma_is_refused(line, says):
    with pytest.raises(emu.EmulatorError, match=says):
        run(module(line, 8))


def test_wgmma_is_of_sm_90a_alone():
    with pytest.raises(emu.EmulatorError, match=r"needs \.target sm_90a, the module is for sm_90$"):
        run(module(N8, 8, sm="sm_90"))
