"""Parts of the emulator that meet: threads of the host with printf, undefined values and mbarriers, and the like."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_kernels import aligned, kernel

from kernelwright import emulator as emu

GRID, BLOCK = 40, 64
# %r1 = thread, %r2 = block, %r4 = warp, %rd1 = out, %rd2 = the thread's word of out, %r9 = 4 bytes of smem, %r10 = bar
START = (
    "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; shr.u32 %r4, %r1, 5; mad.lo.s32 %r3, %r2, 64, %r1;"
    "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2;"
    "mov.u32 %r9, smem; mad.lo.u32 %r9, %r1, 4, %r9; mov.u32 %r10, bar; mov.u32 %r5, %r2; setp.eq.u32 %p1, %r1, 0;\n"
)
SHARED = ".shared .align 16 .b8 smem[256];\n.shared .align 8 .b64 bar;\n"
# About 2 x 1,500 instructions a block: enough for a launch to be split.
WORK = (
    "mov.u32 %r90, 0;\n$work: mad.lo.u32 %r5, %r5, 1664525, %r90; add.u32 %r90, %r90, 1;\n"
    "setp.lt.u32 %p9, %r90, 400;\n@%p9 bra $work;\n"
)
STORE = "st.global.u32 [%rd2], %r5;\n"
PRINTF = (
    ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n"
    ".global .align 1 .b8 format[4] = {37, 117, 10, 0};\n"
)
PRINT = (
    "mov.u64 %rd20, format; mov.u64 %rd21, depot; cvta.local.u64 %rd22, %rd21; st.local.u32 [%rd21], %r2;\n"
    "{\n.param .b64 p0;\nst.param.b64 [p0], %rd20;\n.param .b64 p1;\nst.param.b64 [p1], %rd22;\n"
    ".param .b32 r;\n@%p1 call (r), vprintf, (p0, p1);\n}\n"
)
# One warp fills, the other reads: a ring of one slot, four times.
RING = (
    "@%p1 mbarrier.init.shared.b64 [%r10], 64;\nbar.sync 0;\nmov.u32 %r20, 0;\n"
    "xor.b32 %r21, %r9, 128;\n$ring: setp.eq.u32 %p2, %r4, 0;\n@%p2 st.shared.u32 [%r9], %r20;\n"
    "mbarrier.arrive.shared.b64 %rd9, [%r10];\n"
    "$full: mbarrier.test_wait.shared.b64 %p3, [%r10], %rd9;\n@!%p3 bra $full;\n"
    "@!%p2 ld.shared.u32 %r22, [%r21];\n@!%p2 add.u32 %r5, %r5, %r22;\n"
    "{free}add.u32 %r20, %r20, 1; setp.lt.u32 %p4, %r20, 4;\n@%p4 bra $ring;\n"
)
FREE = (
    "mbarrier.arrive.shared.b64 %rd9, [%r10];\n"
    "$free: mbarrier.test_wait.shared.b64 %p3, [%r10], %rd9;\n@!%p3 bra $free;\n"
)
# The upper half of a structure is never written; `first` and `second` return one half each.
HALVES = "".join(
    f".func (.param .b32 r) {name}(.param .align 8 .b8 s[8])\n{{\n.reg .b32 %x<3>;\n"
    f"ld.param.b32 %x1, [s+{at}];\nst.param.b32 [r], %x1;\nret;\n}}\n"
    for name, at in (("first", 0), ("second", 4))
)
CALL_HALF = (
    "{{\n.param .align 8 .b8 s[8];\n.param .b32 r;\nst.param.b32 [s], %r5;\n"
    "call.uni (r), {name}, (s);\nld.param.b32 %r6, [r];\n}}\nst.global.u32 [%rd2], %r6;\n"
)
SWITCH = (
    "and.b32 %r30, %r2, 1;\nlist: .branchtargets $even, $odd;\nbrx.idx %r30, list;\n"
    "$even: mov.u32 %r31, 1;\n$odd: {use}\n"
)  # %r31 is undefined in odd blocks


def launch(body: str, *, before: str = "", grid: int = GRID, **options: object) -> tuple[bytes, emu.Report]:
    """Run on GRID blocks of two warps; findings are collected."""
    out = aligned((GRID * BLOCK,), np.uint32)
    module = emu.load(kernel(".local .align 16 .b8 depot[16];\n" + START + body, before=SHARED + before))
    report = module.launch("k", grid=(grid,), block=(BLOCK,), args=[out], on_finding="collect", **options)  # type: ignore[arg-type]
    module.unload()
    return out.tobytes(), report


def on_two_threads(body: str, **options: object) -> emu.Report:
    """The report of one thread, which that of two has to equal, memory too, under several orders."""
    for seed in (3, 0):
        alone = launch(body, threads=1, seed=seed, **options)
        for _ in range(3):
            assert launch(body, threads=2, seed=seed, **options) == alone
    assert alone[1].counters["warp_instructions"] > 80_000  # enough to be split
    return alone[1]


def test_what_blocks_print_comes_once_and_in_order():
    report = on_two_threads(WORK + PRINT + STORE, before=PRINTF)
    assert report.findings == []
    assert report.printed.split() == [str(block) for block in range(GRID)]


def test_a_ring_of_mbarriers_in_every_block():
    assert on_two_threads(WORK + RING.format(free=FREE) + STORE).findings == []
    report = on_two_threads(WORK + RING.format(free="") + STORE)
    assert {one.kind for one in report.findings} == {"race"}


def test_values_are_tracked_on_several_threads():
    report = on_two_threads(WORK + SWITCH.format(use="add.u32 %r32, %r31, 1;") + STORE)
    assert report.tracks_undefined and report.findings == []
    report = on_two_threads(WORK + SWITCH.format(use="add.u32 %r5, %r31, 1;") + STORE)
    (found,) = report.findings
    assert found.kind == "undefined_value" and found.text.startswith("%r5 is stored here")
    assert found.block == (1, 0, 0)


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_structure_written_in_part_is_passed_and_judged_by_what_is_used(name):
    report = on_two_threads(WORK + CALL_HALF.format(name=name), before=HALVES)
    assert report.tracks_undefined
    kinds = [one.kind for one in report.findings]
    assert kinds == ([] if name == "first" else ["undefined_value"])


def test_a_call_inside_an_indexed_branch_keeps_what_is_undefined():
    body = WORK + SWITCH.format(use="mov.u32 %r5, %r31;") + CALL_HALF.format(name="first")
    report = on_two_threads(body, before=HALVES)
    (found,) = report.findings
    assert found.kind == "undefined_value" and found.text.startswith("%r6 is stored here")


# Block 0: a warp polls a flag that block 1 sets, then arrives; the other warp waits for that on an mbarrier.
POLL = (
    "@%p1 mbarrier.init.shared.b64 [%r10], 32;\nbar.sync 0;\nsetp.ne.u32 %p2, %r2, 0;\n@%p2 bra $set;\n"
    "setp.ne.u32 %p3, %r4, 0;\n@%p3 bra $wait;\n"
    "$poll: ld.acquire.gpu.global.u32 %r20, [%rd1];\nsetp.eq.u32 %p4, %r20, 0;\n@%p4 bra $poll;\n"
    "ld.global.u32 %r21, [%rd1+4];\nst.shared.u32 [%r9], %r21;\nmbarrier.arrive.shared.b64 %rd9, [%r10];\nbra $end;\n"
    "$wait: mbarrier.test_wait.parity.shared.b64 %p5, [%r10], 0;\n@!%p5 bra $wait;\n"
    "ld.shared.u32 %r22, [%r9+-128];\nst.global.u32 [%rd2], %r22;\nbra $end;\n"
    "$set: @!%p1 bra $end;\nst.global.u32 [%rd1+4], 7;\n{release}$end:\n"
)
RELEASE = "st.release.gpu.global.u32 [%rd1], 1;\n"


@pytest.mark.parametrize("seed", range(4))
def test_a_flag_of_another_block_lets_a_warp_complete_a_phase(seed):
    out, report = launch(POLL.format(release=RELEASE), grid=2, seed=seed, threads=2, resident_blocks=2)
    assert report.findings == []
    assert np.frombuffer(out, np.uint32)[32:64].tolist() == [7] * 32


@pytest.mark.parametrize(("release", "resident_blocks"), [(RELEASE, 1), ("", 2)])
def test_a_flag_that_is_never_set_is_a_deadlock_that_names_both_waits(release, resident_blocks):
    _, report = launch(POLL.format(release=release), grid=2, resident_blocks=resident_blocks)
    (found,) = report.findings
    text = found.text
    assert found.kind == "deadlock" and "ld.acquire.gpu" in text and "mbarrier.test_wait" in text
    assert ("have not started" in text) is (resident_blocks == 1)
