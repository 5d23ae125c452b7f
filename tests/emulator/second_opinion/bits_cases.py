"""Whole numbers and bits: prmt, lop3, bit fields, shifts, carries, conversions among integers, packing."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from functools import partial

import numpy as np

from .formats import Words
from .harness import Case, Expected, any_words, floats

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def of_words(count: int, function: Callable[..., int | tuple[int, ...]]) -> Callable[[Words], Expected]:
    """A second opinion by a function of each lane's words as Python integers; it returns a word or several."""

    def expect(given: Words) -> Expected:
        rows = given.reshape(-1, given.shape[-1])[:, :count].tolist()
        found = [function(*row) for row in rows]
        out = [[word & M32 for word in (one if isinstance(one, tuple) else (one,))] for one in found]
        return Expected(words=np.array(out, np.uint32).reshape(*given.shape[:-1], -1))

    return expect


def simple(
    opcode: str,
    operands: int,
    function: Callable[..., int | tuple[int, ...]],
    body: str = "",
    *,
    out_words: int = 1,
    tests: tuple[str, ...] = (),
    note: str = "",
) -> Case:
    """One instruction on 32-bit registers, or `body` where it needs more."""
    names = ", ".join(f"%a{n}" for n in range(operands))
    return Case(
        name=f"{opcode} {note}".strip(),
        body=body or f"{opcode} %d0, {names};",
        inputs=any_words(operands),
        expect=of_words(operands, function),
        out_words=out_words,
        tests=tests or (opcode,),
    )


def wide(opcode: str, function: Callable[..., int], wides: int, narrows: int, *, out_wide: bool = True) -> Case:
    """An instruction whose first `wides` operands are 64 bits (%a0 and %a1, ...), then 32-bit ones."""
    packs = "".join(f"mov.b64 %x{4 + n}, {{%a{2 * n}, %a{2 * n + 1}}}; " for n in range(wides))
    names = [f"%x{4 + n}" for n in range(wides)] + [f"%a{2 * wides + n}" for n in range(narrows)]
    end = f"{opcode} %x9, {', '.join(names)}; mov.b64 {{%d0, %d1}}, %x9;" if out_wide else ""

    def joined(*words: int) -> tuple[int, ...]:
        pairs = [words[2 * n] | words[2 * n + 1] << 32 for n in range(wides)]
        got = function(*pairs, *words[2 * wides :])
        return (got & M32, got >> 32 & M32) if out_wide else (got & M32,)

    return Case(
        name=opcode,
        body=packs + (end or f"{opcode} %d0, {', '.join(names)};"),
        inputs=any_words(2 * wides + narrows),
        expect=of_words(2 * wides + narrows, joined),
        out_words=2 if out_wide else 1,
    )


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def byte_of(value: int, n: int) -> int:
    return value >> (8 * n) & 255


def prmt(a: int, b: int, c: int) -> int:
    """Four selectors of a byte of {b, a}; the highest bit of each takes the byte's sign instead."""
    out = 0
    for n in range(4):
        select = c >> (4 * n) & 15
        one = byte_of(a | b << 32, select & 7)
        out |= ((0xFF if one & 0x80 else 0) if select & 8 else one) << (8 * n)
    return out


# Which byte of {b, a} goes to byte j, by c & 3. Source: the table in PTX ISA, "prmt".
PRMT_MODES: dict[str, Callable[[int, int], int]] = {
    "f4e": lambda i, j: i + j,
    "b4e": lambda i, j: (i - j) & 7,
    "rc8": lambda i, j: i,
    "ecl": lambda i, j: max(i, j),
    "ecr": lambda i, j: min(i, j),
    "rc16": lambda i, j: 2 * (i & 1) + (j & 1),
}


def prmt_mode(pick: Callable[[int, int], int], a: int, b: int, c: int) -> int:
    return sum(byte_of(a | b << 32, pick(c & 3, j)) << (8 * j) for j in range(4))


def lop3_expected(given: Words) -> Expected:
    """Bit (a, b, c) of the result is bit 4 a + 2 b + c of the table."""
    a, b, c = (given[..., n] for n in range(3))
    out = np.zeros((*given.shape[:-1], 256), np.uint32)
    for entry in range(8):
        chosen = (a if entry & 4 else ~a) & (b if entry & 2 else ~b) & (c if entry & 1 else ~c)
        for table in range(256):
            if table >> entry & 1:
                out[..., table] |= chosen
    return Expected(words=out)


