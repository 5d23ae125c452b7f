"""Loads and launches broken PTX: whatever the text says, the answer is a report or an error, never a dead process.

    python tests/emulator/fuzz_ptx.py FIRST COUNT

tries the mutations FIRST to FIRST + COUNT - 1 and prints each number before it is tried, then how many ran to
their end. A mutation is a function of its number alone, so the last number printed is how to see a crash again.
"""

from __future__ import annotations

import os
import random
import re
import resource
import sys
from collections import Counter
from functools import cache

import numpy as np
from emulator_kernels import PTX, Flash, aligned, kernel

from kernelwright import emulator as emu

_ADDRESS_SPACE_BYTES = 6 << 30  # a text that asks for more gets an error, not the machine's memory
_MAX_INSTRUCTIONS = 20_000
_TOKEN = re.compile(r"%?[\w.$:]+|[^\s\w]")
# Words that a field may be replaced by: ends of the number ranges, every kind of operand, unfinished brackets.
_HOSTILE_WORDS = """
0 1 -1 2 15 16 31 32 33 64 255 65535 65536 1048576 2147483647 2147483648 4294967295 4294967296
9223372036854775807 9223372036854775808 18446744073709551615 99999999999999999999999 0x7fffffff 0xffffffff0
0f7FC00000 0f00000000 0d7FF0000000000000 0f 0x _ { } [ ] ( ) , ; : @ ! | + - < > * %p1 %p0 !%p1 %r1 %rd1 %f1
%rs1 %tid.x %clock64 %laneid {%r1,%r2} {%r1} {} [%rd1] [%rd1+4294967295] [%r1-1] [0] [-16] out k array .u8
.b128 .pred .v2 .v4 .shared .local .global .param .const .reg .align .f32 .s64 .noftz .L1::x bra ret exit trap
bar.sync call brx.idx .func both plus table format vprintf (param0) .b64 .callprototype .branchtargets
"""
# What the flash kernels do not hold: atomics, votes, reductions, local memory, the generic window, moves of all kinds.
_BODY = """
.local .align 16 .b8 array[64];
.shared .align 16 .b8 tile[256];
ld.param.u64 %rd1, [out];
cvta.to.global.u64 %rd2, %rd1;
mov.u32 %r1, %tid.x;
mul.wide.u32 %rd3, %r1, 4;
add.s64 %rd4, %rd2, %rd3;
ld.global.u32 %r2, [%rd4];
atom.global.add.u32 %r3, [%rd2], %r1;
atom.global.cas.b32 %r3, [%rd2+4], %r1, %r2;
red.global.max.s32 [%rd2+8], %r1;
setp.lt.s32 %p1|%p2, %r1, 16;
set.gt.and.u32.s32 %r4, %r1, 3, %p1;
selp.b32 %r5, %r1, %r2, %p1;
vote.sync.ballot.b32 %r6, %p1, -1;
vote.sync.all.pred %p3, %p1, -1;
shfl.sync.bfly.b32 %r7|%p4, %r1, 1, 31, -1;
redux.sync.add.s32 %r8, %r1, -1;
match.any.sync.b32 %r9, %r1, -1;
bar.red.popc.u32 %r10, 0, %p1;
bar.red.and.pred %p5, 1, 32, !%p1;
barrier.sync.aligned 2;
bar.warp.sync -1;
mov.u64 %rd5, array;
cvta.local.u64 %rd6, %rd5;
st.local.u32 [%rd5], %r1;
ld.u32 %r11, [%rd6];
mov.u32 %r12, tile;
mad.lo.s32 %r13, %r1, 4, %r12;
st.shared.u32 [%r13], %r1;
cp.async.ca.shared.global [%r13], [%rd4], 4, %r2;
cp.async.commit_group;
cp.async.wait_group 0;
ld.shared.u32 %r14, [%r13];
mov.b64 %rd7, {%r1, %r14};
mov.b64 {%rs1, %rs2, %rs3, %rs4}, %rd7;
mov.b32 %r15, {%rs1, %rs2};
cvt.rni.sat.s8.f32 %r16, 0f42C80000;
cvt.rn.f16x2.f32 %r17, 0f3F800000, 0f40000000;
bfe.s32 %r18, %r1, 3, 40;
prmt.b32 %r19, %r1, %r2, 0x5410;
lop3.b32 %r20, %r1, %r2, %r3, 0xE8;
shf.l.clamp.b32 %r21, %r1, %r2, %r3;
div.s32 %r22, %r1, %r2;
fma.rn.f32 %f1, 0f3F800000, 0f3F800000, 0f3F800000;
ex2.approx.ftz.f32 %f2, %f1;
@%p1 bra $skip;
{
.reg .b32 %inner<4>;
mov.u32 %inner1, %laneid;
@!%p2 bra $skip;
}
$skip:
bar.warp.sync -1;
ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r23}, [%r12];
movmatrix.sync.aligned.m8n8.trans.b16 %r24, %r23;
st.global.v2.u32 [%rd2], {%r1, %r2};
"""
# Functions of all kinds, calls, an indexed branch, printf, a carry, and addresses in initial values.
_FUNCTIONS = """
.extern .func (.param .b32 func_retval0) vprintf(.param .b64 a, .param .b64 b);
.extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
.global .align 1 .b8 format[24] = {37, 100, 32, 37, 53, 46, 49, 102, 32, 37, 115, 32, 37, 42, 108, 108, 120, 10, 0};
.global .align 8 .u64 table[3] = {plus, times, generic(format)};
.func (.param .b32 r) plus(.param .b32 x);
.func (.param .align 8 .b8 r[16]) both(.param .align 8 .b8 s[16], .reg .b32 more)
{
.local .align 16 .b8 depot[32];
.reg .b32 %r<9>;
.reg .b64 %rd<9>;
.reg .pred %p<3>;
ld.param.v2.b32 {%r1, %r2}, [s+8];
setp.lt.s32 %p1, %r1, more;
st.local.v2.u32 [depot+8], {%r1, %r2};
@%p1 ret;
{
.param .b32 a;
.param .b32 b;
st.param.b32 [a], %r2;
call.uni (b), plus, (a);
ld.param.b32 %r3, [b];
}
st.param.v2.b32 [r+8], {%r3, %r1};
ret;
}
.func (.param .b32 r) plus(.param .b32 x)
{
.reg .b32 %r<3>;
ld.param.b32 %r1, [x];
add.u32 %r1, %r1, 5;
st.param.b32 [r], %r1;
ret;
}
.func (.param .b32 r) times(.param .b32 x)
{
.reg .b32 %r<3>;
ld.param.b32 %r1, [x];
mul.lo.u32 %r1, %r1, 5;
st.param.b32 [r], %r1;
ret;
}
"""
_CALLS = """
.local .align 16 .b8 array[64];
ld.param.u64 %rd1, [out];
mov.u32 %r1, %tid.x;
{
.param .align 8 .b8 param0[16];
st.param.v2.b32 [param0+8], {%r1, 7};
st.param.b64 [param0], 3;
.param .align 8 .b8 retval0[16];
call.uni (retval0), both, (param0, %r1);
ld.param.v2.b32 {%r2, %r3}, [retval0+8];
}
and.b32 %r4, %r1, 1;
mul.wide.u32 %rd3, %r4, 8;
mov.u64 %rd4, table;
add.s64 %rd4, %rd4, %rd3;
ld.global.u64 %rd5, [%rd4];
setp.lt.u32 %p1, %r1, 20;
{
.param .b32 param0;
.param .b32 retval0;
st.param.b32 [param0], %r1;
prototype: .callprototype (.param .b32 _) _ (.param .b32 _);
@%p1 call (retval0), %rd5, (param0), prototype;
mov.u32 %r5, 7;
@%p1 ld.param.b32 %r5, [retval0];
}
rem.u32 %r6, %r1, 3;
list: .branchtargets $one, $two, $three;
brx.idx %r6, list;
$one:
add.cc.u32 %r7, %r1, -1;
addc.cc.u32 %r8, %r1, 0;
madc.hi.u32 %r9, %r1, %r5, %r8;
bra $end;
$two:
add.rz.ftz.f32 %f1, 0f3F800001, 0f33800000;
div.rp.f64 %rd8, %rd3, %rd5;
$three:
lop3.or.b32 %r7|%p2, %r1, %r2, %r3, 0x1B, %p1;
setp.gt.and.f16x2 %p3|%p4, %r1, %r2, %p2;
cvt.rna.tf32.f32 %r9, %f1;
$end:
bar.warp.sync -1;
mov.u64 %rd6, array;
cvta.local.u64 %rd7, %rd6;
st.local.v4.u32 [%rd6], {%r1, %r2, 0, 1073741824};
mov.u64 %rd8, format;
st.local.u64 [%rd6+16], %rd8;
st.local.u32 [%rd6+24], 9;
st.local.u64 [%rd6+32], %rd1;
{
.param .b64 param0;
st.param.b64 [param0], %rd8;
.param .b64 param1;
st.param.b64 [param1], %rd7;
.param .b32 retval0;
call.uni (retval0), vprintf, (param0, param1);
ld.param.b32 %r10, [retval0];
}
setp.eq.u32 %p5, %r10, 5;
@%p5 bra $fine;
call __assertfail, (%rd8, %rd8, 17, %rd8, 1);
$fine:
.reg .b128 %q<3>;
ld.global.b128 %q1, [%rd1];
mov.b128 {%rd2, %rd3}, %q1;
setp.eq.u32 %p7, %r1, 0;
@%p7 cp.async.cg.shared.global [cell], [%rd1], 16, %p5;
cp.async.wait_all;
isspacep.local %p6, %rd7;
fns.b32 %r11, %r1, 3, %r2;
st.global.v2.b64 [%rd1+16], {%rd3, %rd2};
"""
# An mbarrier and the copies it tracks, matrices of all kinds, strong accesses, and where inlined code comes from.
_ASYNC = """
.shared .align 32 .b8 tile[1024];
.shared .align 8 .b64 bar;
.loc 1 12 5
ld.param.u64 %rd1, [out];
mov.u32 %r1, %tid.x;
setp.eq.u32 %p1, %r1, 0;
mov.u32 %r2, tile;
mov.u32 %r3, bar;
@%p1 mbarrier.init.shared.b64 [%r3], 32;
mad.lo.u32 %r4, %r1, 16, %r2;
st.shared.v4.u32 [%r4], {0, 1006648320, %r1, 0};
bar.sync 0;
mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd3, %rd1, %rd2;
mad.lo.u32 %r5, %r1, 4, %r2;
.loc 1 7 5, function_name copy, inlined_at 1 14 9
.loc 2 180 49, function_name copy+12, inlined_at 1 7 5
cp.async.ca.shared.global [%r5+512], [%rd3], 4;
cp.async.mbarrier.arrive.noinc.shared.b64 [%r3];
$wait:
mbarrier.test_wait.parity.shared.b64 %p2, [%r3], 0;
@!%p2 bra $wait;
ld.shared.u32 %r6, [%r5+512];
mbarrier.arrive.shared.b64 %rd5, [%r3];
mbarrier.pending_count.b64 %r7, %rd5;
mbarrier.test_wait.shared.b64 %p3, [%r3], %rd5;
@%p1 mbarrier.arrive_drop.noComplete.shared.b64 %rd6, [%r3], 2;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r1, %r6, %r1},
    {%r1, %r6}, {0f00000000, 0f3F800000, 0f00000000, 0f00000000};
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4},
    {%r1, %r1, %r6, %r1}, {%r1, %r6}, {%f1, %f2, %f3, %f4};
mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.u8.s32 {%r10, %r11, %r12, %r13},
    {%r1, %r1, %r6, %r1}, {%r1, %r6}, {%r1, %r1, %r1, %r1};
mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd10, %rd11}, {%rd2}, {%rd2}, {%rd2, %rd2};
wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27}, [%r2], 16;
wmma.mma.sync.aligned.row.col.m16n16k16.f16.f16 {%r30, %r31, %r32, %r33},
    {%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27},
    {%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27},
    {%r1, %r1, %r1, %r1};
bar.warp.sync -1;
wmma.store.d.sync.aligned.col.m16n16k16.shared.f16 [%r2], {%r30, %r31, %r32, %r33};
ld.volatile.global.u32 %r40, [%rd1+128];
fence.acq_rel.gpu;
atom.acq_rel.gpu.global.add.u32 %r41, [%rd1+132], %r40;
st.release.gpu.global.u32 [%rd3], %r10;
"""
# TMA, bulk copies and wgmma, by a warpgroup.
_HOPPER = """
.shared .align 1024 .b8 tile[8192];
.shared .align 8 .b64 bar;
ld.param.u64 %rd1, [out];
mov.b64 %rd2, map;
cvta.param.u64 %rd2, %rd2;
mov.u32 %r1, %tid.x;
mov.u32 %r2, tile;
mov.u32 %r3, bar;
setp.eq.u32 %p1, %r1, 0;
@%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
@%p1 fence.mbarrier_init.release.cluster;
bar.sync 0;
setmaxnreg.dec.sync.aligned.u32 128;
elect.sync %r4|%p2, -1;
and.b32 %r5, %r1, 31;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 4352;
@%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%rd2, {-3, 2}], [%r3];
@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2+4096], [%rd1], 256, [%r3];
$wait:
mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0;
@!%p3 bra $wait;
mad.lo.u32 %r6, %r1, 16, %r2;
st.shared.v4.u32 [%r6+6144], {0, %r1, %r5, 0};
fence.proxy.async;
bar.sync 0;
shr.u32 %r7, %r2, 4;
cvt.u64.u32 %rd3, %r7;
or.b64 %rd4, %rd3, 4611686293305360384;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1, %f2, %f3, %f4}, {%r1, %r5, %r1, %r5}, %rd4, 0, 1, 1, 0;
wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.u8 {%r20, %r21, %r22, %r23}, {%r1, %r5, %r1, %r5}, %rd4, 0;
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
add.f32 %f1, %f1, %f2;
@%p1 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [%r2+6144], 64;
@%p1 cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {0, 3}], [%r2];
@%p1 cp.async.bulk.commit_group;
@%p1 cp.async.bulk.wait_group.read 0;
mul.wide.u32 %rd5, %r5, 4;
add.s64 %rd5, %rd1, %rd5;
mov.b32 %r8, %f1;
st.global.u32 [%rd5+128], %r20;
"""


