"""The instructions that golden vectors are recorded of: how each is run, on what, and how far an answer may be off.

Those of sm_80 are here, except for the matrices of `golden_mma`; `golden_hopper`, `golden_wgmma` and `golden_tma` have
those of later GPUs. Add an instruction to a list and it is recorded, replayed and reported.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from device_steps.golden_compare import ANY_NAN, Check, mma_check, tolerance
from device_steps.golden_hopper import HOPPER
from device_steps.golden_inputs import F32_EDGES, HALF_EDGES, SMALLEST, Bits, Kind, Words, half_values, pack
from device_steps.golden_kernel import LANES, Instruction
from device_steps.golden_mma import MMA
from device_steps.golden_tma import TMA
from device_steps.golden_wgmma import WGMMA

# ---------------------------------------------------------------------- elementwise, one value or pair a lane


def f32_values(low: int, high: int, operands: int, bits: Bits) -> Words:
    """Every edge value, then values of 2^low to 2^(high + 1)."""
    cases = 32
    values = bits.floats("f32", (cases, LANES, operands), low, high)
    flat = values.reshape(-1, operands)
    for operand in range(operands):  # every pair of edges would not fit; each meets a random one and itself
        edges = np.array(F32_EDGES, np.uint32)
        flat[: edges.size, operand] = edges
        flat[edges.size : 2 * edges.size, operand] = np.roll(edges, 7 * operand)
    return values


def any_words(operands: int, cases: int, bits: Bits) -> Words:
    return bits.words((cases, LANES, operands))


def unary(opcode: str, low: int, high: int, check: Check) -> Instruction:
    return Instruction(name=opcode, body=f"{opcode} %d0, %a0;", inputs=partial(f32_values, low, high, 1), check=check)


def unary_pair(opcode: str, kind: Kind, low: int, high: int, check: Check) -> Instruction:
    inputs = partial(half_values, kind, low, high)
    return Instruction(name=opcode, body=f"{opcode} %d0, %a0;", inputs=inputs, check=check)


_ISA = 'PTX ISA 9.0, "{}"'.format
ELEMENTWISE = [
    unary("ex2.approx.ftz.f32", -12, 6, tolerance("f32", relative=2**-22, source=_ISA("ex2"))),
    unary("ex2.approx.f32", -12, 7, tolerance("f32", relative=2**-22, absolute=2**-148, source=_ISA("ex2"))),
    unary("lg2.approx.ftz.f32", -120, 120, tolerance("f32", relative=2**-22, absolute=2**-22, source=_ISA("lg2"))),
    unary("lg2.approx.f32", -2, 1, tolerance("f32", relative=2**-22, absolute=2**-22, source=_ISA("lg2"))),
    unary("rcp.approx.ftz.f32", -120, 120, tolerance("f32", relative=2**-23, source=_ISA("rcp"))),
    unary("rcp.approx.f32", -120, 120, tolerance("f32", relative=2**-23, absolute=2**-148, source=_ISA("rcp"))),
    unary("rcp.rn.f32", -120, 120, ANY_NAN),
    unary("rsqrt.approx.ftz.f32", -120, 120, tolerance("f32", relative=2**-22.9, source=_ISA("rsqrt"))),
    unary("rsqrt.approx.f32", -120, 120, tolerance("f32", relative=2**-22.9, source=_ISA("rsqrt"))),
    unary("sqrt.approx.ftz.f32", -120, 120, tolerance("f32", relative=2**-23, source=_ISA("sqrt"))),
    unary("sqrt.rn.f32", -120, 120, ANY_NAN),
    unary("tanh.approx.f32", -12, 4, tolerance("f32", relative=2**-11, source=_ISA("tanh"))),
    unary_pair("ex2.approx.f16x2", "f16", -8, 3, tolerance("f16", relative=2**-9.9, source=_ISA("ex2"))),
    unary_pair("tanh.approx.f16x2", "f16", -8, 3, tolerance("f16", absolute=2**-10.987, source=_ISA("tanh"))),
]  # fmt: skip


def _cvt_pair(kind: str) -> Instruction:
    opcode = f"cvt.rn.{kind}x2.f32"
    return Instruction(name=opcode, body=f"{opcode} %d0, %a0, %a1;", inputs=partial(f32_values, -26, 17, 2))


def _cvt_one(kind: str) -> Instruction:
    opcode = f"cvt.rn.{kind}.f32"
    body = f"{opcode} %h0, %a0; mov.b16 %h1, 0; mov.b32 %d0, {{%h0, %h1}};"
    return Instruction(name=opcode, body=body, inputs=partial(f32_values, -26, 17, 1))


CONVERSIONS = [
    _cvt_pair("f16"),
    _cvt_pair("bf16"),
    _cvt_one("f16"),
    _cvt_one("bf16"),
    Instruction(
        name="cvt.f32.f16",
        body="mov.b32 {%h0, %h1}, %a0; cvt.f32.f16 %d0, %h0; cvt.f32.f16 %d1, %h1;",
        inputs=partial(half_values, "f16", -14, 15),
        out_words=2,
        check=ANY_NAN,
    ),
    Instruction(name="prmt.b32", body="prmt.b32 %d0, %a0, %a1, %a2;", inputs=partial(any_words, 3, 16)),
]


# ---------------------------------------------------------------------- across the lanes of a warp


def shuffle_inputs(mode: str, bits: Bits) -> Words:
    """A value, a lane or distance of each lane's own, and the segment, the same for the warp."""
    cases = 16
    width = np.uint32(32) >> bits.below(4, (cases, 1))  # 32, 16, 8 or 4 lanes
    segment = (np.uint32(32) - width) << np.uint32(8) | np.uint32(0 if mode == "up" else 31)
    distance = bits.below(32, (cases, LANES))
    return np.stack([bits.words((cases, LANES)), distance, np.broadcast_to(segment, (cases, LANES))], -1)