LOP3 = Case(
    name="lop3.b32",
    body="".join(f"lop3.b32 %d{n}, %a0, %a1, %a2, {n};\n" for n in range(256)),
    inputs=any_words(3),
    expect=lop3_expected,
    out_words=256,
    warps=4,
)


def bfe(bits: int, is_signed: bool, a: int, b: int, c: int) -> int:
    """PTX ISA, "bfe": bits beyond the field or the register are the sign's."""
    top, start, length = bits - 1, b & 0xFF, c & 0xFF
    sign = 0 if not is_signed or length == 0 else a >> min(start + length - 1, top) & 1
    out = 0
    for i in range(bits):
        out |= (a >> (start + i) & 1 if i < length and start + i <= top else sign) << i
    return out


def bfi(bits: int, a: int, b: int, c: int, d: int) -> int:
    """PTX ISA, "bfi": field a into b."""
    start, length = c & 0xFF, d & 0xFF
    out = b
    for i in range(length):
        if start + i > bits - 1:
            break
        out = out & ~(1 << (start + i)) | (a >> i & 1) << (start + i)
    return out


def bfind(bits: int, is_signed: bool, is_shift: bool, a: int) -> int:
    """PTX ISA, "bfind": the highest 1, of negative numbers the highest 0."""
    if is_signed and a >> (bits - 1):
        a = ~a & ((1 << bits) - 1)
    if a == 0:
        return M32
    at = a.bit_length() - 1
    return bits - 1 - at if is_shift else at


def shf(is_left: bool, wraps: bool, a: int, b: int, c: int) -> int:
    n = c & 31 if wraps else min(c, 32)
    both = b << 32 | a
    return both << n >> 32 & M32 if is_left else both >> n & M32


def shifted(kind: str, bits: int, a: int, b: int) -> int:
    """Shifts stop at the width of the register."""
    if kind == "shl":
        return a << min(b, bits) & ((1 << bits) - 1)
    return (signed(a, bits) if kind == "asr" else a) >> min(b, bits) & ((1 << bits) - 1)


SHIFTS = [
    *[simple(f"{op}.b32", 2, partial(shifted, "shl" if op == "shl" else "shr", 32)) for op in ("shl", "shr")],
    simple("shr.s32", 2, partial(shifted, "asr", 32)),
    simple("shr.u32", 2, partial(shifted, "shr", 32)),
    wide("shl.b64", partial(shifted, "shl", 64), 1, 1),
    wide("shr.u64", partial(shifted, "shr", 64), 1, 1),
    wide("shr.s64", partial(shifted, "asr", 64), 1, 1),
    *[
        simple(f"shf.{d}.{m}.b32", 3, partial(shf, d == "l", m == "wrap"))
        for d in ("l", "r")
        for m in ("wrap", "clamp")
    ],
]

FIELDS = [
    *[simple(f"bfe.{t}32", 3, partial(bfe, 32, t == "s")) for t in ("u", "s")],
    *[wide(f"bfe.{t}64", partial(bfe, 64, t == "s"), 1, 2) for t in ("u", "s")],
    simple("bfi.b32", 4, partial(bfi, 32)),
    wide("bfi.b64", partial(bfi, 64), 2, 2),
    *[
        simple(f"bfind{s}.{t}32", 1, partial(bfind, 32, t == "s", bool(s)))
        for s in ("", ".shiftamt")
        for t in ("u", "s")
    ],
    *[
        wide(f"bfind{s}.{t}64", partial(bfind, 64, t == "s", bool(s)), 1, 0, out_wide=False)
        for s in ("", ".shiftamt")
        for t in ("u", "s")
    ],
    simple("brev.b32", 1, lambda a: int(f"{a:032b}"[::-1], 2)),
    wide("brev.b64", lambda a: int(f"{a:064b}"[::-1], 2), 1, 0),
    simple("clz.b32", 1, lambda a: 32 - a.bit_length()),
    wide("clz.b64", lambda a: 64 - a.bit_length(), 1, 0, out_wide=False),
    simple("popc.b32", 1, lambda a: a.bit_count()),
    wide("popc.b64", lambda a: a.bit_count(), 1, 0, out_wide=False),
    simple("prmt.b32", 3, prmt),
    *[simple(f"prmt.b32.{mode}", 3, partial(prmt_mode, pick)) for mode, pick in PRMT_MODES.items()],
    LOP3,
]