@cache
def seeds() -> tuple[tuple[str, str], ...]:
    """Return (kernel name, PTX text) of what is broken."""
    flash = [("flash_fwd", (PTX / f"{name}.ptx").read_text()) for name in ("flash_fwd", "flash_fwd_no_swizzle")]
    calls = kernel(_CALLS, before=_FUNCTIONS + ".shared .align 16 .b8 cell[16];")
    files = '.file 1 "k.cu"\n.file 2 "copy.cuh"'
    hopper = kernel(_HOPPER, ".param .u64 out, .param .align 64 .b8 map[128]", name="hopper", sm=90)
    hopper = hopper.replace("sm_90", "sm_90a")
    return ("k", kernel(_BODY)), ("k", calls), ("k", kernel(_ASYNC, before=files)), ("hopper", hopper), *flash


def mutated(number: int) -> tuple[str, str]:
    """Return the kernel's name and the text of a mutation."""
    rng = random.Random(number)
    name, text = rng.choice(seeds())
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_MUTATIONS)(rng, lines)
    text = "\n".join(lines) + "\n"
    return name, text[: rng.randrange(len(text))] if rng.random() < 0.02 else text


def _replace_word(rng: random.Random, lines: list[str]) -> None:
    at = rng.randrange(len(lines))
    words = list(_TOKEN.finditer(lines[at]))
    if words:
        word = rng.choice(words)
        own = _TOKEN.findall(rng.choice(lines))
        other = rng.choice(own if own and rng.random() < 0.3 else _HOSTILE_WORDS.split())
        lines[at] = lines[at][: word.start()] + other + lines[at][word.end() :]