def _shuffle(mode: str) -> Instruction:
    opcode = f"shfl.sync.{mode}.b32"
    body = f"{opcode} %d0|%p0, %a0, %a1, %a2, -1; selp.b32 %d1, 1, 0, %p0;"
    return Instruction(name=opcode, body=body, inputs=partial(shuffle_inputs, mode), out_words=2)


def vote_inputs(bits: Bits) -> Words:
    """Warps of which all, none, few and half the lanes vote yes."""
    words = bits.words((16, LANES, 1)) & np.uint32(1)
    words[0], words[1], words[2] = 0, 1, 0
    words[2, 17], words[3] = 1, 1
    words[3, 5] = 0
    return words


def _vote(mode: str) -> Instruction:
    opcode = f"vote.sync.{mode}"
    vote = f"{opcode} %d0, %p0, -1;" if mode == "ballot.b32" else f"{opcode} %p1, %p0, -1; selp.b32 %d0, 1, 0, %p1;"
    return Instruction(name=opcode, body=f"setp.ne.u32 %p0, %a0, 0; {vote}", inputs=vote_inputs)


WARP = [
    *[_shuffle(mode) for mode in ("up", "down", "bfly", "idx")],
    *[_vote(mode) for mode in ("all.pred", "any.pred", "uni.pred", "ballot.b32")],
    Instruction(
        name="match.any.sync.b32",
        body="match.any.sync.b32 %d0, %a0, -1;",
        inputs=lambda bits: bits.below(5, (16, LANES, 1)),
    ),
    Instruction(name="redux.sync.add.u32", body="redux.sync.add.u32 %d0, %a0, -1;", inputs=partial(any_words, 1, 16)),
]


# ---------------------------------------------------------------------- matrices


def ldmatrix_inputs(bits: Bits) -> Words:
    """Four words for the lane's row of the tile, and the row whose address it gives, all rows in some order."""
    cases = 8
    order = np.argsort(bits.words((cases, LANES)), axis=1, kind="stable").astype(np.uint32)
    return np.concatenate([bits.words((cases, LANES, 4)), order[..., None]], -1)


