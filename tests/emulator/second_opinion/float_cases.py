"""Floating-point arithmetic, exact and approximate, and conversions that involve floating point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from . import formats as ff
from .bits_cases import INTEGERS, M32, M64, ends, of_words
from .formats import F16, F32, F64, FORMATS, INF, NAN, Doubles, Format, Number, Words, parts, values
from .harness import LANES, Case, Expected, Rng, any_words, floats, random_floats

Operation = Callable[..., Number]
ONE = Number(False, 1, 0)


def quotient(a: Number, b: Number) -> Number:
    """a / b, cut off far below what any format keeps, its last bit set if anything was."""
    is_negative = a.is_negative != b.is_negative
    if NAN in (a.whole, b.whole) or (a.whole == b.whole and a.whole in (0, INF)):
        return ff.A_NAN
    if a.whole == INF or b.whole == 0:
        return Number(is_negative, INF, 0)
    if a.whole == 0 or b.whole == INF:
        return Number(is_negative, 0, 0)
    shift = 128 + b.whole.bit_length()
    whole, rest = divmod(a.whole << shift, b.whole)
    return Number(is_negative, whole << 1 | (rest != 0), a.power - b.power - shift - 1)


def root(a: Number) -> Number:
    if a.whole == NAN or (a.is_negative and a.whole != 0):
        return ff.A_NAN
    if a.whole in (0, INF):
        return a
    shift = 128 + (a.power & 1)
    whole = math.isqrt(a.whole << shift)
    return Number(False, whole << 1 | (whole * whole != a.whole << shift), (a.power - shift) // 2 - 1)


OPERATIONS: dict[str, Callable[[str], Operation]] = {
    "add": lambda r: lambda a, b: ff.total(a, b, r),
    "sub": lambda r: lambda a, b: ff.total(a, ff.negated(b), r),
    "mul": lambda r: ff.product,
    "fma": lambda r: lambda a, b, c: ff.total(ff.product(a, b), c, r),
    "div": lambda r: quotient,
    "rcp": lambda r: lambda a: quotient(ONE, a),
    "sqrt": lambda r: root,
    "neg": lambda r: ff.negated,
    "abs": lambda r: lambda a: a._replace(is_negative=False),
}
ROUNDINGS = ("rn", "rz", "rm", "rp")
OPERANDS = {"fma": 3, "rcp": 1, "sqrt": 1, "neg": 1, "abs": 1}


def scalar(opcode: str, fmt: Format, *patterns: int) -> int:
    """What an opcode makes of one element of each operand: its modifiers, in words."""
    op, *modifiers = opcode.split(".")
    flushes = "ftz" in modifiers
    given = [ff.number(one, fmt) for one in patterns]
    if flushes:
        given = [ff.flushed(one, fmt) for one in given]
    rounding = next((one for one in modifiers if one in ROUNDINGS), "rn")
    if op in ("min", "max"):
        out = ff.larger(*given, pick_less=op == "min", keep_nan="NaN" in modifiers)
    else:
        out = OPERATIONS[op](rounding)(*given)
    if "sat" in modifiers:
        out = ff.clamped(out)
    if "relu" in modifiers and out.is_negative and out.whole != NAN:
        out = Number(False, 0, 0)
    bits = ff.pattern(out, fmt, rounding)
    return ff.pattern(ff.flushed(ff.number(bits, fmt), fmt), fmt) if flushes else bits


def float_expected(opcode: str, kind: str, operands: int, given: Words) -> Expected:
    """Element by element; NaN results are canonical for min and max, and of any bits elsewhere."""
    fmt = FORMATS[kind]
    pieces = [parts(given[..., n : n + 1], fmt.bits) for n in range(operands)]
    out = ff.each(partial(scalar, opcode, fmt), *pieces)
    canonical = opcode.startswith(("min", "max"))
    return Expected(words=ff.joined(out, fmt.bits), any_nan="" if canonical else kind)


def f32_case(opcode: str, sm: int = 80) -> Case:
    operands = OPERANDS.get(opcode.partition(".")[0], 2)
    moves = "".join(f"mov.b32 %f{n}, %a{n};" for n in range(operands))
    names = ", ".join(f"%f{n}" for n in range(operands))
    return Case(
        name=opcode,
        body=f"{moves} {opcode} %f4, {names}; mov.b32 %d0, %f4;",
        inputs=floats(operands),
        expect=partial(float_expected, opcode, "f32", operands),
        sm=sm,
    )


def half_cases(stem: str, kind: str, sm: int = 80) -> list[Case]:
    """The opcode on pairs, and on single elements, both of a word in turn."""
    operands = OPERANDS.get(stem.partition(".")[0], 2)
    make, expect = floats(operands, kind, -13, 14), partial(float_expected, f"{stem}.{kind}", kind, operands)
    names = ", ".join(f"%a{n}" for n in range(operands))
    low, high = (", ".join(f"%{letter}{n}" for n in range(operands)) for letter in "hs")
    split = "".join(f"mov.b32 {{%h{n}, %s{n}}}, %a{n};" for n in range(operands))
    if kind == "bf16":
        make = floats(operands, kind, -20, 20)
    one = f"{stem}.{kind}"
    body = f"{split} {one} %h7, {low}; {one} %s7, {high}; mov.b32 %d0, {{%h7, %s7}};"
    return [
        Case(name=f"{one}x2", body=f"{one}x2 %d0, {names};", inputs=make, expect=expect, sm=sm, warps=16),
        Case(name=one, body=body, inputs=make, expect=expect, sm=sm, warps=16),
    ]


ARITHMETIC = [
    *[f32_case(f"{op}.f32") for op in ("add", "sub", "mul", "neg", "abs", "min", "max")],
    *[f32_case(f"{op}.ftz.f32") for op in ("add", "sub", "mul", "neg", "abs", "min", "max")],
    *[f32_case(f"{op}.{r}.f32") for op in ("add", "sub", "mul", "fma", "div", "rcp", "sqrt") for r in ROUNDINGS],
    *[f32_case(f"{op}.rn.ftz.f32") for op in ("add", "sub", "mul", "fma", "div", "rcp", "sqrt")],
    *[f32_case(f"{op}.rz.ftz.f32") for op in ("add", "fma")],
    *[f32_case(f"{op}.rn.sat.f32") for op in ("add", "mul", "fma")],
    f32_case("fma.rn.ftz.sat.f32"),
    *[f32_case(f"{op}.NaN.f32") for op in ("min", "max")],
    *[f32_case(f"{op}.ftz.NaN.f32") for op in ("min", "max")],
    Case(
        name="copysign.f32",
        body="mov.b32 %f0, %a0; mov.b32 %f1, %a1; copysign.f32 %f2, %f0, %f1; mov.b32 %d0, %f2;",
        inputs=any_words(2),
        expect=of_words(2, lambda a, b: a & 0x80000000 | b & 0x7FFFFFFF),  # the sign of a, the rest of b
    ),
    *[
        case
        for stem in (
            "add", "sub", "mul", "add.rn", "mul.rn", "add.ftz", "sub.ftz", "mul.ftz",
            "fma.rn", "fma.rn.ftz", "fma.rn.relu", "min", "max", "min.ftz", "max.ftz", "max.NaN", "min.NaN", "neg",
            "abs",
        )
        for case in half_cases(stem, "f16")
    ],
    *[
        case
        for stem in ("fma.rn", "fma.rn.relu", "min", "max", "min.NaN", "max.NaN", "neg", "abs")
        for case in half_cases(stem, "bf16")
    ],
    *[case for stem in ("add", "sub", "mul", "add.rn", "mul.rn") for case in half_cases(stem, "bf16", 90)],
]  # fmt: skip

# ---------------------------------------------------------------------- conversions


def narrowed(opcode: str, target: Format, source: Format, bits: int) -> int:
    """One element from a format to another, by the modifiers of a cvt."""
    modifiers = opcode.split(".")
    value = ff.number(bits, source)
    if "relu" in modifiers and value.is_negative and value.whole != NAN:
        value = Number(False, 0, 0)
    rounding = next((one for one in modifiers if one in (*ROUNDINGS, "rna")), "rn")
    return ff.pattern(value, target, rounding, satfinite="satfinite" in modifiers)


def plus_zero(inputs: Callable[[Rng, int], Words], bits: int = 32) -> Callable[[Rng, int], Words]:
    """Without -0: that .relu makes +0 of it is likely, but the ISA speaks of negative results only."""

    def make(rng: Rng, warps: int) -> Words:
        pieces = parts(inputs(rng, warps), bits)
        return ff.joined(np.where(pieces == np.uint32(1 << (bits - 1)), np.uint32(0), pieces), bits)

    return make


def narrow_one(stem: str, target: str, sm: int = 80) -> Case:
    """From f32; a 16-bit result stands in the low half."""
    opcode = f"{stem}.{target}.f32"
    fmt = FORMATS[target]

    def expect(given: Words) -> Expected:
        out = ff.each(partial(narrowed, opcode, fmt, F32), given[..., :1])
        return Expected(words=out.astype(np.uint32))

    body = f"mov.b32 %f0, %a0; {opcode} %h0, %f0; mov.b16 %h1, 0; mov.b32 %d0, {{%h0, %h1}};"
    if target == "tf32":
        body = f"mov.b32 %f0, %a0; {opcode} %d0, %f0;"
    return Case(
        name=opcode,
        body=body,
        inputs=plus_zero(floats(1, low=-26, high=17)) if "relu" in stem else floats(1, low=-26, high=17),
        expect=_any_nan(expect, target, "relu" in stem or target == "tf32"),
        sm=sm,
    )


def _any_nan(expect: Callable[[Words], Expected], kind: str, is_canonical: bool) -> Callable[[Words], Expected]:
    """The same, with any NaN for a NaN of a format unless the ISA names the canonical one."""
    return lambda given: Expected(words=expect(given).words, any_nan="" if is_canonical else kind)


def narrow_pair(stem: str, target: str, sm: int = 80) -> Case:
    """Two of f32: the first operand becomes the upper element. FP8 fills the low half of a word."""
    opcode = f"{stem}.{target}x2.f32"
    fmt = FORMATS[target]
    to_byte = fmt.bits == 8

    def expect(given: Words) -> Expected:
        out = ff.each(partial(narrowed, opcode, fmt, F32), given[..., :2])
        return Expected(words=(out[..., :1] << np.uint64(fmt.bits) | out[..., 1:]).astype(np.uint32))

    d, after = ("%h0", "mov.b16 %h1, 0; mov.b32 %d0, {%h0, %h1};") if to_byte else ("%d0", "")
    wide = {"e4m3": (-12, 10), "e5m2": (-18, 17), "f16": (-26, 17), "bf16": (-30, 30)}[target]
    make = floats(2, low=wide[0], high=wide[1])
    return Case(
        name=opcode,
        body=f"mov.b32 %f0, %a0; mov.b32 %f1, %a1; {opcode} {d}, %f0, %f1; {after}",
        inputs=plus_zero(make) if "relu" in stem else make,
        expect=_any_nan(expect, target, "relu" in stem or to_byte),
        sm=sm,
    )


def fp8_of_halves(stem: str, target: str) -> Case:
    opcode = f"{stem}.{target}x2.f16x2"

    def expect(given: Words) -> Expected:
        out = ff.each(partial(narrowed, opcode, FORMATS[target], F16), parts(given[..., :1], 16))
        return Expected(words=(out[..., :1] | out[..., 1:] << np.uint64(8)).astype(np.uint32))

    return Case(
        name=opcode,
        body=f"{opcode} %h0, %a0; mov.b16 %h1, 0; mov.b32 %d0, {{%h0, %h1}};",
        inputs=plus_zero(floats(1, "f16", -14, 15), 16) if "relu" in stem else floats(1, "f16", -14, 15),
        expect=expect,
        sm=89,
    )


def halves_of_fp8(stem: str, source: str) -> Case:
    """Every FP8 value is one of f16."""
    opcode = f"{stem}.f16x2.{source}x2"

    def expect(given: Words) -> Expected:
        out = ff.each(partial(narrowed, opcode, F16, FORMATS[source]), parts(given[..., :1], 8)[..., :2])
        return Expected(words=ff.joined(out, 16), any_nan="" if "relu" in stem else "f16")

    def every(rng: Rng, warps: int) -> Words:
        return rng.integers(0, 65536, (warps, LANES, 1)).astype(np.uint32)

    return Case(
        name=opcode,
        body=f"mov.b32 {{%h0, %h1}}, %a0; {opcode} %d0, %h0;",
        inputs=plus_zero(every, 8) if "relu" in stem else every,
        expect=expect,
        sm=89,
        warps=64,
    )


def widened(source: str) -> Case:
    opcode = f"cvt.f32.{source}"

    def expect(given: Words) -> Expected:
        wide = values(parts(given[..., :1], 16), source)
        with np.errstate(invalid="ignore"):
            return Expected(words=wide.astype(np.float32).view(np.uint32), any_nan="f32")

    return Case(
        name=opcode,
        body=f"mov.b32 {{%h0, %h1}}, %a0; {opcode} %f0, %h0; {opcode} %f1, %h1; mov.b32 %d0, %f0; mov.b32 %d1, %f1;",
        inputs=floats(1, source, -14, 14, edges=0.4),
        expect=expect,
        out_words=2,
    )


def to_integer(rounding: str, target: str, bits: int) -> tuple[int, int]:
    """Rounded to a whole number and stopped at the ends; NaN is 0, or of 64 bits the highest bit alone."""
    value = ff.number(bits, F32)
    low, high = ends(target)
    width = int(target[1:])
    if value.whole == NAN:
        found = 1 << 63 if width == 64 else 0
    elif value.whole == INF:
        found = low if value.is_negative else high
    else:
        whole = value.whole << value.power if value.power >= 0 else value.whole >> -value.power
        rest = 0 if value.power >= 0 else value.whole & ((1 << -value.power) - 1)
        half = 0 if value.power >= 0 else 1 << (-value.power - 1)
        up = {
            "rzi": False,
            "rni": rest > half or (rest == half and rest > 0 and whole % 2 == 1),
            "rmi": rest > 0 and value.is_negative,
            "rpi": rest > 0 and not value.is_negative,
        }[rounding]
        found = max(low, min(high, (-1 if value.is_negative else 1) * (whole + up)))
    found &= M64 if width == 64 else M32  # a signed result is extended to the register
    return found & M32, found >> 32


def to_integer_case(rounding: str, target: str) -> Case:
    opcode = f"cvt.{rounding}.{target}.f32"
    end = (
        f"{opcode} %x4, %f0; mov.b64 {{%d0, %d1}}, %x4;"
        if target.endswith("64")
        else f"{opcode} %d0, %f0; mov.b32 %d1, 0;"
    )
    return Case(
        name=opcode,
        body=f"mov.b32 %f0, %a0; {end}",
        inputs=floats(1, low=-3, high=int(target[1:]) + 1, edges=0.3),
        expect=of_words(1, partial(to_integer, rounding, target)),
        out_words=2,
        warps=16,
    )


def to_whole_float(rounding: str) -> Case:
    """cvt.rni.f32.f32 and the like: a whole number as a float, with the sign of what it came from."""

    def one(bits: int) -> int:
        value = ff.number(bits, F32)
        if value.whole < 0 or value.power >= 0:
            return ff.pattern(value, F32)
        low, high = to_integer(rounding, "s64", bits)
        whole = low | high << 32
        whole = whole - (1 << 64) if whole >> 63 else whole
        return ff.pattern(Number(value.is_negative, abs(whole), 0), F32)

    def expect(given: Words) -> Expected:
        return Expected(words=ff.each(one, given).astype(np.uint32), any_nan="f32")

    opcode = f"cvt.{rounding}.f32.f32"
    body = f"mov.b32 %f0, %a0; {opcode} %f1, %f0; mov.b32 %d0, %f1;"
    return Case(name=opcode, body=body, inputs=floats(1, low=-3, high=26, edges=0.3), expect=expect)


def from_integer(rounding: str, source: str) -> Case:
    opcode = f"cvt.{rounding}.f32.{source}"
    width = int(source[1:])

    def one(low: int, high: int) -> int:
        whole = (low | high << 32) & ((1 << width) - 1)
        is_negative = source[0] == "s" and whole >> (width - 1) == 1
        return ff.pattern(Number(is_negative, (1 << width) - whole if is_negative else whole, 0), F32, rounding)

    given = "%x4" if width == 64 else "%a0"
    return Case(
        name=opcode,
        body=f"mov.b64 %x4, {{%a0, %a1}}; {opcode} %f0, {given}; mov.b32 %d0, %f0;",
        inputs=any_words(2),
        expect=of_words(2, one),
    )


def of_double() -> list[Case]:
    def down(low: int, high: int) -> int:
        return ff.pattern(ff.number(low | high << 32, F64), F32)

    def up(bits: int) -> tuple[int, int]:
        out = ff.pattern(ff.number(bits, F32), F64)
        return out & M32, out >> 32

    def finite(words: Words) -> Words:
        return np.where(words & np.uint32(0x7F800000) == 0x7F800000, words & np.uint32(0x807FFFFF), words)

    def doubles(rng: Rng, warps: int) -> Words:
        words = any_words(2)(rng, warps)
        near = rng.integers(0x36000000, 0x48000000, words.shape[:2]).astype(np.uint32)
        words[..., 1] = np.where(
            rng.random(words.shape[:2]) < 0.8, near | words[..., 1] & np.uint32(0x80000000), words[..., 1]
        )
        words[..., 1] = np.where(words[..., 1] & np.uint32(0x7FF00000) == 0x7FF00000, near, words[..., 1])
        return words

    return [
        Case(
            name="cvt.rn.f32.f64",
            body="{ .reg .f64 %g; mov.b64 %g, {%a0, %a1}; cvt.rn.f32.f64 %f0, %g; mov.b32 %d0, %f0; }",
            inputs=doubles,
            expect=of_words(2, down),
        ),
        Case(
            name="cvt.f64.f32",
            body="{ .reg .f64 %g; mov.b32 %f0, %a0; cvt.f64.f32 %g, %f0; mov.b64 {%d0, %d1}, %g; }",
            inputs=lambda rng, warps: finite(floats(1, low=-120, high=120)(rng, warps)),
            expect=of_words(1, up),
            out_words=2,
        ),
    ]


_NARROW = [f"cvt.{r}{relu}{sat}" for r in ("rn", "rz") for relu in ("", ".relu") for sat in ("", ".satfinite")]
CONVERSIONS = [
    *[narrow_one(stem, target) for target in ("f16", "bf16") for stem in _NARROW],
    *[narrow_pair(stem, target) for target in ("f16", "bf16") for stem in _NARROW],
    *[narrow_one(f"cvt.{r}", "f16") for r in ("rm", "rp")],
    *[widened(source) for source in ("f16", "bf16")],
    narrow_one("cvt.rna", "tf32"),
    *[narrow_one(f"cvt.{r}{relu}", "tf32", 90) for r in ("rn", "rz") for relu in ("", ".relu")],
    *[
        case
        for kind in ("e4m3", "e5m2")
        for relu in ("", ".relu")
        for case in (
            narrow_pair(f"cvt.rn.satfinite{relu}", kind, 89),
            fp8_of_halves(f"cvt.rn.satfinite{relu}", kind),
            halves_of_fp8(f"cvt.rn{relu}", kind),
        )
    ],
    *[to_integer_case(r, target) for r in ("rni", "rzi", "rmi", "rpi") for target in INTEGERS],
    *[to_whole_float(r) for r in ("rni", "rzi", "rmi", "rpi")],
    *[from_integer("rn", source) for source in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")],
    *[from_integer(r, "s32") for r in ("rz", "rm", "rp")],
    *of_double(),
]

# ---------------------------------------------------------------------- approximations


def ulp(exact: Doubles, kind: str) -> Doubles:
    """One unit in the last place of a value, of subnormals the smallest."""
    fmt = FORMATS[kind]
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log2(np.nan_to_num(np.abs(exact), posinf=0.0)))
    return np.exp2(
        np.maximum(np.nan_to_num(exponent, neginf=-2000.0), fmt.least + fmt.fraction_bits) - fmt.fraction_bits
    )


@np.errstate(all="ignore")
def approximate_expected(
    function: Callable[..., Doubles],
    kind: str,
    flushes: bool,
    bound: Callable[[Doubles, Doubles], Doubles],
    operands: int,
    given: Words,
) -> Expected:
    """The exact value, and the documented bound around it; zeros, infinities and NaN must be themselves.

    Args:
        bound: how far off, by the input and the exact value.
    """
    fmt = FORMATS[kind]
    least = 2.0 ** (fmt.least + fmt.fraction_bits)
    largest = ff.as_float(ff.number(fmt.infinity - 1 << fmt.pad, fmt))
    x = [values(parts(given[..., n : n + 1], fmt.bits), kind) for n in range(operands)]
    if flushes:
        x = [np.where(np.abs(one) < least, np.copysign(0.0, one), one) for one in x]
    exact = np.asarray(function(*x), float)
    allowed = np.where((exact == 0) | ~np.isfinite(exact), 0.0, bound(x[0], exact))
    size = np.abs(exact)
    # Beside the ends of the format the approximation decides on which side it is.
    over = size > largest + allowed + ulp(np.full(1, largest), kind)
    near_top = (size + allowed >= largest) & ~over & np.isfinite(exact)
    exact = np.where(over, np.copysign(np.inf, exact), exact)
    allowed = np.where(near_top, np.inf, np.where(over, 0.0, allowed))
    if flushes:
        under = size + allowed < least
        exact = np.where(under, np.copysign(0.0, exact), exact)
        allowed = np.where(under, 0.0, np.where(size - allowed < least, allowed + least, allowed))
    return Expected(near=exact, allowed=allowed, kind=kind, signed_zero=True)


Bound = Callable[[Doubles, Doubles], Doubles]


def relative(part: float, kind: str) -> Bound:
    return lambda x, exact: (
        np.abs(exact) * part + np.where(ulp(exact, kind) == ulp(np.zeros(1), kind), ulp(exact, kind), 0)
    )


def absolute(size: float) -> Bound:
    return lambda x, exact: np.full(exact.shape, size)


def ulps(count: float, kind: str) -> Bound:
    return lambda x, exact: count * ulp(exact, kind)


def _lg2_bound(x: Doubles, exact: Doubles) -> Doubles:
    """Absolute within (0.5, 2), relative elsewhere."""
    return np.where((x > 0.5) & (x < 2), 2.0**-22, np.abs(exact) * 2.0**-22)


def _sine_bound(x: Doubles, exact: Doubles) -> Doubles:
    return np.where(np.abs(x) <= 2 * np.pi, 2.0**-20.5, np.where(np.abs(x) <= 100 * np.pi, 2.0**-14.7, np.inf))


def approximate(
    opcode: str, function: Callable[..., Doubles], low: int, high: int, bound: Bound, *, sm: int = 80, warps: int = 64
) -> Case:
    kind = opcode.rpartition(".")[2].removesuffix("x2")
    operands = 2 if opcode.startswith("div") else 1
    flushes = ".ftz" in opcode
    expect = partial(approximate_expected, function, kind, flushes, bound, operands)
    if kind == "f32":
        moves = "".join(f"mov.b32 %f{n}, %a{n};" for n in range(operands))
        names = ", ".join(f"%f{n}" for n in range(operands))
        body = f"{moves} {opcode} %f4, {names}; mov.b32 %d0, %f4;"
    elif opcode.endswith("x2"):
        body = f"{opcode} %d0, %a0;"
    else:
        body = f"mov.b32 {{%h0, %h1}}, %a0; {opcode} %h2, %h0; {opcode} %h3, %h1; mov.b32 %d0, {{%h2, %h3}};"
    make = floats(operands, kind, low, high, edges=0.0 if operands == 2 else 0.2)
    if operands == 2:  # the bound holds for divisors, and quotients, of middling size
        make = partial(_middling, low, high)
    return Case(name=opcode, body=body, inputs=make, expect=expect, sm=sm, warps=warps)


def _middling(low: int, high: int, rng: Rng, warps: int) -> Words:
    return random_floats(rng, (warps, LANES, 2), "f32", low, high)


# Bounds: PTX ISA 9.0, "Floating Point Instructions: rcp", "sqrt", "rsqrt", "sin", "cos", "lg2", "ex2", "tanh", "div",
# and "Half Precision Floating Point Instructions: tanh", "ex2". ex2 is within 2 units of the correctly rounded result.
APPROXIMATE = [
    *[
        approximate(f"{op}.approx{ftz}.f32", function, low, high, bound)
        for ftz in ("", ".ftz")
        for op, function, low, high, bound in (
            ("ex2", np.exp2, -12, 7, ulps(2.5, "f32")),
            ("lg2", np.log2, -120, 120, _lg2_bound),
            ("rcp", lambda x: 1 / x, -126, 126, ulps(1, "f32")),
            ("sqrt", np.sqrt, -120, 120, relative(2.0**-23, "f32")),
            ("rsqrt", lambda x: 1 / np.sqrt(x), -120, 120, relative(2.0**-22.9, "f32")),
            ("sin", np.sin, -12, 9, _sine_bound),
            ("cos", np.cos, -12, 9, _sine_bound),
        )
    ],
    replace(approximate("lg2.approx.f32", np.log2, -2, 1, _lg2_bound), name="lg2.approx.f32 around 1"),
    approximate("tanh.approx.f32", np.tanh, -16, 5, relative(2.0**-11, "f32")),
    approximate("ex2.approx.f16x2", np.exp2, -8, 3, relative(2.0**-9.9, "f16")),
    approximate("ex2.approx.f16", np.exp2, -8, 3, relative(2.0**-9.9, "f16")),
    approximate("tanh.approx.f16x2", np.tanh, -8, 3, absolute(2.0**-10.987)),
    approximate("tanh.approx.f16", np.tanh, -8, 3, absolute(2.0**-10.987)),
    approximate("ex2.approx.ftz.bf16x2", np.exp2, -8, 6, relative(2.0**-7, "bf16"), sm=90),
    approximate("ex2.approx.ftz.bf16", np.exp2, -8, 6, relative(2.0**-7, "bf16"), sm=90),
    approximate("tanh.approx.bf16x2", np.tanh, -8, 3, absolute(2.0**-8), sm=90),
    approximate("tanh.approx.bf16", np.tanh, -8, 3, absolute(2.0**-8), sm=90),
    *[
        approximate(f"div.{how}{f}.f32", np.divide, -50, 50, ulps(2.5, "f32"))
        for how in ("approx", "full")
        for f in ("", ".ftz")
    ],
]
FLOAT: list[Case] = [*ARITHMETIC, *CONVERSIONS, *APPROXIMATE]
