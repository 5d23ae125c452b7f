"""Every arithmetic, logic and conversion instruction against numpy, on random inputs and edge values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from emulator_kernels import elementwise

RNG = np.random.default_rng(7)
N = 600
FLOAT_EDGES = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-45,
        -1e-40,
        1.1754944e-38,
        3.4028235e38,
        -3.4e38,
        0.5,
        2.0,
        65504,
        65520,
    ],
    np.float32,
)


def ints(dtype: type, count: int = N) -> np.ndarray:
    info = np.iinfo(dtype)
    edges = np.array([0, 1, 2, 31, 32, 33, info.max, info.min, info.max - 1, info.min + 1], dtype)
    values = RNG.integers(info.min, info.max, count, dtype, endpoint=True)
    values[: count // 3] %= 100
    values[-len(edges) :] = RNG.permutation(edges)
    return values


def floats(count: int = N) -> np.ndarray:
    values = RNG.standard_normal(count).astype(np.float32) * np.exp2(RNG.integers(-20, 20, count)).astype(np.float32)
    values[:256] = np.repeat(FLOAT_EDGES, 16)
    return values


def other_floats(count: int = N) -> np.ndarray:
    values = floats(count)
    values[:256] = np.tile(FLOAT_EDGES, 16)
    return values


def halves(count: int = N) -> np.ndarray:
    return RNG.integers(0, 65536, count).astype(np.uint16)


def same_bits(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits, but any NaN for a NaN: its payload is not modelled."""
    if got.dtype.kind == "f":
        assert np.array_equal(np.isnan(got), np.isnan(want))
        keep = ~np.isnan(want)
        got, want = got[keep], want[keep]
        assert np.array_equal(np.signbit(got), np.signbit(want))
    wrong = np.flatnonzero(got != want)
    assert wrong.size == 0, (wrong[:5], got[wrong[:5]], want[wrong[:5]])


def wrap(values: list[int], dtype: type) -> np.ndarray:
    bits = np.dtype(dtype).itemsize * 8
    return np.array([v & ((1 << bits) - 1) for v in values], np.uint64).astype(f"u{bits // 8}").view(dtype)


def divide(a: int, b: int) -> int:
    return -1 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGER = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul.lo": lambda a, b: a * b,
    "min": min, "max": max, "div": divide,
    "rem": lambda a, b: a if b == 0 else a - divide(a, b) * b,
}  # fmt: skip