def _drop_modifier(rng: random.Random, lines: list[str]) -> None:
    at = rng.randrange(len(lines))
    dots = [match.start() for match in re.finditer(r"\.", lines[at])]
    if dots:
        start = rng.choice(dots)
        lines[at] = lines[at][:start] + rng.choice([".", "..", ""]) + lines[at][start + rng.randint(1, 5) :]


def _flip_byte(rng: random.Random, lines: list[str]) -> None:
    at = rng.randrange(len(lines))
    if lines[at]:
        column = rng.randrange(len(lines[at]))
        lines[at] = lines[at][:column] + chr(rng.randint(1, 126)) + lines[at][column + 1 :]


def _drop_line(rng: random.Random, lines: list[str]) -> None:
    if len(lines) > 1:
        del lines[rng.randrange(len(lines))]


def _move_line(rng: random.Random, lines: list[str]) -> None:
    lines.insert(rng.randrange(len(lines)), lines[rng.randrange(len(lines))])


_MUTATIONS = (_replace_word, _replace_word, _replace_word, _drop_modifier, _flip_byte, _drop_line, _move_line)


def launch_hopper(module: emu.Module, **options: object) -> emu.Report:
    """Launch the kernel `hopper` with a tensor map."""
    tensor, out = aligned((40, 64), np.uint32), aligned((64,), np.uint32)
    map_ = emu.TensorMap(array=tensor, box=(32, 32), swizzle=128, access="read_write")
    return module.launch("hopper", grid=(2,), block=(128,), args=[out, map_], **options)  # type: ignore[arg-type]


