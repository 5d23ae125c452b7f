"""Loads and launches broken PTX: whatever the text says, the answer is a report or an error, never a dead process.

    python tests/emulator/fuzz_ptx.py FIRST COUNT

tries the mutations FIRST to FIRST + COUNT - 1 and prints each number before it is tried, then how many ran to
their end. A mutation is a function of its number alone, so the last number printed is how to see a crash again.
"""

from __future__ import annotations

import random
import re
import resource
import sys
from collections import Counter
from functools import cache

import numpy as np
from emulator_kernels import PTX, Flash, kernel

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
bar.sync
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
ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r23}, [%r12];
movmatrix.sync.aligned.m8n8.trans.b16 %r24, %r23;
st.global.v2.u32 [%rd2], {%r1, %r2};
"""


@cache
def seeds() -> tuple[tuple[str, str], ...]:
    """Return (kernel name, PTX text) of what is broken."""
    flash = [("flash_fwd", (PTX / f"{name}.ptx").read_text()) for name in ("flash_fwd", "flash_fwd_no_swizzle")]
    return ("k", kernel(_BODY)), *flash


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
            report = module.launch("k", grid=(1,), block=(32,), args=[out], **options)  # type: ignore[arg-type]
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
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    seen: Counter[str] = Counter()
    for number in range(first, first + count):
        print(number, flush=True)
        seen[attempt(number)] += 1
    print(dict(seen), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