WIDE = [np.int32, np.uint32, np.int64, np.uint64]
CASES = [(op, dtype) for op in INTEGER for dtype in WIDE]
CASES += [(op, dtype) for op in INTEGER if op not in ("div", "rem") for dtype in (np.int16, np.uint16)]


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_integer_arithmetic_wraps_as_the_hardware_does(op, dtype):
    size = np.dtype(dtype).itemsize
    a, b = ints(dtype), ints(dtype)
    kind = f"{np.dtype(dtype).kind.replace('i', 's')}{size * 8}"
    got = elementwise(f"{op}.{kind} {{d}}, {{a}}, {{b}};", [a, b], dtype)
    same_bits(got, wrap([INTEGER[op](int(x), int(y)) for x, y in zip(a, b, strict=True)], dtype))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_products_of_double_width(dtype):
    a, b, kind = ints(dtype), ints(dtype), "s32" if dtype is np.int32 else "u32"
    wide = np.int64 if dtype is np.int32 else np.uint64
    products = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    same_bits(elementwise(f"mul.wide.{kind} {{d}}, {{a}}, {{b}};", [a, b], wide), wrap(products, wide))
    same_bits(
        elementwise(f"mul.hi.{kind} {{d}}, {{a}}, {{b}};", [a, b], dtype), wrap([p >> 32 for p in products], dtype)
    )
    c = ints(wide)
    sums = wrap([p + int(z) for p, z in zip(products, c, strict=True)], wide)
    same_bits(elementwise(f"mad.wide.{kind} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, c], wide), sums)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_logic_and_shifts(bits):
    dtype = np.dtype(f"u{bits // 8}").type
    a, b = ints(dtype), ints(dtype)
    for op, f in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}.items():
        same_bits(elementwise(f"{op}.b{bits} {{d}}, {{a}}, {{b}};", [a, b], dtype), f(a, b))
    same_bits(elementwise(f"not.b{bits} {{d}}, {{a}};", [a], dtype), ~a)
    n = RNG.integers(0, 80, N).astype(np.uint32)
    signed = a.view(f"i{bits // 8}")
    left = [int(x) << min(int(s), 200) for x, s in zip(a, n, strict=True)]
    same_bits(elementwise(f"shl.b{bits} {{d}}, {{a}}, {{b}};", [a, n], dtype), wrap(left, dtype))
    right = [int(x) >> int(s) for x, s in zip(a, n, strict=True)]
    same_bits(elementwise(f"shr.u{bits} {{d}}, {{a}}, {{b}};", [a, n], dtype), wrap(right, dtype))
    right = [int(x) >> int(s) for x, s in zip(signed, n, strict=True)]
    same_bits(elementwise(f"shr.s{bits} {{d}}, {{a}}, {{b}};", [signed, n], dtype), wrap(right, dtype))


def test_bit_fields_and_counts():
    a, b = ints(np.uint32), ints(np.uint32)
    position, length = (RNG.integers(0, 40, N).astype(np.uint32) for _ in range(2))
    zipped = list(zip(*(x.tolist() for x in (a, b, position, length)), strict=True))

    def insert(x: int, y: int, p: int, n: int) -> int:
        keep = (((1 << n) - 1) << p) & 0xFFFFFFFF
        return y if n == 0 or p > 31 else (y & ~keep) | ((x << p) & keep)

    got = elementwise("bfi.b32 {d}, {a}, {b}, {c}, {e};", [a, b, position, length], np.uint32)
    same_bits(got, wrap([insert(*z) for z in zipped], np.uint32))
    got = elementwise("bfe.u32 {d}, {a}, {b}, {c};", [a, position, length], np.uint32)
    same_bits(got, wrap([(x >> p) & ((1 << n) - 1) for x, _, p, n in zipped], np.uint32))

    def signed_field(x: int, p: int, n: int) -> int:
        if n == 0:
            return 0
        sign = (x >> min(p + n - 1, 31)) & 1
        field = [(x >> (p + i)) & 1 if p + i <= 31 and i < n else sign for i in range(32)]
        return sum(bit << i for i, bit in enumerate(field))

    got = elementwise("bfe.s32 {d}, {a}, {b}, {c};", [a, position, length], np.uint32)
    same_bits(got, wrap([signed_field(x, p, n) for x, _, p, n in zipped], np.uint32))
    same_bits(
        elementwise("popc.b32 {d}, {a};", [a], np.uint32), np.array([x.bit_count() for x in a.tolist()], np.uint32)
    )
    same_bits(
        elementwise("clz.b32 {d}, {a};", [a], np.uint32), np.array([32 - x.bit_length() for x in a.tolist()], np.uint32)
    )
    same_bits(
        elementwise("brev.b32 {d}, {a};", [a], np.uint32),
        np.array([int(f"{x:032b}"[::-1], 2) for x in a.tolist()], np.uint32),
    )
    same_bits(
        elementwise("bfind.u32 {d}, {a};", [a], np.uint32), wrap([x.bit_length() - 1 for x in a.tolist()], np.uint32)
    )


def test_lop3_prmt_and_funnel_shifts():
    a, b, c = ints(np.uint32), ints(np.uint32), ints(np.uint32)
    for table, f in {
        0x80: a & b & c,
        0x96: a ^ b ^ c,
        0xEA: (a & b) | c,
        0xCA: (a & b) | (~a & c),
        0x1E: a ^ (b | c),
    }.items():
        same_bits(elementwise(f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};", [a, b, c], np.uint32), f)
    pairs = [x.to_bytes(4, "little") + y.to_bytes(4, "little") for x, y in zip(a.tolist(), b.tolist(), strict=True)]

    def permute(pair: bytes, select: int) -> int:
        out = 0
        for n in range(4):
            nibble = (select >> (4 * n)) & 15
            byte = pair[nibble & 7]
            out |= (255 * (byte >> 7) if nibble & 8 else byte) << (8 * n)
        return out

    got = elementwise("prmt.b32 {d}, {a}, {b}, {c};", [a, b, c], np.uint32)
    same_bits(got, wrap([permute(p, s) for p, s in zip(pairs, c.tolist(), strict=True)], np.uint32))
    both = [(y << 32) | x for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    got = elementwise("shf.l.wrap.b32 {d}, {a}, {b}, {c};", [a, b, c], np.uint32)
    same_bits(got, wrap([(v << (s & 31)) >> 32 for v, s in zip(both, c.tolist(), strict=True)], np.uint32))
    got = elementwise("shf.r.clamp.b32 {d}, {a}, {b}, {c};", [a, b, c], np.uint32)
    same_bits(got, wrap([v >> min(s, 32) for v, s in zip(both, c.tolist(), strict=True)], np.uint32))


def flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(1.1754944e-38), np.copysign(np.float32(0), x), x).astype(np.float32)


def pick(a: np.ndarray, b: np.ndarray, sign: int) -> np.ndarray:
    """max or min: a number wins over NaN, +0 is above -0."""
    first = np.where(a == b, np.signbit(a) == (sign < 0), a * sign > b * sign)
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.where(first, a, b))).astype(np.float32)