def divided(a: int, b: int) -> int:
    """Quotient cut off towards zero."""
    return (abs(a) // abs(b)) * (-1 if (a < 0) != (b < 0) else 1)


def _add_carry(a: int, b: int, c: int, d: int) -> tuple[int, int, int]:
    both = (a | b << 32) + (c | d << 32)
    return both & M32, both >> 32 & M32, both >> 64


def _sub_borrow(a: int, b: int, c: int, d: int) -> tuple[int, int, int]:
    both = (a | b << 32) - (c | d << 32)
    return both & M32, both >> 32 & M32, (M32 if both < 0 else 0)


ARITHMETIC = [
    simple("add.s32", 2, lambda a, b: a + b),
    simple("sub.s32", 2, lambda a, b: a - b),
    simple("mul.lo.s32", 2, lambda a, b: a * b),
    simple("mul.hi.s32", 2, lambda a, b: signed(a) * signed(b) >> 32),
    simple("mul.hi.u32", 2, lambda a, b: a * b >> 32),
    simple("mad.lo.s32", 3, lambda a, b, c: a * b + c),
    simple("mad.hi.u32", 3, lambda a, b, c: (a * b >> 32) + c),
    simple("sad.u32", 3, lambda a, b, c: abs(a - b) + c),
    simple("abs.s32", 1, lambda a: abs(signed(a))),
    simple("neg.s32", 1, lambda a: -a),
    simple("not.b32", 1, lambda a: ~a),
    simple("cnot.b32", 1, lambda a: int(a == 0)),
    simple("and.b32", 2, lambda a, b: a & b),
    simple("or.b32", 2, lambda a, b: a | b),
    simple("xor.b32", 2, lambda a, b: a ^ b),
    simple("min.s32", 2, lambda a, b: min(signed(a), signed(b))),
    simple("max.s32", 2, lambda a, b: max(signed(a), signed(b))),
    simple("min.u32", 2, lambda a, b: min(a, b)),
    simple("max.u32", 2, lambda a, b: max(a, b)),
    simple("div.u32", 2, lambda a, b: a // (b | 1), "or.b32 %t2, %a1, 1; div.u32 %d0, %a0, %t2;"),
    simple("rem.u32", 2, lambda a, b: a % (b | 1), "or.b32 %t2, %a1, 1; rem.u32 %d0, %a0, %t2;"),
    simple("div.s32", 2, lambda a, b: divided(signed(a), signed(b | 1)), "or.b32 %t2, %a1, 1; div.s32 %d0, %a0, %t2;"),
    simple(
        "rem.s32",
        2,
        lambda a, b: signed(a) - divided(signed(a), signed(b | 1)) * signed(b | 1),
        "or.b32 %t2, %a1, 1; rem.s32 %d0, %a0, %t2;",
    ),
    simple(
        "mul.wide.s32",
        2,
        lambda a, b: ((p := signed(a) * signed(b) & M64) & M32, p >> 32),
        "mul.wide.s32 %x4, %a0, %a1; mov.b64 {%d0, %d1}, %x4;",
        out_words=2,
    ),
    simple(
        "mul.wide.u32",
        2,
        lambda a, b: (a * b & M32, a * b >> 32),
        "mul.wide.u32 %x4, %a0, %a1; mov.b64 {%d0, %d1}, %x4;",
        out_words=2,
    ),
    wide("add.s64", lambda a, b: a + b & M64, 2, 0),
    wide("sub.s64", lambda a, b: a - b & M64, 2, 0),
    wide("mul.lo.s64", lambda a, b: a * b & M64, 2, 0),
    wide("neg.s64", lambda a: -a & M64, 1, 0),
    wide("mul.hi.u64", lambda a, b: a * b >> 64, 2, 0),
    simple(
        "add.cc.u32",
        4,
        _add_carry,
        "add.cc.u32 %d0, %a0, %a2; addc.cc.u32 %d1, %a1, %a3; addc.u32 %d2, 0, 0;",
        out_words=3,
        tests=("add.cc.u32", "addc.cc.u32", "addc.u32"),
    ),
    simple(
        "sub.cc.u32",
        4,
        _sub_borrow,
        "sub.cc.u32 %d0, %a0, %a2; subc.cc.u32 %d1, %a1, %a3; subc.u32 %d2, 0, 0;",
        out_words=3,
        tests=("sub.cc.u32", "subc.cc.u32", "subc.u32"),
    ),
]

# ---------------------------------------------------------------------- conversions among integers

INTEGERS = [f"{sign}{bits}" for bits in (8, 16, 32, 64) for sign in ("u", "s")]


def ends(kind: str) -> tuple[int, int]:
    bits = int(kind[1:])
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)


def converted(target: str, source: str, saturates: bool, low: int, high: int) -> tuple[int, int]:
    """The source's low bits; cut off or stopped at the ends; extended to 32 bits, or 64 of a 64-bit type."""
    bits = int(source[1:])
    value = (low | high << 32) & ((1 << bits) - 1)
    value = signed(value, bits) if source[0] == "s" else value
    if saturates:
        value = max(ends(target)[0], min(ends(target)[1], value))
    width = int(target[1:])
    value = signed(value, width) if target[0] == "s" else value & ((1 << width) - 1)
    value &= M64 if width == 64 else M32
    return value & M32, value >> 32


def convert_case(target: str, source: str, saturates: bool) -> Case:
    opcode = f"cvt{'.sat' if saturates else ''}.{target}.{source}"
    given = "%x4" if source.endswith("64") else "%a0"
    if target.endswith("64"):
        body = f"mov.b64 %x4, {{%a0, %a1}}; {opcode} %x5, {given}; mov.b64 {{%d0, %d1}}, %x5;"
    else:
        body = f"mov.b64 %x4, {{%a0, %a1}}; {opcode} %d0, {given}; mov.b32 %d1, 0;"
    return simple(opcode, 2, partial(converted, target, source, saturates), body, out_words=2)


def can_saturate(target: str, source: str) -> bool:
    """Whether the target cannot hold all of the source: .sat is illegal elsewhere."""
    return ends(source)[0] < ends(target)[0] or ends(source)[1] > ends(target)[1]


CONVERSIONS = [
    convert_case(target, source, saturates)
    for target in INTEGERS
    for source in INTEGERS
    for saturates in (False, True)
    if target != source and (not saturates or can_saturate(target, source))
]

# ---------------------------------------------------------------------- moves, packs and choices

MOVES = [
    simple("mov.b32", 1, lambda a: a),
    simple("mov.u32", 1, lambda a: a),
    simple("mov.f32", 1, lambda a: a, "mov.b32 %f0, %a0; mov.f32 %f1, %f0; mov.b32 %d0, %f1;"),
    wide("mov.b64", lambda a: a, 1, 0),
    wide("mov.u64", lambda a: a, 1, 0),
    simple("mov.b16", 1, lambda a: a & 0xFFFF, "cvt.u16.u32 %h0, %a0; mov.b16 %h1, %h0; cvt.u32.u16 %d0, %h1;"),
    simple(
        "mov.b32",
        2,
        lambda a, b: (a >> 16 | (b & 0xFFFF) << 16, a & 0xFFFF),
        "mov.b32 {%h0, %h1}, %a0; mov.b32 {%h2, %h3}, %a1; mov.b32 %d0, {%h1, %h2}; cvt.u32.u16 %d1, %h0;",
        out_words=2,
        note="halves",
    ),
    simple(
        "mov.b64",
        2,
        lambda a, b: (b, a, b & 0xFFFF | b & 0xFFFF0000, b >> 16 | a << 16 & 0xFFFF0000),
        "mov.b64 %x4, {%a0, %a1}; mov.b64 {%t2, %t3}, %x4; mov.b32 %d0, %t3; mov.b32 %d1, %t2;"
        "mov.b64 {%h0, %h1, %h2, %h3}, %x4; mov.b32 %d2, {%h2, %h3}; mov.b32 %d3, {%h3, %h0};",
        out_words=4,
        note="words and halves",
    ),
    simple(
        "mov.b32",
        2,
        lambda a, b: byte_of(a, 3) | byte_of(b, 0) << 8 | byte_of(a, 1) << 16 | byte_of(b, 2) << 24,
        "{ .reg .b8 %q<8>; mov.b32 {%q0, %q1, %q2, %q3}, %a0; mov.b32 {%q4, %q5, %q6, %q7}, %a1;"
        "mov.b32 %d0, {%q3, %q4, %q1, %q6}; }",
        note="bytes",
    ),
    simple(
        "selp.b32",
        3,
        lambda a, b, c: a if signed(c) < 0 else b,
        "setp.lt.s32 %p0, %a2, 0; selp.b32 %d0, %a0, %a1, %p0;",
    ),
    simple(
        "selp.f32",
        3,
        lambda a, b, c: b if c & 1 else a,
        "and.b32 %t2, %a2, 1; setp.eq.u32 %p0, %t2, 0; mov.b32 %f0, %a0; mov.b32 %f1, %a1;"
        "selp.f32 %f2, %f0, %f1, %p0; mov.b32 %d0, %f2;",
    ),
    simple("slct.b32.s32", 3, lambda a, b, c: a if signed(c) >= 0 else b),
    simple(
        "cvta.to.global.u64",
        1,
        lambda a: (a, a, 1),
        "cvta.global.u64 %x8, %x1; cvta.to.global.u64 %x9, %x8; ld.u32 %d0, [%x8]; ld.global.u32 %d1, [%x9];"
        "isspacep.global %p0, %x8; selp.u32 %d2, 1, 0, %p0;",
        out_words=3,
        tests=("cvta.to.global.u64", "cvta.global.u64", "isspacep.global"),
    ),
    simple(
        "cvta.to.shared.u64",
        1,
        lambda a: (a, 1),
        "mov.u64 %x4, tile; cvta.shared.u64 %x5, %x4;"
        "isspacep.shared %p0, %x5; selp.u32 %d1, 1, 0, %p0;"
        "mul.wide.u32 %x7, %t1, 4; cvta.shared.u64 %x5, %x4; add.s64 %x5, %x5, %x7; st.u32 [%x5], %a0;"
        "cvta.to.shared.u64 %x6, %x5; ld.shared.u32 %d0, [%x6];",
        out_words=2,
        tests=("cvta.to.shared.u64", "cvta.shared.u64", "isspacep.shared"),
    ),
]

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def compare_case(op: str, kind: str) -> Case:
    """Half the pairs are equal, or nearly. The second predicate is the complement of the first."""
    opcode = f"setp.{op}.{kind}"

    def compared(*words: int) -> int:
        a, b = words[0] | words[1] << 32, (words[0] | words[1] << 32 if words[4] & 1 else words[2] | words[3] << 32)
        bits = int(kind[1:])
        a, b = (signed(one, bits) if kind[0] == "s" else one & ((1 << bits) - 1) for one in (a, b))
        return 1 if COMPARISONS[op](a, b) else 2

    a, b = ("%x4", "%x5") if kind.endswith("64") else ("%a0", "%t2")
    body = (
        "and.b32 %t4, %a4, 1; setp.ne.u32 %p3, %t4, 0; selp.b32 %t2, %a0, %a2, %p3; selp.b32 %t3, %a1, %a3, %p3;"
        f"mov.b64 %x4, {{%a0, %a1}}; mov.b64 %x5, {{%t2, %t3}}; {opcode} %p0|%p1, {a}, {b}; mov.b32 %d0, 0;"
        "@%p0 add.u32 %d0, %d0, 1; @%p1 add.u32 %d0, %d0, 2;"
    )
    return simple(opcode, 5, compared, body)


def compare_floats(op: str) -> Case:
    """eq to ge are false of NaN, with a u behind true; num and nan ask for it alone."""
    opcode = f"setp.{op}.f32"

    def compared(x: int, y: int) -> int:
        a, b = (struct.unpack("<f", struct.pack("<I", one))[0] for one in (x, y))
        unordered = a != a or b != b
        if op in ("num", "nan"):
            return int(unordered == (op == "nan"))
        return int(op.endswith("u") if unordered else COMPARISONS[op[:2]](a, b))

    body = f"mov.b32 %f0, %a0; mov.b32 %f1, %a1; {opcode} %p0, %f0, %f1; selp.b32 %d0, 1, 0, %p0;"
    return Case(name=opcode, body=body, inputs=floats(2), expect=of_words(2, compared))


COMPARE = [
    *[compare_case(op, kind) for op in COMPARISONS for kind in ("s32", "u32", "s64", "u64")],
    *[compare_floats(op + u) for op in COMPARISONS for u in ("", "u")],
    *[compare_floats(op) for op in ("num", "nan")],
]

BITS: list[Case] = [*COMPARE, *FIELDS, *SHIFTS, *ARITHMETIC, *CONVERSIONS, *MOVES]
