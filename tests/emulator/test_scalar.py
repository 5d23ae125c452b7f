"""Less common scalar instructions against Python's exact integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from emulator_kernels import elementwise, kernel, run
from test_arithmetic import FLOAT_EDGES, RNG, floats, halves, ints, other_floats, same_bits, wrap

from kernelwright import emulator as emu

COUNT = 320
MODES = ["rz", "rm", "rp"]
FORMATS = {"f32": (24, -126, 127), "f64": (53, -1022, 1023), "f16": (11, -14, 15), "bf16": (8, -126, 127)}


def rounded(value: Fraction, mode: str, kind: str) -> float:
    """The number of a format nearest to an exact value on the side that the mode asks for; rn takes the even one."""
    bits, low, high = FORMATS[kind]
    if value == 0:
        return 0.0
    negative, size = value < 0, abs(value)
    exponent = max(size.numerator.bit_length() - size.denominator.bit_length(), low)
    while Fraction(2) ** exponent > size and exponent > low:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= size:
        exponent += 1
    unit = Fraction(2) ** (exponent - bits + 1)
    whole, rest = divmod(size, unit)
    away = {
        "rz": False,
        "rm": negative,
        "rp": not negative,
        "rn": 2 * rest > unit or (2 * rest == unit and whole % 2 == 1),
    }[mode]
    result = (whole + (away and rest != 0)) * unit
    largest = (2 - Fraction(2) ** (1 - bits)) * Fraction(2) ** high
    if result > largest:
        to_infinity = away or mode == "rn"
        return (
            (-math.inf if negative else math.inf) if to_infinity else (-float(largest) if negative else float(largest))
        )
    return -float(result) if negative else float(result)


def root(value: Fraction) -> Fraction:
    """The square root, or a fraction so close to an irrational one that it rounds alike."""
    scale = 600
    product = value.numerator * value.denominator << (2 * scale)
    whole = math.isqrt(product)
    return Fraction(2 * whole + (whole * whole != product), value.denominator << (scale + 1))


def values(dtype: type) -> np.ndarray:
    """Finite numbers over the whole range, with subnormals, edges and numbers near each other."""
    bits = np.dtype(dtype).itemsize * 8
    raw = RNG.integers(0, 2**bits, COUNT, np.uint64).astype(f"u{bits // 8}").view(dtype)
    near = (RNG.standard_normal(COUNT) * 4).astype(dtype)
    out = np.where(np.arange(COUNT) % 2 == 0, raw, near)
    info = np.finfo(dtype)
    edges = np.array(
        [
            0,
            -0.0,
            1,
            -1,
            info.tiny,
            -info.tiny,
            info.smallest_subnormal,
            -info.smallest_subnormal,
            info.max,
            -info.max,
            1 + info.eps,
            3,
        ],
        dtype,
    )
    out[: len(edges)] = RNG.permutation(edges)
    return np.where(np.isfinite(out), out, dtype(1.5)).astype(dtype)


EXACT = {
    "add": lambda a, b, c: a + b, "sub": lambda a, b, c: a - b, "mul": lambda a, b, c: a * b,
    "fma": lambda a, b, c: a * b + c,
    "div": lambda a, b, c: a / b, "rcp": lambda a, b, c: 1 / a, "sqrt": lambda a, b, c: root(a),
}  # fmt: skip


def zero_sign(op: str, mode: str, a: float, b: float, c: float) -> float:
    """The zero that an exact result of 0 is."""
    negative = [math.copysign(1, x) < 0 for x in (a, b, c)]
    if op in ("add", "sub", "fma"):
        first, second = negative[0], negative[1] != (op == "sub")
        if op == "fma":
            first, second = negative[0] != negative[1], negative[2]
        return -0.0 if (first and second) or (first != second and mode == "rm") else 0.0
    return -0.0 if (negative[0] if op == "sqrt" else negative[0] != negative[1]) else 0.0


@pytest.mark.parametrize("flush", ["", ".ftz"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("op", EXACT)
@np.errstate(all="ignore")
def test_directed_rounding_is_exact(op, mode, flush):
    for kind, dtype in {"f32": np.float32, "f64": np.float64}.items():
        if flush and kind == "f64":
            continue
        a, b, c = values(dtype), values(dtype), values(dtype)
        b[::7] = a[::7]
        c[::5] = (-a * b)[::5] if np.isfinite((-a * b)[::5]).all() else c[::5]
        if op == "sqrt":
            a = np.abs(a)
        tiny = np.finfo(dtype).tiny
        x, y, z = (np.where(np.abs(v) < tiny, np.copysign(dtype(0), v), v) if flush else v for v in (a, b, c))
        if op in ("div", "rcp"):  # quotients by 0 are tested below
            divisor = y if op == "div" else x
            divisor[divisor == 0] = dtype(3)
            a, b = x, y
        operands = {"add": 2, "sub": 2, "mul": 2, "div": 2, "fma": 3}.get(op, 1)
        text = ", ".join(["{a}", "{b}", "{c}"][:operands])
        got = elementwise(f"{op}.{mode}{flush}.{kind} {{d}}, {text};", [a, b, c][:operands], dtype)
        want = []
        for p, q, r in zip(x.tolist(), y.tolist(), z.tolist(), strict=True):
            exact = EXACT[op](*map(Fraction, (p, q, r)))
            result = rounded(exact, mode, kind) if exact else zero_sign(op, mode, p, q, r)
            want.append(math.copysign(0.0, result) if flush and abs(result) < tiny else result)
        same_bits(got, np.array(want, dtype))


@pytest.mark.parametrize("mode", MODES)
@np.errstate(all="ignore")
def test_directed_rounding_at_infinities_and_zeros(mode):
    a, b = np.repeat(FLOAT_EDGES, 16), np.tile(FLOAT_EDGES, 16)
    special = ~np.isfinite(a) | ~np.isfinite(b) | (b == 0)
    a, b = a[special], b[special]
    same_bits(elementwise(f"div.{mode}.f32 {{d}}, {{a}}, {{b}};", [a, b], np.float32), a / b)
    special = ~np.isfinite(a) | ~np.isfinite(b)
    a, b = a[special], b[special]
    same_bits(elementwise(f"add.{mode}.f32 {{d}}, {{a}}, {{b}};", [a, b], np.float32), a + b)
    got = elementwise(f"add.{mode}.sat.f32 {{d}}, {{a}}, {{b}};", [a, b], np.float32)
    assert np.array_equal(got, np.nan_to_num(np.clip(a + b, 0, 1), nan=0.0))


def test_directed_rounding_leaves_other_instructions_alone():
    a, b = values(np.float32), values(np.float32)
    got = elementwise("add.rp.f32 %f9, {a}, {b}; add.f32 {d}, {a}, {b};", [a, b], np.float32)
    with np.errstate(all="ignore"):
        same_bits(got, a + b)


@pytest.mark.parametrize("mode", [*MODES, "rn"])
def test_narrowing_conversions_round_by_their_mode(mode):
    wide = np.concatenate(
        [values(np.float64), values(np.float32).astype(np.float64), values(np.float32) * 1e-30 / 1e15]
    )
    want = np.array([rounded(Fraction(v), mode, "f32") or math.copysign(0.0, v) for v in wide.tolist()], np.float32)
    same_bits(elementwise(f"cvt.{mode}.f32.f64 {{d}}, {{a}};", [wide], np.float32), want)
    near = np.concatenate(
        [values(np.float32), (RNG.standard_normal(400) * 10.0 ** RNG.integers(-8, 6, 400)).astype(np.float32)]
    )
    for kind, load in (
        ("f16", lambda u: u.view(np.float16).astype(np.float32)),
        ("bf16", lambda u: (u.astype(np.uint32) << 16).view(np.float32)),
    ):
        want = np.array([rounded(Fraction(v), mode, kind) or math.copysign(0.0, v) for v in near.tolist()], np.float32)
        same_bits(load(elementwise(f"cvt.{mode}.{kind}.f32 {{d}}, {{a}};", [near], np.uint16)), want)


@pytest.mark.parametrize("mode", [*MODES, "rn"])
@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_integers_become_floats_by_their_mode(mode, dtype):
    a = ints(dtype)
    a[:100] = (a[:100] >> np.array(RNG.integers(0, 20, 100), dtype)) | dtype(1)
    kind = f"{np.dtype(dtype).kind.replace('i', 's')}{np.dtype(dtype).itemsize * 8}"
    for to, float_type in (("f32", np.float32), ("f64", np.float64)):
        want = np.array([rounded(Fraction(v), mode, to) for v in a.tolist()], float_type)
        same_bits(elementwise(f"cvt.{mode}.{to}.{kind} {{d}}, {{a}};", [a], float_type), want)
    want = np.array([rounded(Fraction(v), mode, "bf16") for v in a.tolist()], np.float32)
    got = elementwise(f"cvt.{mode}.bf16.{kind} {{d}}, {{a}};", [a], np.uint16)
    same_bits((got.astype(np.uint32) << 16).view(np.float32), want)


def test_tf32_keeps_ten_bits_and_rounds_halves_away():
    x = np.concatenate([floats(), (RNG.integers(0, 2**32, 2000).astype(np.uint32) & 0xFFFFF000).view(np.float32)])
    bits = x.view(np.uint32)
    away = np.where(np.isfinite(x), (bits.astype(np.uint64) + 0x1000).astype(np.uint32) & 0xFFFFE000, bits)
    got = elementwise("cvt.rna.tf32.f32 {d}, {a};", [x], np.uint32)
    keep = ~np.isnan(x)
    assert np.array_equal(got[keep], away[keep])
    assert (got[~keep] == 0x7FFFFFFF).all()
    zero = elementwise("cvt.rz.tf32.f32 {d}, {a};", [x], np.uint32)
    assert np.array_equal(zero[keep], bits[keep] & 0xFFFFE000)


def test_saturating_conversions_and_packing():
    a, b, c = ints(np.int32), ints(np.int32), ints(np.uint32)
    for kind, low, high, bits in (
        ("u16", 0, 65535, 16),
        ("s16", -32768, 32767, 16),
        ("u8", 0, 255, 8),
        ("s8", -128, 127, 8),
    ):
        tail = "" if bits == 16 else ".b32"
        got = elementwise(
            f"cvt.pack.sat.{kind}.s32{tail} {{d}}, {{a}}, {{b}}{'' if bits == 16 else ', {c}'};",
            [a, b, c][: 2 if bits == 16 else 3],
            np.uint32,
        )
        x, y = (np.clip(v.astype(np.int64), low, high) & ((1 << bits) - 1) for v in (a, b))
        want = x << bits | y | (0 if bits == 16 else (c.astype(np.int64) << 16))
        same_bits(got, (want & 0xFFFFFFFF).astype(np.uint32))
    big = np.array([1e6, -1e6, 65504, 65520, np.inf, 1, np.nan], np.float32)
    got = elementwise("cvt.rn.satfinite.f16.f32 {d}, {a};", [big], np.uint16)
    assert got.tolist() == [0x7BFF, 0xFBFF, 0x7BFF, 0x7BFF, 0x7BFF, 0x3C00, 0x7FFF]


@np.errstate(all="ignore")
def test_halves_round_to_whole_numbers():
    x = halves(3000).view(np.float16)
    for mode, f in {"rni": np.rint, "rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc}.items():
        got = elementwise(f"cvt.{mode}.f16.f16 {{d}}, {{a}};", [x.view(np.uint16)], np.uint16).view(np.float16)
        same_bits(got, f(x))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("kind", ["u", "s"])
def test_carries_make_numbers_of_twice_the_width(bits, kind):
    dtype = np.dtype(f"u{bits // 8}").type
    a, b, c, d = (ints(dtype) for _ in range(4))
    b[::3] = ~a[::3]
    mask = (1 << bits) - 1
    first = [x | y << bits for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    second = [x | y << bits for x, y in zip(c.tolist(), d.tolist(), strict=True)]
    t = f"{kind}{bits}"
    reg = "%r" if bits == 32 else "%rd"
    for op, total in (
        ("add", [x + y for x, y in zip(first, second, strict=True)]),
        ("sub", [x - y for x, y in zip(first, second, strict=True)]),
    ):
        low = elementwise(f"{op}.cc.{t} {{d}}, {{a}}, {{c}};", [a, b, c, d], dtype)
        high = elementwise(f"{op}.cc.{t} {reg}60, {{a}}, {{c}}; {op}c.{t} {{d}}, {{b}}, {{e}};", [a, b, c, d], dtype)
        top = elementwise(
            f"{op}.cc.{t} {reg}60, {{a}}, {{c}}; {op}c.cc.{t} {reg}61, {{b}}, {{e}}; {op}c.{t} {{d}}, 0, 0;",
            [a, b, c, d],
            dtype,
        )
        same_bits(low, wrap([v & mask for v in total], dtype))
        same_bits(high, wrap([v >> bits & mask for v in total], dtype))
        same_bits(top, wrap([v >> 2 * bits for v in total], dtype))
    signed = np.dtype(f"i{bits // 8}").type
    x, y = (v.view(signed) if kind == "s" else v for v in (a, b))
    products = [int(p) * int(q) for p, q in zip(x, y, strict=True)]
    low = [(p & mask) + z for p, z in zip(products, c.tolist(), strict=True)]
    got = elementwise(
        f"mad.lo.cc.{t} {reg}60, {{a}}, {{b}}, {{c}}; madc.hi.{t} {{d}}, {{a}}, {{b}}, {{e}};", [a, b, c, d], dtype
    )
    same_bits(
        got, wrap([(p >> bits) + e + (s >> bits) for p, s, e in zip(products, low, d.tolist(), strict=True)], dtype)
    )


def test_a_carry_that_nothing_sets_is_an_error():
    with pytest.raises(emu.EmulatorError, match=r"'addc\.u32' reads a carry"):
        emu.load(kernel("addc.u32 %r1, %r2, %r3;"))


def test_a_guard_keeps_the_other_lanes_carry():
    body = (
        "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;"
        "setp.lt.u32 %p1, %r1, 9; add.cc.u32 %r2, %r1, 0; @%p1 add.cc.u32 %r2, -1, 1; addc.u32 %r3, 0, 0; "
        "st.global.u32 [%rd2], %r3;"
    )
    out = np.zeros(32, np.uint32)
    run(kernel(body), [out])
    assert np.array_equal(out, np.arange(32) < 9)


def lanes(*arrays: np.ndarray) -> list[tuple[int, ...]]:
    return list(zip(*(a.tolist() for a in arrays), strict=True))


def sign(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


U32 = 0xFFFFFFFF
INTEGER = {
    "mul24.lo.u32 {d}, {a}, {b};": lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF),
    "mul24.hi.u32 {d}, {a}, {b};": lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 16,
    "mul24.lo.s32 {d}, {a}, {b};": lambda a, b, c: sign(a, 24) * sign(b, 24),
    "mul24.hi.s32 {d}, {a}, {b};": lambda a, b, c: sign(a, 24) * sign(b, 24) >> 16,
    "mad24.lo.s32 {d}, {a}, {b}, {c};": lambda a, b, c: sign(a, 24) * sign(b, 24) + c,
    "add.sat.s32 {d}, {a}, {b};": lambda a, b, c: min(max(sign(a, 32) + sign(b, 32), -(2**31)), 2**31 - 1),
    "sub.sat.s32 {d}, {a}, {b};": lambda a, b, c: min(max(sign(a, 32) - sign(b, 32), -(2**31)), 2**31 - 1),
    "sad.s32 {d}, {a}, {b}, {c};": lambda a, b, c: abs(sign(a, 32) - sign(b, 32)) + c,
    "sad.u32 {d}, {a}, {b}, {c};": lambda a, b, c: abs(a - b) + c,
    "dp4a.s32.u32 {d}, {a}, {b}, {c};":
        lambda a, b, c: sum(sign(a >> 8 * k, 8) * (b >> 8 * k & 255) for k in range(4)) + c,
    "dp4a.u32.s32 {d}, {a}, {b}, {c};":
        lambda a, b, c: sum((a >> 8 * k & 255) * sign(b >> 8 * k, 8) for k in range(4)) + c,
    "dp2a.lo.s32.s32 {d}, {a}, {b}, {c};":
        lambda a, b, c: sum(sign(a >> 16 * k, 16) * sign(b >> 8 * k, 8) for k in range(2)) + c,
    "dp2a.hi.u32.s32 {d}, {a}, {b}, {c};":
        lambda a, b, c: sum((a >> 16 * k & 65535) * sign(b >> 16 + 8 * k, 8) for k in range(2)) + c,
    "bmsk.clamp.b32 {d}, {a}, {b};": lambda a, b, c: 0 if a > 31 else ((1 << min(b, 32)) - 1) << a,
    "bmsk.wrap.b32 {d}, {a}, {b};": lambda a, b, c: ((1 << (b & 31)) - 1) << (a & 31),
    "szext.clamp.u32 {d}, {a}, {b};": lambda a, b, c: a if b > 31 else a & ((1 << b) - 1),
    "szext.clamp.s32 {d}, {a}, {b};": lambda a, b, c: a if b > 31 else 0 if b == 0 else sign(a, b),
    "szext.wrap.s32 {d}, {a}, {b};": lambda a, b, c: 0 if b % 32 == 0 else sign(a, b % 32),
    "bfind.shiftamt.u32 {d}, {a};": lambda a, b, c: 32 - a.bit_length() if a else -1,
    "vabsdiff4.u32.u32.u32 {d}, {a}, {b}, {c};":
        lambda a, b, c: sum(abs((a >> s & 255) - (b >> s & 255)) << s for s in (0, 8, 16, 24)),
    "vabsdiff4.u32.u32.u32.add {d}, {a}, {b}, {c};":
        lambda a, b, c: sum(abs((a >> s & 255) - (b >> s & 255)) for s in (0, 8, 16, 24)) + c,
    "vabsdiff2.u32.u32.u32.add {d}, {a}, {b}, {c};":
        lambda a, b, c: sum(abs((a >> s & 65535) - (b >> s & 65535)) for s in (0, 16)) + c,
    "add.s16x2 {d}, {a}, {b};": lambda a, b, c: sum((((a >> s) + (b >> s)) & 65535) << s for s in (0, 16)),
    "max.s16x2 {d}, {a}, {b};":
        lambda a, b, c: sum((max(sign(a >> s, 16), sign(b >> s, 16)) & 65535) << s for s in (0, 16)),
    "min.s32.relu {d}, {a}, {b};": lambda a, b, c: max(min(sign(a, 32), sign(b, 32)), 0),
}  # fmt: skip


@pytest.mark.parametrize("instruction", INTEGER)
def test_integer_instructions(instruction):
    a, b, c = ints(np.uint32), ints(np.uint32), ints(np.uint32)
    inputs = [a, b, c][: instruction.count(",")]
    want = [INTEGER[instruction](*z) for z in lanes(a, b, c)]
    same_bits(elementwise(instruction, inputs, np.uint32), wrap(want, np.uint32))


def test_the_nth_set_bit():
    a = ints(np.uint32)
    base, offset = RNG.integers(0, 34, a.size).astype(np.uint32), RNG.integers(-6, 7, a.size).astype(np.int32)

    def nth(mask: int, start: int, n: int) -> int:
        if start > 31:
            return -1
        if n == 0:
            return start if mask >> start & 1 else -1
        found = [k for k in (range(start, 32) if n > 0 else range(start, -1, -1)) if mask >> k & 1]
        return found[abs(n) - 1] if len(found) >= abs(n) else -1

    got = elementwise("fns.b32 {d}, {a}, {b}, {c};", [a, base, offset], np.uint32)
    same_bits(got, wrap([nth(*z) for z in lanes(a, base, offset)], np.uint32))


PERMUTE = {
    "f4e": lambda k, n: (k + n) & 7, "b4e": lambda k, n: (k - n) & 7, "rc8": lambda k, n: k,
    "ecl": max, "ecr": min, "rc16": lambda k, n: (k & 1) * 2 + (n & 1),
}  # fmt: skip


@pytest.mark.parametrize("mode", PERMUTE)
def test_permutation_modes(mode):
    a, b, c = ints(np.uint32), ints(np.uint32), ints(np.uint32)
    want = []
    for x, y, k in lanes(a, b, c):
        pair = x.to_bytes(4, "little") + y.to_bytes(4, "little")
        want.append(int.from_bytes(bytes(pair[PERMUTE[mode](k & 3, n)] for n in range(4)), "little"))
    same_bits(elementwise(f"prmt.b32.{mode} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, c], np.uint32), wrap(want, np.uint32))


def test_lop3_with_a_predicate():
    a, b, c = ints(np.uint32), ints(np.uint32), ints(np.uint32)
    c[::2] = 0
    for op, f in (("and", np.logical_and), ("or", np.logical_or)):
        body = (
            f"setp.lt.u32 %p2, {{a}}, 50; lop3.{op}.b32 %r70|%p1, {{a}}, {{b}}, {{c}}, 0x80, %p2; "
            f"selp.u32 {{d}}, 1, 0, %p1;"
        )
        want = f((a & b & c) != 0, a < 50)
        same_bits(elementwise(body, [a, b, c], np.uint32), want.astype(np.uint32))


def flush_half(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float16(6.1035e-05), np.copysign(np.float16(0), x), x).astype(np.float16)


@np.errstate(all="ignore")
def test_saturating_flushing_and_sign_mixing_halves():
    a, b = halves(4000), halves(4000)
    x, y = a.view(np.float16), b.view(np.float16)
    got = elementwise("add.sat.f16 {d}, {a}, {b};", [a, b], np.uint16).view(np.float16)
    assert np.array_equal(got, np.nan_to_num(np.clip(x + y, 0, 1), nan=0.0))
    p, q = flush_half(x), flush_half(y)
    larger = np.where(np.signbit(p), q, p)  # of equal ones: +0 is above -0
    cases = {
        "add.ftz.f16 {d}, {a}, {b};": flush_half(p + q),
        "neg.ftz.f16 {d}, {a};": -p,
        "fma.rn.ftz.relu.f16 {d}, {a}, {a}, {b};": None,
        "max.ftz.NaN.f16 {d}, {a}, {b};": np.where(p == q, larger, np.maximum(p, q)),
    }
    for ptx, want in cases.items():
        result = elementwise(ptx, [a, b][: 2 if "{b}" in ptx else 1], np.uint16).view(np.float16)
        if want is None:
            exact = (p.astype(np.longdouble) * p + q).astype(np.float16)
            want = np.where(np.isnan(exact), exact, np.where(exact > 0, flush_half(exact), np.float16(0)))
            keep = ~np.isnan(want)
            assert np.array_equal(result[keep], want[keep])
        else:
            same_bits(result, want.astype(np.float16))
    mixed = elementwise("max.xorsign.abs.f16 {d}, {a}, {b};", [a, b], np.uint16).view(np.float16)
    keep = ~np.isnan(x) & ~np.isnan(y)
    want = np.copysign(
        np.maximum(np.abs(x), np.abs(y)), np.where(np.signbit(x) != np.signbit(y), -1, 1).astype(np.float16)
    )
    same_bits(mixed[keep], want[keep])


@np.errstate(all="ignore")
def test_float_extremes_that_mix_signs_and_copied_signs():
    a, b = floats(), other_floats()
    keep = ~np.isnan(a) & ~np.isnan(b)
    want = np.copysign(
        np.minimum(np.abs(a), np.abs(b)), np.where(np.signbit(a) != np.signbit(b), -1, 1).astype(np.float32)
    )
    same_bits(elementwise("min.xorsign.abs.f32 {d}, {a}, {b};", [a, b], np.float32)[keep], want[keep])
    wide = [v.astype(np.float64) for v in (a, b)]
    same_bits(elementwise("copysign.f64 {d}, {a}, {b};", wide, np.float64), np.copysign(wide[1], wide[0]))
    for property_, f in {"finite": np.isfinite, "infinite": np.isinf, "notanumber": np.isnan}.items():
        got = elementwise(f"testp.{property_}.f64 %p1, {{a}}; selp.u32 {{d}}, 1, 0, %p1;", [wide[0]], np.uint32)
        same_bits(got, f(a).astype(np.uint32))


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
@np.errstate(all="ignore")
def test_packed_comparisons_give_a_result_for_each_half(kind):
    a, b = ints(np.uint32), ints(np.uint32)
    b[::4] = a[::4]

    def load(v: np.ndarray, s: int) -> np.ndarray:
        part = (v >> s & 0xFFFF).astype(np.uint16)
        return (
            part.view(np.float16).astype(np.float32)
            if kind == "f16x2"
            else (part.astype(np.uint32) << 16).view(np.float32)
        )

    low, high = (load(a, s) >= load(b, s) for s in (0, 16))
    body = (
        f"setp.ge.{kind} %p1|%p2, {{a}}, {{b}}; selp.u32 %r70, 1, 0, %p1; selp.u32 %r71, 2, 0, %p2; "
        f"or.b32 {{d}}, %r70, %r71;"
    )
    same_bits(elementwise(body, [a, b], np.uint32), (low + 2 * high).astype(np.uint32))
    one = 0x3C00 if kind == "f16x2" else 0x3F80
    same_bits(
        elementwise(f"set.ge.{kind}.{kind} {{d}}, {{a}}, {{b}};", [a, b], np.uint32),
        (low * one + high * (one << 16)).astype(np.uint32),
    )
    same_bits(
        elementwise(f"set.ge.u32.{kind} {{d}}, {{a}}, {{b}};", [a, b], np.uint32),
        (low * 0xFFFF + high * 0xFFFF0000).astype(np.uint32),
    )


def test_registers_of_128_bits_and_bytes_in_registers():
    body = (
        ".reg .b128 %q<3>; .reg .b8 %b<5>; ld.param.u64 %rd1, [out]; ld.global.b128 %q1, [%rd1]; "
        "mov.b128 {%rd2, %rd3}, %q1;"
        "mov.b128 %q2, {%rd3, %rd2}; st.global.b128 [%rd1+16], %q2; mov.b128 %q1, %q2; "
        "st.global.v2.b64 [%rd1+32], {%rd2, %rd3};"
        "mov.b32 %r1, 0x04030201; mov.b32 {%b1, %b2, %b3, %b4}, %r1; mov.b32 %r2, {%b4, %b3, %b2, %b1}; "
        "mov.b16 %rs1, {%b3, %b4};"
        "mov.b16 {%b1, %b2}, %rs1; cvt.u32.u8 %r3, %b2; cvt.u32.u16 %r4, %rs1; "
        "st.global.v4.u32 [%rd1+48], {%r2, %r3, %r4, WARP_SZ};"
        "st.global.b128 [%rd1+64], %q1;"
    )
    out = np.arange(20, dtype=np.uint32)
    run(kernel(body), [out], block=1)
    assert out[4:8].tolist() == [2, 3, 0, 1]
    assert out[8:12].tolist() == [0, 1, 2, 3]
    assert out[12:16].tolist() == [0x01020304, 4, 0x0403, 32]
    assert out[16:].tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize(
    "line",
    [
        "ld.global.v4.b64 {%rd1, %rd2, %rd3, %rd4}, [%rd5];",
        "st.global.v8.b32 [%rd5], {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8};",
    ],
)
def test_accesses_of_32_bytes_are_refused_with_the_target_they_need(line):
    with pytest.raises(emu.EmulatorError, match="sm_100"):
        emu.load(kernel(line))


@pytest.mark.parametrize(
    "line",
    ["st.global.u32 [%rd1], %q1;", "add.u64 %rd1, %q1, %rd2;", "mov.b64 %rd1, %q1;", "mov.b128 %q1, {%r1, %r2};"],
)
def test_128_bit_registers_are_for_moves_and_memory_only(line):
    with pytest.raises(emu.EmulatorError, match="type of register"):
        emu.load(kernel(".reg .b128 %q<3>;" + line))


def test_address_spaces_of_generic_addresses():
    body = (
        ".local .b8 depot[4]; ld.param.u64 %rd1, [out]; mov.u64 %rd2, depot; cvta.local.u64 %rd2, %rd2; "
        "mov.u32 %r9, cell; cvt.u64.u32 %rd3, %r9;"
        "cvta.shared.u64 %rd3, %rd3; mov.u32 %r1, 0;"
    )
    for n, (space, register) in enumerate(
        [("global", 1), ("local", 2), ("shared", 3), ("shared::cta", 3), ("global", 2), ("local", 1), ("param", 1)]
    ):
        body += f"isspacep.{space} %p1, %rd{register}; @%p1 add.u32 %r1, %r1, {1 << n};"
    out = np.zeros(1, np.uint32)
    run(kernel(body + "st.global.u32 [%rd1], %r1;", before=".shared .b8 cell[4];"), [out], block=1)
    assert out[0] == 0b1111


@pytest.mark.parametrize("checks", ["all", "none"])
def test_an_ignored_source_of_a_copy_is_not_read_and_zeros_are_written(checks):
    body = (
        "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 16; add.s64 %rd2, %rd1, %rd2; "
        "mov.u32 %r2, tile;"
        "shl.b32 %r3, %r1, 4; add.s32 %r2, %r2, %r3; setp.ge.u32 %p1, %r1, 20; mov.u64 %rd3, %rd2; "
        "@%p1 mov.u64 %rd3, 16;"
        "cp.async.cg.shared.global.L2::128B [%r2], [%rd3], 16, %p1; cp.async.wait_all; "
        "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r2];"
        "st.global.v4.u32 [%rd2], {%r7, %r6, %r5, %r4};"
    )
    out = np.arange(1, 129, dtype=np.uint32).reshape(32, 4)
    want = np.where(np.arange(32)[:, None] < 20, out[:, ::-1], 0)
    run(kernel(body, before=".shared .align 16 .b8 tile[512];"), [out], checks=checks)
    assert np.array_equal(out, want)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_atomics_of_16_bits(kind):
    one, two = (0x3C00, 0x4000) if kind == "f16" else (0x3F80, 0x4000)
    body = (
        f"ld.param.u64 %rd1, [out]; mov.b16 %rs1, {one}; atom.global.add.noftz.{kind} %rs2, [%rd1+2], %rs1; "
        f"red.global.add.noftz.{kind} [%rd1+2], %rs1;"
        f"mov.b16 %rs3, {two}; mov.b16 %rs4, 7; atom.global.cas.b16 %rs5, [%rd1+2], %rs3, %rs4; "
        "st.global.b16 [%rd1+4], %rs5;"
    )
    out = np.zeros(4, np.uint16)
    run(kernel(body), [out], block=1)
    assert out.tolist() == [0, 7, two, 0]


def test_matching_all_lanes():
    body = (
        "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 8; add.s64 %rd2, %rd1, %rd2; "
        "mov.u32 %r2, 5;"
        "match.all.sync.b32 %r3|%p1, %r2, -1; match.all.sync.b32 %r4, %r1, -1; @!%p1 mov.u32 %r3, 1; "
        "st.global.v2.u32 [%rd2], {%r3, %r4};"
    )
    out = np.ones((32, 2), np.uint32)
    run(kernel(body), [out])
    assert (out == [0xFFFFFFFF, 0]).all()


def test_approximations_in_double_precision():
    x = np.abs(RNG.standard_normal(500)) + 1e-3
    for op, f, error in (
        ("rsqrt.approx", lambda v: v**-0.5, 1e-9),
        ("rcp.approx.ftz", lambda v: 1 / v, 1e-6),
        ("rsqrt.approx.ftz", lambda v: v**-0.5, 1e-6),
    ):
        got = elementwise(f"{op}.f64 {{d}}, {{a}};", [x], np.float64)
        assert np.max(np.abs(got / f(x) - 1)) < error


def test_timers_and_the_number_of_the_grid_can_be_read():
    body = (
        "ld.param.u64 %rd1, [out]; mov.u32 %r1, %globaltimer_lo; mov.u32 %r2, %globaltimer_hi; mov.u64 %rd2, %gridid;"
        "mov.u64 %rd3, %globaltimer; st.global.v2.u32 [%rd1], {%r1, %r2}; st.global.v2.u64 [%rd1+16], {%rd2, %rd3};"
    )
    out = np.full(8, 77, np.uint32)
    run(kernel(body), [out], block=1)
    assert out[1] == 0
    assert out[4:6].tolist() == [0, 0]
    assert out[6] >= out[0]