@np.errstate(all="ignore")
def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c rounded once: the product is exact in float64, and the sum is rounded to odd before float32."""
    p = a.astype(np.float64) * b.astype(np.float64)
    s = p + c
    back = s - p
    error = (p - (s - back)) + (c - back)
    bits = s.view(np.int64)
    nudge = np.where((error > 0) == (s > 0), 1, -1)
    odd = np.where((error != 0) & np.isfinite(s) & (bits % 2 == 0), bits + nudge, bits)
    return odd.view(np.float64).astype(np.float32)


@pytest.mark.parametrize("flush", ["", ".ftz"])
@np.errstate(all="ignore")
def test_float_arithmetic_rounds_to_nearest(flush):
    a, b, c = floats(), other_floats(), other_floats()[::-1].copy()
    before = flushed if flush else (lambda x: x)
    x, y, z = before(a), before(b), before(c)
    cases = {
        f"add{flush}.f32 {{d}}, {{a}}, {{b}};": x + y, f"sub{flush}.f32 {{d}}, {{a}}, {{b}};": x - y,
        f"mul.rn{flush}.f32 {{d}}, {{a}}, {{b}};": x * y, f"div.rn{flush}.f32 {{d}}, {{a}}, {{b}};": x / y,
        f"max{flush}.f32 {{d}}, {{a}}, {{b}};": pick(x, y, 1), f"min{flush}.f32 {{d}}, {{a}}, {{b}};": pick(x, y, -1),
        f"rcp.rn{flush}.f32 {{d}}, {{a}};": np.float32(1) / x, f"sqrt.rn{flush}.f32 {{d}}, {{a}};": np.sqrt(x),
        f"neg{flush}.f32 {{d}}, {{a}};": -x, f"abs{flush}.f32 {{d}}, {{a}};": np.abs(x),
        f"fma.rn{flush}.f32 {{d}}, {{a}}, {{b}}, {{c}};": fused(x, y, z),
    }  # fmt: skip
    for instruction, want in cases.items():
        inputs = [a, b, c][: instruction.count(",")]
        same_bits(elementwise(instruction, inputs, np.float32), before(want))


def test_saturation_clamps_to_the_unit_interval_and_nan_to_zero():
    a, b = floats(), other_floats()
    with np.errstate(all="ignore"):
        want = np.nan_to_num(np.clip(a + b, 0, 1), nan=0.0)
    got = elementwise("add.sat.f32 {d}, {a}, {b};", [a, b], np.float32)
    assert np.array_equal(got, want)


def ulps(got: np.ndarray, want: np.ndarray) -> float:
    keep = np.isfinite(want) & (np.abs(want) > 1.2e-38)
    spacing = np.spacing(np.abs(want[keep]).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(got[keep].astype(np.float64) - want[keep]) / spacing))


@np.errstate(all="ignore")
def test_exp2_is_within_two_units_and_right_at_the_edges():
    x = np.concatenate([RNG.uniform(-126, 128, 3000), RNG.uniform(-2, 2, 2000), np.arange(-126, 128)]).astype(
        np.float32
    )
    got = elementwise("ex2.approx.ftz.f32 {d}, {a};", [x], np.float32)
    assert ulps(got, np.exp2(x.astype(np.float64))) <= 2
    whole = np.arange(-126, 128)
    assert np.array_equal(got[-len(whole) :], np.exp2(whole).astype(np.float32))
    edges = np.array([-np.inf, np.inf, np.nan, -0.0, 1e-40, -130, -1e30, 128, 1e30, -149, -126.5], np.float32)
    want = np.array([0, np.inf, np.nan, 1, 1, 0, 0, np.inf, np.inf, 0, 0], np.float32)
    same_bits(elementwise("ex2.approx.ftz.f32 {d}, {a};", [edges], np.float32), want)
    tiny = np.array([-149, -130, -127], np.float32)
    same_bits(
        elementwise("ex2.approx.f32 {d}, {a};", [tiny], np.float32), np.exp2(tiny.astype(np.float64)).astype(np.float32)
    )


APPROXIMATE = {
    "lg2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "rcp": lambda x: 1 / x,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
}


@pytest.mark.parametrize("op", APPROXIMATE)
def test_approximate_functions(op):
    f, low = APPROXIMATE[op], 0 if op in ("lg2", "sqrt", "rsqrt") else -1
    x = (RNG.uniform(low, 1, 2000) * 3 + 1e-3).astype(np.float32)
    flush = "" if op == "tanh" else ".ftz"
    assert ulps(elementwise(f"{op}.approx{flush}.f32 {{d}}, {{a}};", [x], np.float32), f(x.astype(np.float64))) <= 1


COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


@pytest.mark.parametrize("op", COMPARE)
def test_comparisons(op):
    for kind, dtype in {"s32": np.int32, "u32": np.uint32, "s64": np.int64, "u16": np.uint16}.items():
        a, b = ints(dtype), ints(dtype)
        b[::3] = a[::3]
        got = elementwise(f"setp.{op}.{kind} %p1, {{a}}, {{b}}; selp.u32 {{d}}, 1, 0, %p1;", [a, b], np.uint32)
        same_bits(got, COMPARE[op](a, b).astype(np.uint32))
    a, b = floats(), other_floats()
    b[300::2] = a[300::2]
    nan = np.isnan(a) | np.isnan(b)
    ordered = COMPARE[op](a, b) & ~nan
    got = elementwise(f"setp.{op}.f32 %p1, {{a}}, {{b}}; selp.b32 {{d}}, 1, 0, %p1;", [a, b], np.uint32)
    same_bits(got, ordered.astype(np.uint32))
    got = elementwise(f"setp.{op}u.f32 %p1, {{a}}, {{b}}; selp.b32 {{d}}, 1, 0, %p1;", [a, b], np.uint32)
    same_bits(got, (ordered | nan).astype(np.uint32))
    got = elementwise(f"set.{op}.u32.f32 {{d}}, {{a}}, {{b}};", [a, b], np.uint32)
    same_bits(got, ordered.astype(np.uint32) * np.uint32(0xFFFFFFFF))


@pytest.mark.parametrize(("boolean", "f"), [("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)])
def test_a_comparison_combines_with_a_predicate_and_gives_its_complement(boolean, f):
    a, b, c = (ints(np.int32) for _ in range(3))
    body = (
        "setp.gt.s32 %p3, {c}, 50; setp.lt." + boolean + ".s32 %p1|%p2, {a}, {b}, !%p3;"
        "selp.u32 %r60, 1, 0, %p1; selp.u32 %r61, 2, 0, %p2; or.b32 {d}, %r60, %r61;"
    )
    less, third = a < b, ~(c > 50)
    want = f(less, third) + 2 * f(~less, third).astype(np.uint32)
    same_bits(elementwise(body, [a, b, c], np.uint32), want.astype(np.uint32))


def test_predicate_logic_and_guards():
    a, b = ints(np.int32), ints(np.int32)
    body = (
        "setp.gt.s32 %p1, {a}, 40; setp.gt.s32 %p2, {b}, 40; and.pred %p3, %p1, %p2; or.pred %p4, %p1, %p2;"
        "xor.pred %p5, %p1, %p2; not.pred %p6, %p1; mov.pred %p7, %p6; mov.u32 {d}, 0;"
        "@%p3 add.u32 {d}, {d}, 1; @%p4 add.u32 {d}, {d}, 2; @%p5 add.u32 {d}, {d}, 4; @!%p7 add.u32 {d}, {d}, 8;"
    )
    p, q = a > 40, b > 40
    same_bits(elementwise(body, [a, b], np.uint32), ((p & q) + 2 * (p | q) + 4 * (p ^ q) + 8 * p).astype(np.uint32))


@np.errstate(all="ignore")
def test_float_to_integer_conversions_clamp():
    x = floats()
    rounding = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}
    for name, f in rounding.items():
        for kind, low, high, dtype in (
            ("s32", -(2**31), 2**31 - 1, np.int32),
            ("u32", 0, 2**32 - 1, np.uint32),
            ("s64", -(2**63), 2**63 - 1, np.int64),
        ):
            want = [
                (low if kind == "s64" else 0) if math.isnan(v) else low if v <= low else high if v >= high else int(v)
                for v in f(x.astype(np.float64)).tolist()
            ]
            same_bits(elementwise(f"cvt.{name}.{kind}.f32 {{d}}, {{a}};", [x], dtype), np.array(want, dtype))
        same_bits(elementwise(f"cvt.{name}.f32.f32 {{d}}, {{a}};", [x], np.float32), f(x))


def test_integer_conversions():
    a, w = ints(np.int32), ints(np.int64)
    same_bits(elementwise("cvt.s64.s32 {d}, {a};", [a], np.int64), a.astype(np.int64))
    same_bits(elementwise("cvt.u64.u32 {d}, {a};", [a], np.uint64), a.view(np.uint32).astype(np.uint64))
    same_bits(elementwise("cvt.u32.u64 {d}, {a};", [w], np.uint32), w.astype(np.uint32))
    same_bits(elementwise("cvt.u16.u32 {d}, {a};", [a], np.uint16), a.astype(np.uint16))
    same_bits(elementwise("cvt.s32.s8 {d}, {a};", [a], np.int32), a.astype(np.int8).astype(np.int32))
    same_bits(
        elementwise("cvt.sat.u8.s32 {d}, {a}; ".replace("{d}", "%rs9") + "cvt.u32.u8 {d}, %rs9;", [a], np.uint32),
        np.clip(a, 0, 255).astype(np.uint32),
    )
    same_bits(elementwise("cvt.rn.f32.s32 {d}, {a};", [a], np.float32), a.astype(np.float32))
    same_bits(elementwise("cvt.rn.f32.u64 {d}, {a};", [w], np.float32), w.view(np.uint64).astype(np.float32))
    x = floats()
    same_bits(elementwise("cvt.f64.f32 {d}, {a};", [x], np.float64), x.astype(np.float64))
    y = RNG.standard_normal(N) * 10.0 ** RNG.integers(-44, 38, N)
    with np.errstate(all="ignore"):
        same_bits(elementwise("cvt.rn.f32.f64 {d}, {a};", [y], np.float32), y.astype(np.float32))


def to_half(x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        bits = x.astype(np.float16).view(np.uint16)
    return np.where(np.isnan(x), 0x7FFF, bits).astype(np.uint16)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Round to nearest even, by comparing the dropped half with a half."""
    bits = x.astype(np.float32).view(np.uint32)
    low_bits = (bits >> 16).astype(np.uint32)
    rest = (bits & 0xFFFF).astype(np.int64)
    up = (rest > 0x8000) | ((rest == 0x8000) & (low_bits % 2 == 1))
    return np.where(np.isnan(x), 0x7FFF, low_bits + up).astype(np.uint16)


