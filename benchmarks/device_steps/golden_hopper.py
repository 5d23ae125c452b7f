"""Instructions of one warp that came with sm_90: stmatrix, and ex2 and tanh on pairs of bf16."""

from __future__ import annotations

from functools import partial

import numpy as np

from device_steps.golden_compare import tolerance
from device_steps.golden_inputs import Bits, Words, half_values
from device_steps.golden_kernel import LANES, Instruction


def stmatrix_inputs(bits: Bits) -> Words:
    """Four words of the lane's fragments, and the row of the tile that it addresses, all rows in some order."""
    cases = 8
    order = np.argsort(bits.words((cases, LANES)), axis=1, kind="stable").astype(np.uint32)
    return np.concatenate([bits.words((cases, LANES, 4)), order[..., None]], -1)


def stmatrix_model(count: int, transposed: bool, given: Words) -> Words:
    """The tile afterwards, 16 bytes a lane; rows that no stored matrix has stay zero.

    Source: PTX ISA 9.0, "stmatrix": lane 8 i + r addresses row r of matrix i; lane l holds two elements of row l / 4.
    """
    cases = given.shape[0]
    tile = np.zeros((cases, LANES, 8), np.uint32)
    case, lane = np.arange(cases)[:, None], np.arange(LANES)
    for matrix in range(count):
        for half in range(2):
            row, column = lane // 4, 2 * (lane % 4) + half
            if transposed:
                row, column = column, row
            at = given[case, 8 * matrix + row, 4]
            tile[case, at, column] = given[:, :, matrix] >> np.uint32(16 * half) & np.uint32(0xFFFF)
    return tile[..., 0::2] | tile[..., 1::2] << np.uint32(16)


def _stmatrix(count: int, *, transposed: bool) -> Instruction:
    opcode = f"stmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16"
    given = ", ".join(f"%a{n}" for n in range(count))
    body = (
        "mov.u32 %t2, tile; shl.b32 %t3, %t1, 4; add.s32 %t3, %t2, %t3; shl.b32 %t4, %a4, 4; add.s32 %t4, %t2, %t4;\n"
        "mov.b32 %t5, 0; st.shared.v4.b32 [%t3], {%t5, %t5, %t5, %t5}; bar.sync 0;\n"
        f"{opcode} [%t4], {{{given}}};\nbar.sync 0; ld.shared.v4.b32 {{%d0, %d1, %d2, %d3}}, [%t3];"
    )
    return Instruction(
        name=opcode,
        body=body,
        inputs=stmatrix_inputs,
        out_words=4,
        target="sm_90",
        model=partial(stmatrix_model, count, transposed),
    )


def _pair(opcode: str, *, relative: float = 0.0, absolute: float = 0.0) -> Instruction:
    source = f'PTX ISA 9.0, "{opcode.partition(".")[0]}"'
    return Instruction(
        name=opcode,
        body=f"{opcode} %d0, %a0;",
        inputs=partial(half_values, "bf16", -8, 3),
        check=tolerance("bf16", relative=relative, absolute=absolute, source=source),
        target="sm_90",
    )


HOPPER: list[Instruction] = [
    *[_stmatrix(count, transposed=transposed) for count in (1, 2, 4) for transposed in (False, True)],
    _pair("ex2.approx.ftz.bf16x2", relative=2**-7),
    _pair("tanh.approx.bf16x2", absolute=2**-8),
]
