"""Several instructions together, as attention uses them, against products of whole matrices."""

from __future__ import annotations

from functools import partial

import numpy as np

from .formats import Words, joined, parts, values
from .harness import LANES, Case, Expected, Rng, any_words
from .layouts import LAYOUTS
from .matrix_cases import encoded

_SIDE = 16  # of Q, K and V; a lane stores 8 elements of each, half a row


def matrices(given: Words, kind: str) -> list[np.ndarray]:
    """Q, K and V, [warps, 16, 16], from 4 words each of every lane."""
    elements = values(parts(given, 16), kind).reshape(given.shape[0], LANES, 3, 8)
    return [elements[:, :, n].reshape(-1, _SIDE, _SIDE) for n in range(3)]


def product_inputs(kind: str, rng: Rng, warps: int) -> Words:
    """Small whole numbers: all sums are exact; Q K^T is exact in 16 bits too."""
    return joined(encoded(rng.integers(-2, 3, (warps, LANES, 24)).astype(float), kind), 16)


_STORE = (
    "mov.u32 %t2, tile; shl.b32 %t3, %t1, 4; add.s32 %t3, %t2, %t3; st.shared.v4.b32 [%t3], {%a0, %a1, %a2, %a3};"
    "st.shared.v4.b32 [%t3+512], {%a4, %a5, %a6, %a7}; st.shared.v4.b32 [%t3+1024], {%a8, %a9, %a10, %a11};"
    "bar.sync 0; shr.u32 %t4, %t1, 3; and.b32 %t5, %t1, 7; and.b32 %t6, %t4, 1; shr.u32 %t7, %t4, 1;"
)
# Rows of 32 bytes. Lane 8 i + r addresses row r of matrix i; %t4 is i, %t5 is r, %t6 and %t7 are its bits.
_ROW_LOW = "mad.lo.s32 %t9, %t6, 8, %t5; shl.b32 %t9, %t9, 5; mad.lo.s32 %t9, %t7, 16, %t9; add.s32 %t9, %t9, %t2;"
_ROW_HIGH = (
    "mad.lo.s32 %t10, %t7, 8, %t5; shl.b32 %t10, %t10, 5; mad.lo.s32 %t10, %t6, 16, %t10; add.s32 %t10, %t10, %t2;"
)


def attention_body(kind: str) -> str:
    """S = Q K^T, with K read as it lies; O = S V, with V transposed on the way; S from accumulators to operands."""
    mma = f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32"
    load = "ldmatrix.sync.aligned.m8n8.x4"
    products = "".join(
        f"{mma} {{%f{4 * n}, %f{4 * n + 1}, %f{4 * n + 2}, %f{4 * n + 3}}}, {{%q0, %q1, %q2, %q3}}, "
        f"{{%q{4 + 2 * n}, %q{5 + 2 * n}}}, {{%z, %z, %z, %z}};"
        for n in range(2)
    )
    operands = "".join(f"cvt.rn.{kind}x2.f32 %q{n}, %f{2 * n + 1}, %f{2 * n};" for n in range(4))
    outputs = "".join(
        f"{mma} {{%f{4 * n}, %f{4 * n + 1}, %f{4 * n + 2}, %f{4 * n + 3}}}, {{%q0, %q1, %q2, %q3}}, "
        f"{{%q{8 + 2 * n}, %q{9 + 2 * n}}}, {{%z, %z, %z, %z}};"
        for n in range(2)
    )
    moves = "".join(f"mov.b32 %d{n}, %f{n};" for n in range(8))
    return (
        f"{{ .reg .b32 %q<12>; .reg .f32 %z; mov.f32 %z, 0f00000000; {_STORE} {_ROW_LOW} {_ROW_HIGH}"
        f"{load}.shared.b16 {{%q0, %q1, %q2, %q3}}, [%t9];"
        f"{load}.shared.b16 {{%q4, %q5, %q6, %q7}}, [%t10+512];"
        f"{load}.trans.shared.b16 {{%q8, %q9, %q10, %q11}}, [%t9+1024];"
        f"{products} {operands} {outputs} {moves} }}"
    )


def attention_expected(kind: str, given: Words) -> Expected:
    q, k, v = matrices(given, kind)
    out = (q @ k.transpose(0, 2, 1)) @ v
    layout = LAYOUTS["m16n8k16", 16].c
    lanes = np.concatenate([layout.elements(out[..., :8]), layout.elements(out[..., 8:])], -1)
    return Expected(words=lanes.astype(np.float32).view(np.uint32))


def transposed_expected(given: Words) -> Expected:
    tiles = parts(given[..., :4], 16).reshape(-1, _SIDE, _SIDE)
    return Expected(words=joined(tiles.transpose(0, 2, 1), 16).reshape(given.shape[0], LANES, 4))


ATTENTION: list[Case] = [
    *[
        Case(
            name=f"attention of {kind}",
            body=attention_body(kind),
            inputs=partial(product_inputs, kind),
            expect=partial(attention_expected, kind),
            out_words=8,
            shared_bytes=1536,
            tests=(
                f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32",
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
                "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
            ),
        )
        for kind in ("f16", "bf16")
    ],
    # A 16 x 16 matrix through ldmatrix.trans and stmatrix is transposed: matrix i goes where its mirror image was.
    Case(
        name="ldmatrix and stmatrix transpose",
        body=(
            "mov.u32 %t2, tile; shl.b32 %t3, %t1, 4; add.s32 %t3, %t2, %t3;"
            "st.shared.v4.b32 [%t3], {%a0, %a1, %a2, %a3}; bar.sync 0;"
            "shr.u32 %t4, %t1, 3; and.b32 %t5, %t1, 7; and.b32 %t6, %t4, 1; shr.u32 %t7, %t4, 1;"
            f"{_ROW_LOW} {_ROW_HIGH} ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%d0, %d1, %d2, %d3}}, [%t9];"
            "bar.sync 0; stmatrix.sync.aligned.m8n8.x4.shared.b16 [%t10], {%d0, %d1, %d2, %d3}; bar.sync 0;"
            "ld.shared.v4.b32 {%d0, %d1, %d2, %d3}, [%t3];"
        ),
        inputs=any_words(4),
        expect=transposed_expected,
        out_words=4,
        sm=90,
        tests=("stmatrix.sync.aligned.m8n8.x4.shared.b16", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"),
    ),
]