def half_inputs() -> np.ndarray:
    """Random floats, every half, halves' midpoints (ties), and values around the subnormal and overflow bounds."""
    every = np.arange(0, 0x7C00).astype(np.uint16).view(np.float16).astype(np.float32)
    middle = (every[:-1].astype(np.float64) + every[1:]) / 2
    near = np.nextafter(middle.astype(np.float32), np.float32(np.inf))
    return np.concatenate([floats(), every, -every, middle.astype(np.float32), near, FLOAT_EDGES])


def test_half_conversions_are_exact():
    x = half_inputs()
    same_bits(elementwise("cvt.rn.f16.f32 {d}, {a};", [x], np.uint16), to_half(x))
    packed = elementwise("cvt.rn.f16x2.f32 {d}, {a}, {b};", [x, -x[::-1].copy()], np.uint32)
    same_bits((packed >> 16).astype(np.uint16), to_half(x))
    same_bits(packed.astype(np.uint16), to_half(-x[::-1]))
    every = np.arange(65536).astype(np.uint16)
    same_bits(elementwise("cvt.f32.f16 {d}, {a};", [every], np.float32), every.view(np.float16).astype(np.float32))


def test_bf16_conversions_are_exact():
    x = np.concatenate([half_inputs(), (RNG.integers(0, 2**32, 4000).astype(np.uint32) & 0xFFFF8000).view(np.float32)])
    same_bits(elementwise("cvt.rn.bf16.f32 {d}, {a};", [x], np.uint16), to_bf16(x))
    packed = elementwise("cvt.rn.bf16x2.f32 {d}, {a}, {b};", [x, x[::-1].copy()], np.uint32)
    same_bits((packed >> 16).astype(np.uint16), to_bf16(x))
    same_bits(packed.astype(np.uint16), to_bf16(x[::-1]))
    every = np.arange(65536).astype(np.uint16)
    same_bits(
        elementwise("cvt.f32.bf16 {d}, {a};", [every], np.float32), (every.astype(np.uint32) << 16).view(np.float32)
    )