def attempt(number: int) -> str:
    """Load and launch one mutation; return what came of it."""
    name, text = mutated(number)
    try:
        module = emu.Module(text)
    except emu.EmulatorError as error:
        assert "internal error" not in str(error), f"mutation {number}: {error}"
        return "not loaded"
    options = {"on_finding": "collect", "max_instructions": _MAX_INSTRUCTIONS, "seed": number % 3}
    try:
        if name == "k":
            out = np.zeros(64, np.uint32)
            grid = (1 if number % 4 else 3,)
            report = module.launch("k", grid=grid, block=(32,), args=[out], threads=2, **options)  # type: ignore[arg-type]
        elif name == "hopper":
            report = launch_hopper(module, **options)
        else:
            report = Flash(1, 1, 1, 64, 64).launch(module, **options)
        return "finding" if report.findings else "ran"
    except emu.EmulatorError as error:
        assert "internal error" not in str(error), f"mutation {number}: {error}"
        return "not launched"
    finally:
        emu.launch.driver().cuLibraryUnload(module._handle)


def main(first: int, count: int) -> None:
    """Try `count` mutations from `first` on."""
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):  # which reserves terabytes of addresses (scripts/sanitize)
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    emu.configure(sm=90)
    seen: Counter[str] = Counter()
    for number in range(first, first + count):
        print(number, flush=True)
        seen[attempt(number)] += 1
    print(dict(seen), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
