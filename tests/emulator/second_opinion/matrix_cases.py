"""mma.sync, ldmatrix, stmatrix and movmatrix."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from .formats import FORMATS, Doubles, Words, joined, parts, values
from .harness import LANES, Case, Expected, Rng, any_words, random_floats
from .layouts import EIGHT, EIGHT_TRANSPOSED, LAYOUTS, Layout

EPSILON = {"f32": 2.0**-23, "f16": 2.0**-10}
LARGEST = {"f32": float(np.finfo(np.float32).max), "f16": 65504.0}
LEAST = {"f32": 2.0**-149, "f16": 2.0**-24}
# Tensor cores are reported to keep about 14 bits of sums of FP8 on sm_90: DeepSeek-V3 (2024), section 3.3.2.
FP8_EPSILON = 2.0**-13


def split(given: Words, layout: Layout, kinds: tuple[str, str], accumulator: str) -> tuple[Words, Words, Words]:
    """The elements of A, B and C as bit patterns, [warps, lane, element], of registers in this order."""
    bits = [FORMATS[kind].bits for kind in kinds]
    num_a, num_b = layout.a.count * bits[0] // 32, layout.b.count * bits[1] // 32
    a, b, c = given[..., :num_a], given[..., num_a : num_a + num_b], given[..., num_a + num_b :]
    return parts(a, bits[0]), parts(b, bits[1]), parts(c, FORMATS[accumulator].bits)


@np.errstate(all="ignore")
def product_expected(
    layout: Layout, kinds: tuple[str, str], accumulator: str, epsilon: float, given: Words
) -> Expected:
    """The product of the matrices, and how far it may be off.

    Tensor cores add exact products and C aligned to the largest and cut off what is below; one addition after another
    rounds as often. Both stay within 2 (K + 2) epsilon of |c| + sum |a b|; a 16-bit accumulator is rounded once more
    for each half of K. Where all are whole numbers and small, nothing is allowed.
    """
    patterns = split(given, layout, kinds, accumulator)
    names = (*kinds, accumulator)
    a, b, c = (
        fragment.matrices(values(one, name))
        for fragment, one, name in zip((layout.a, layout.b, layout.c), patterns, names, strict=True)
    )
    exact = a @ b + c
    sizes = [np.nan_to_num(np.abs(one), nan=0.0, posinf=0.0) for one in (a, b, c)]
    terms = sizes[0] @ sizes[1] + sizes[2]
    whole = [np.all(one == np.rint(one), (1, 2), keepdims=True) for one in (a, b, c)]
    is_exact = whole[0] & whole[1] & whole[2] & (terms <= 2 / EPSILON[accumulator])
    allowed = terms * 2 * (layout.depth + 2) * epsilon + LEAST[accumulator] * layout.depth
    if accumulator == "f16":
        allowed = allowed + terms * 2 * EPSILON["f16"]
    allowed = np.where(is_exact, 0.0, np.where(terms > LARGEST[accumulator] * 0.99, np.inf, allowed))
    # An infinity or NaN among the terms decides whatever the order, and however large the others are.
    allowed = np.where(np.isfinite(exact), allowed, np.where(terms > LARGEST[accumulator] * 0.99, np.inf, 0.0))
    return Expected(near=layout.c.elements(exact), allowed=layout.c.elements(allowed), kind=accumulator)


def integers(rng: Rng, shape: tuple[int, ...], kind: str, most: int) -> Words:
    """Patterns of whole numbers from -most to most."""
    chosen = rng.integers(-most, most + 1, shape).astype(np.float64)
    return encoded(chosen, kind)


def encoded(chosen: Doubles, kind: str) -> Words:
    """Patterns of values that the format holds exactly."""
    if kind in ("f32", "tf32"):
        return chosen.astype(np.float32).view(np.uint32)
    if kind == "bf16":
        return chosen.astype(np.float32).view(np.uint32) >> np.uint32(16)
    if kind == "f16":
        return chosen.astype(np.float16).view(np.uint16).astype(np.uint32)
    most = MOST[kind]
    codes = [np.flatnonzero(values(np.arange(256), kind) == whole)[0] for whole in range(-most, most + 1)]
    return np.array(codes, np.uint32)[np.rint(chosen).astype(int) + most]


MOST = {"f16": 8, "bf16": 8, "tf32": 8, "e4m3": 4, "e5m2": 4, "f32": 8}
# Exponents: alike, as attention's; apart, in which the largest terms decide; tiny, with subnormal results.
RANGES = {
    "f16": ((-6, 0), (-3, 3), (-14, -8)),
    "bf16": ((-6, 0), (-25, 25), (-70, -60)),
    "tf32": ((-6, 0), (-25, 25), (-70, -60)),
    "f32": ((-6, 0), (-25, 25), (-126, -118)),
    "e4m3": ((-4, 1), (-6, 4), (-6, -4)),
    "e5m2": ((-4, 1), (-10, 6), (-14, -8)),
}


def product_inputs(layout: Layout, kinds: tuple[str, str], accumulator: str, rng: Rng, warps: int) -> Words:
    """By turns: whole numbers, alike, apart, tiny, with special values, alike over a large C."""
    rows = []
    for warp in range(warps):
        turn = warp % 6
        pieces = []
        for fragment, kind, is_c in zip(
            (layout.a, layout.b, layout.c), (*kinds, accumulator), (False, False, True), strict=True
        ):
            shape = (LANES, fragment.count)
            if turn == 0:
                drawn = integers(rng, shape, kind, MOST[kind])
            else:
                low, high = RANGES[kind][turn - 1 if turn in (2, 3) else 0]
                if is_c and accumulator == "f16" and turn in (2, 3):
                    low, high = ((-3, 8), (-14, -10))[turn - 2]
                if is_c and turn == 5:
                    low, high = 8, 10
                drawn = random_floats(rng, shape, kind, low, high)
            if turn == 4:
                wild = rng.integers(0, 1 << min(FORMATS[kind].bits, 31), shape).astype(np.uint32)
                if kind == "tf32":
                    wild &= np.uint32(0xFFFFE000)
                if kind in ("f16", "bf16", "f32", "tf32"):
                    drawn = np.where(rng.random(shape) < 0.02, encoded(np.array(np.inf), kind), drawn)
                    wild = np.where(rng.random(shape) < 0.5, np.uint32(0), wild)
                drawn = np.where(rng.random(shape) < 0.03, wild, drawn)
            pieces.append(joined(drawn, FORMATS[kind].bits))
        rows.append(np.concatenate(pieces, -1))
    return np.stack(rows)


def one_hot_inputs(layout: Layout, kinds: tuple[str, str], accumulator: str, rng: Rng, warps: int) -> Words:
    """A single 1 in each element of A by turns, then of B; the other matrix is of whole numbers, C is zero."""
    del warps  # as many as there are elements
    fragments, names = (layout.a, layout.b, layout.c), (*kinds, accumulator)
    halves = []
    for which in (0, 1):
        count = LANES * fragments[which].count
        chosen = [
            rng.integers(-MOST[kind], MOST[kind] + 1, (count, LANES, one.count)).astype(float)
            for one, kind in zip(fragments, names, strict=True)
        ]
        chosen[2][:] = 0
        chosen[which] = np.eye(count).reshape(count, LANES, -1)
        words = [joined(encoded(one, kind), FORMATS[kind].bits) for one, kind in zip(chosen, names, strict=True)]
        halves.append(np.concatenate(words, -1))
    return np.concatenate(halves)


def mma_body(opcode: str, counts: tuple[int, int, int]) -> str:
    names = [f"%a{n}" for n in range(sum(counts))]
    d = ", ".join(f"%d{n}" for n in range(counts[2]))
    ends = (counts[0], counts[0] + counts[1])
    groups = [", ".join(one) for one in (names[: ends[0]], names[ends[0] : ends[1]], names[ends[1] :])]
    return f"{opcode} {{{d}}}, {{{groups[0]}}}, {{{groups[1]}}}, {{{groups[2]}}};"


def float_mma(shape: str, kinds: tuple[str, str], accumulator: str) -> list[Case]:
    bits = FORMATS[kinds[0]].bits
    layout = LAYOUTS[shape, bits]
    opcode = f"mma.sync.aligned.{shape}.row.col.{accumulator}.{kinds[0]}.{kinds[1]}.{accumulator}"
    counts = (
        layout.a.count * bits // 32,
        layout.b.count * bits // 32,
        layout.c.count * FORMATS[accumulator].bits // 32,
    )
    epsilon = FP8_EPSILON if bits == 8 else EPSILON["f32"]
    expect = partial(product_expected, layout, kinds, accumulator, epsilon)
    body = mma_body(opcode, counts)
    sm = 89 if bits == 8 else 80
    make = {"random": product_inputs, "one-hot": one_hot_inputs}
    return [
        Case(
            name=opcode if how == "random" else f"{opcode} {how}",
            body=body,
            inputs=partial(inputs, layout, kinds, accumulator),
            expect=expect,
            out_words=counts[2],
            sm=sm,
            warps=48,
        )
        for how, inputs in make.items()
    ]


Byte = Literal["s8", "u8"]


def _integer_elements(given: Words, layout: Layout, kinds: tuple[Byte, Byte]) -> list[np.ndarray]:
    num_a, num_b = layout.a.count // 4, layout.b.count // 4
    out = []
    for words, kind in zip((given[..., :num_a], given[..., num_a : num_a + num_b]), kinds, strict=True):
        one = parts(words, 8).astype(np.int64)
        out.append(np.where(one >= 128, one - 256, one) if kind == "s8" else one)
    return [*out, np.ascontiguousarray(given[..., num_a + num_b :]).view(np.int32).astype(np.int64)]


def integer_expected(layout: Layout, kinds: tuple[Byte, Byte], saturates: bool, given: Words) -> Expected:
    """Sums wrap, or with .satfinite stop at the ends of s32."""
    a, b, c = (
        fragment.matrices(one)
        for fragment, one in zip((layout.a, layout.b, layout.c), _integer_elements(given, layout, kinds), strict=True)
    )
    d = layout.c.elements(a @ b + c)
    d = np.clip(d, -(2**31), 2**31 - 1) if saturates else d & 0xFFFFFFFF
    return Expected(words=(d & 0xFFFFFFFF).astype(np.uint32))


def integer_inputs(count: int, rng: Rng, warps: int) -> Words:
    """Any bytes; C small, any, or so near to the ends of s32 that sums pass them."""
    words = rng.integers(0, 2**32, (warps, LANES, count), np.uint64).astype(np.uint32)
    num_c = {6: 2, 7: 4, 10: 4, 4: 2}[count]
    words[1::4, :, -num_c:] &= np.uint32(0xFFFF)
    words[2::4, :, -num_c:] = (words[2::4, :, -num_c:] & np.uint32(0xFFFF)) | np.uint32(0x7FFF0000)
    words[3::4, :, -num_c:] = (words[3::4, :, -num_c:] & np.uint32(0xFFFF)) | np.uint32(0x80000000)
    return words


def integer_one_hot(layout: Layout, rng: Rng, warps: int) -> Words:
    rows = []
    del warps
    for which, fragment in enumerate((layout.a, layout.b)):
        for slot in range(LANES * fragment.count):
            pieces = [rng.integers(0, 128, (LANES, one.count)).astype(np.uint32) for one in (layout.a, layout.b)]
            pieces[which][:] = 0
            pieces[which].reshape(-1)[slot] = 1
            c = np.zeros((LANES, layout.c.count), np.uint32)
            rows.append(np.concatenate([*(joined(one, 8) for one in pieces), c], -1))
    return np.stack(rows)


def integer_mma(shape: str, kinds: tuple[Byte, Byte], saturates: bool) -> list[Case]:
    layout = LAYOUTS[shape, 8]
    sat = ".satfinite" if saturates else ""
    opcode = f"mma.sync.aligned.{shape}.row.col{sat}.s32.{kinds[0]}.{kinds[1]}.s32"
    counts = (layout.a.count // 4, layout.b.count // 4, layout.c.count)
    body, expect = mma_body(opcode, counts), partial(integer_expected, layout, kinds, saturates)
    random = Case(
        name=opcode, body=body, inputs=partial(integer_inputs, sum(counts)), expect=expect, out_words=counts[2]
    )
    if saturates or kinds != ("s8", "s8"):
        return [random]
    one_hot = Case(
        name=f"{opcode} one-hot", body=body, inputs=partial(integer_one_hot, layout), expect=expect, out_words=counts[2]
    )
    return [random, one_hot]


# ---------------------------------------------------------------------- 8x8 matrices

_TO_TILE = (
    "mov.u32 %t2, tile; shl.b32 %t3, %t1, 4; add.s32 %t3, %t2, %t3; shl.b32 %t4, %a4, 4; add.s32 %t4, %t2, %t4;\n"
)


def rows_inputs(count: int, rng: Rng, warps: int) -> Words:
    """Four words that the lane puts into its row of the tile, and the row it addresses; unused addresses are wild."""
    words = any_words(5)(rng, warps)
    words[..., 4] = np.argsort(rng.random((warps, LANES)), 1)
    words[::3, 8 * count :, 4] = 0x0FFFFFF0
    return words


def stored_rows_inputs(count: int, rng: Rng, warps: int) -> Words:
    return rows_inputs(count, rng, warps)


def ldmatrix_expected(count: int, transposed: bool, given: Words) -> Expected:
    """Lane 8 i + r addresses row r of matrix i; lane l gets two elements of row l / 4, or of column l / 4."""
    tile = parts(given[..., :4], 16)
    fragment = EIGHT_TRANSPOSED if transposed else EIGHT
    warp = np.arange(given.shape[0])[:, None]
    out = []
    for n in range(count):
        matrix = tile[warp, given[:, 8 * n : 8 * n + 8, 4]]
        out.append(joined(fragment.elements(matrix), 16)[..., 0])
    return Expected(words=np.stack(out, -1))


def ldmatrix(count: int, transposed: bool, space: str = "shared") -> Case:
    opcode = f"ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.{space}.b16"
    d = ", ".join(f"%d{n}" for n in range(count))
    return Case(
        name=opcode,
        body=f"{_TO_TILE}st.shared.v4.b32 [%t3], {{%a0, %a1, %a2, %a3}}; bar.sync 0;\n{opcode} {{{d}}}, [%t4];",
        inputs=partial(rows_inputs, count),
        expect=partial(ldmatrix_expected, count, transposed),
        out_words=count,
    )


def stmatrix_expected(count: int, transposed: bool, given: Words) -> Expected:
    """The tile afterwards, 16 bytes a lane; rows that no stored matrix has stay zero."""
    tile = np.zeros((given.shape[0], LANES, 8), np.uint32)
    fragment = EIGHT_TRANSPOSED if transposed else EIGHT
    warp = np.arange(given.shape[0])[:, None]
    for n in range(count):
        tile[warp, given[:, 8 * n : 8 * n + 8, 4]] = fragment.matrices(parts(given[..., n : n + 1], 16))
    return Expected(words=joined(tile, 16))


def stmatrix(count: int, transposed: bool) -> Case:
    opcode = f"stmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16"
    given = ", ".join(f"%a{n}" for n in range(count))
    return Case(
        name=opcode,
        body=(
            f"{_TO_TILE}mov.b32 %t5, 0; st.shared.v4.b32 [%t3], {{%t5, %t5, %t5, %t5}}; bar.sync 0;\n"
            f"{opcode} [%t4], {{{given}}};\nbar.sync 0; ld.shared.v4.b32 {{%d0, %d1, %d2, %d3}}, [%t3];"
        ),
        inputs=partial(stored_rows_inputs, count),
        expect=partial(stmatrix_expected, count, transposed),
        out_words=4,
        sm=90,
    )


def movmatrix_expected(given: Words) -> Expected:
    return Expected(words=joined(EIGHT_TRANSPOSED.elements(EIGHT.matrices(parts(given, 16))), 16))


BYTES: tuple[Byte, ...] = ("s8", "u8")
FP8 = ("e4m3", "e5m2")
MATRIX: list[Case] = [
    *[
        case
        for shape in ("m16n8k8", "m16n8k16")
        for kind, accumulator in (("f16", "f32"), ("f16", "f16"), ("bf16", "f32"))
        for case in float_mma(shape, (kind, kind), accumulator)
    ],
    *[case for shape in ("m16n8k4", "m16n8k8") for case in float_mma(shape, ("tf32", "tf32"), "f32")],
    *[
        case
        for shape in ("m8n8k16", "m16n8k16", "m16n8k32")
        for a in BYTES
        for b in BYTES
        for saturates in (False, True)
        for case in integer_mma(shape, (a, b), saturates)
    ],
    *[case for acc in ("f32", "f16") for a in FP8 for b in FP8 for case in float_mma("m16n8k32", (a, b), acc)],
    *[ldmatrix(count, transposed) for count in (1, 2, 4) for transposed in (False, True)],
    ldmatrix(4, False, "shared::cta"),
    *[stmatrix(count, transposed) for count in (1, 2, 4) for transposed in (False, True)],
    Case(
        name="movmatrix.sync.aligned.m8n8.trans.b16",
        body="movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;",
        inputs=any_words(1),
        expect=movmatrix_expected,
    ),
]