@np.errstate(all="ignore")
def test_half_arithmetic_rounds_once():
    a, b, c = halves(4000), halves(4000), halves(4000)
    x, y, z = (v.view(np.float16) for v in (a, b, c))
    wide = [v.astype(np.float32) for v in (x, y, z)]
    same_bits(elementwise("add.f16 {d}, {a}, {b};", [a, b], np.uint16).view(np.float16), x + y)
    same_bits(elementwise("mul.rn.f16 {d}, {a}, {b};", [a, b], np.uint16).view(np.float16), x * y)
    exact = [v.astype(np.longdouble) for v in (x, y, z)]
    want = (exact[0] * exact[1] + exact[2]).astype(np.float16)
    same_bits(elementwise("fma.rn.f16 {d}, {a}, {b}, {c};", [a, b, c], np.uint16).view(np.float16), want)
    top = np.where(np.isnan(wide[0]), wide[1], np.where(np.isnan(wide[1]), wide[0], np.maximum(wide[0], wide[1])))
    got = elementwise("max.f16 {d}, {a}, {b};", [a, b], np.uint16).view(np.float16)
    assert np.array_equal(got, top.astype(np.float16), equal_nan=True)


@np.errstate(all="ignore")
def test_packed_bf16_arithmetic_rounds_once():
    # Exponents from -10 to 10: the sum is then exact in the 64-bit significand of a long double.
    fields = [
        RNG.integers(0, 2, 6000) << 15 | RNG.integers(117, 138, 6000) << 7 | RNG.integers(0, 128, 6000)
        for _ in range(3)
    ]
    a, b, c = (one.astype(np.uint16).view(np.uint32) for one in fields)
    halves_of = [
        [((v >> s) << 16).astype(np.uint32).view(np.float32).astype(np.float64) for s in (0, 16)] for v in (a, b, c)
    ]
    got = elementwise("fma.rn.bf16x2 {d}, {a}, {b}, {c};", [a, b, c], np.uint32)
    for s in (0, 1):
        x, y, z = (v[s] for v in halves_of)
        exact = x.astype(np.longdouble) * y + z
        want = to_bf16_from_long(exact)
        part = ((got >> (16 * s)) << 16).astype(np.uint32).view(np.float32)
        assert np.array_equal(part, want, equal_nan=True)