def _ldmatrix(count: int, *, transposed: bool) -> Instruction:
    opcode = f"ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16"
    out = ", ".join(f"%d{n}" for n in range(count))
    body = (
        "mov.u32 %t2, tile; shl.b32 %t3, %t1, 4; add.s32 %t3, %t2, %t3; shl.b32 %t4, %a4, 4; add.s32 %t4, %t2, %t4;\n"
        f"st.shared.v4.b32 [%t3], {{%a0, %a1, %a2, %a3}}; bar.sync 0;\n{opcode} {{{out}}}, [%t4];"
    )
    return Instruction(name=opcode, body=body, inputs=ldmatrix_inputs, out_words=count)


def mma_inputs(kind: Kind, depth: int, accumulator: Kind, bits: Bits) -> Words:
    """Fragments of A, B and C by turns: like attention's, whole numbers, wide, over a large C, tiny, special."""
    cases = 48
    num_a, num_b, num_c = depth // 2, depth // 4, 4  # 16-bit elements a lane; C counts elements

    def fragment(count: int, kind_of: Kind, turn: int, *, is_c: bool) -> Words:
        shape = (LANES, count)
        tiny = {"f16": -14, "bf16": -60, "f32": -120}[kind_of]
        wide = 3 if accumulator == "f16" or kind_of == "f16" else 30
        values = bits.floats(kind_of, shape, -6, 0)
        match turn:
            case 1:
                values = bits.integers(kind_of, shape, 8)
            case 2:
                values = bits.floats(kind_of, shape, -wide, wide)
            case 3:
                values = bits.floats(kind_of, shape, 8, 11) if is_c else values
            case 4:
                values = bits.floats(kind_of, shape, tiny, tiny + 6) if is_c or kind_of == "f16" else values
                values = np.where(bits.one_in(4, shape), bits.choice(SMALLEST[kind_of], shape), values)
            case 5 if not is_c:  # without the largest value: whether a sum of those overflows depends on its order
                values = np.where(bits.one_in(24, shape), bits.choice(HALF_EDGES[kind_of][:-1], shape), values)
        return values

    rows = []
    for case in range(cases):
        a, b = (pack(fragment(count, kind, case % 6, is_c=False)) for count in (num_a, num_b))
        c = fragment(num_c, accumulator, case % 6, is_c=True)
        rows.append(np.concatenate([a, b, pack(c) if accumulator == "f16" else c], -1))
    return np.stack(rows)


MMA_KINDS: tuple[Kind, ...] = ("f16", "bf16")


def _mma(depth: int, kind: Kind, accumulator: Kind) -> Instruction:
    opcode = f"mma.sync.aligned.m16n8k{depth}.row.col.{accumulator}.{kind}.{kind}.{accumulator}"
    counts = (depth // 4, depth // 8, 4 if accumulator == "f32" else 2)
    a, b = counts[0], counts[0] + counts[1]
    names = [f"%a{n}" for n in range(sum(counts))]
    d = ", ".join(f"%d{n}" for n in range(counts[2]))
    groups = ", ".join(f"{{{', '.join(group)}}}" for group in (names[:a], names[a:b], names[b:]))
    return Instruction(
        name=opcode,
        body=f"{opcode} {{{d}}}, {groups};",
        inputs=partial(mma_inputs, kind, depth, accumulator),
        out_words=counts[2],
        check=mma_check(depth, kind, accumulator),
    )


MATRIX = [
    *[_ldmatrix(count, transposed=transposed) for count in (1, 2, 4) for transposed in (False, True)],
    Instruction(
        name="movmatrix.sync.aligned.m8n8.trans.b16",
        body="movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;",
        inputs=partial(any_words, 1, 8),
    ),
    *[_mma(depth, kind, "f32") for depth in (16, 8) for kind in MMA_KINDS],
    *[_mma(depth, "f16", "f16") for depth in (16, 8)],
]


INSTRUCTIONS: list[Instruction] = [*MATRIX, *ELEMENTWISE, *CONVERSIONS, *WARP, *MMA, *HOPPER, *WGMMA, *TMA]