def to_bf16_from_long(x: np.ndarray) -> np.ndarray:
    near = x.astype(np.float32)
    # Undo float32's own rounding where it decides a tie, by rounding to odd.
    bits = near.view(np.uint32)
    away = np.where((near.astype(np.longdouble) != x) & (bits % 2 == 0) & np.isfinite(near), 1, 0)
    toward = np.where(np.abs(near.astype(np.longdouble)) > np.abs(x), -1, 1)
    odd = (bits.astype(np.int64) + away * toward).astype(np.uint32)
    return (to_bf16(odd.view(np.float32)).astype(np.uint32) << 16).view(np.float32)


def test_packing_and_unpacking():
    a, b = ints(np.uint32), ints(np.uint32)
    both = (b.astype(np.uint64) << 32) | a
    same_bits(elementwise("mov.b64 {d}, {{{a}, {b}}};", [a, b], np.uint64), both)
    same_bits(elementwise("mov.b64 {{%r20, {d}}}, {a};", [both], np.uint32), b)
    same_bits(elementwise("mov.b64 {{_, {d}}}, {a};", [both], np.uint32), b)
    same_bits(
        elementwise("mov.b32 {{%rs20, %rs21}}, {a}; mov.b32 {d}, {{%rs21, %rs20}};", [a], np.uint32),
        (a << 16) | (a >> 16),
    )
