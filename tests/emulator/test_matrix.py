"""Fragment layouts of ldmatrix, movmatrix and mma.sync, written here from the PTX ISA's tables, independently."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_kernels import kernel, run

RNG = np.random.default_rng(3)
LANE = np.arange(32)
GROUP, THREAD = LANE // 4, LANE % 4


def bf16_bits(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def small(shape: tuple[int, ...], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Values exact in the type, as floats and as 16-bit patterns."""
    values = RNG.integers(-64, 64, shape).astype(np.float32) / 16
    return values, values.astype(np.float16).view(np.uint16) if kind == "f16" else bf16_bits(values)


def registers(matrix: np.ndarray, rows: list[np.ndarray], columns: list[np.ndarray]) -> np.ndarray:
    """Pack elements [rows[r], columns[r]] and the next column into register r of each lane."""
    low = [matrix[r, c].astype(np.uint32) for r, c in zip(rows, columns, strict=True)]
    high = [matrix[r, c + 1].astype(np.uint32) for r, c in zip(rows, columns, strict=True)]
    return np.stack([lo | (hi << 16) for lo, hi in zip(low, high, strict=True)], 1)


@pytest.mark.parametrize(("kind", "accumulator"), [("f16", "f32"), ("f16", "f16"), ("bf16", "f32")])
@pytest.mark.parametrize("depth", [8, 16])
def test_mma_multiplies_the_fragments_of_the_isa(kind, accumulator, depth):
    a, a_bits = small((16, depth), kind)
    b, b_bits = small((depth, 8), kind)
    c = RNG.integers(-64, 64, (16, 8)).astype(np.float32) / 8
    # PTX ISA, "Matrix Fragments for mma.m16n8k16": a0,a1 row = groupID; a2,a3 row = groupID + 8; a4.. columns + 8.
    rows = [GROUP, GROUP + 8] * (depth // 8)
    columns = [THREAD * 2 + 8 * (n // 2) for n in range(depth // 4)]
    a_regs = registers(a_bits, rows, columns)
    # b0,b1: row = threadID_in_group * 2 + (i & 1), column = groupID; b2,b3 rows + 8.
    b_regs = registers(b_bits.T.copy(), [GROUP] * (depth // 8), [THREAD * 2 + 8 * n for n in range(depth // 8)])
    c_lanes = np.stack(
        [c[GROUP, THREAD * 2], c[GROUP, THREAD * 2 + 1], c[GROUP + 8, THREAD * 2], c[GROUP + 8, THREAD * 2 + 1]], 1
    )
    if accumulator == "f16":
        half = c_lanes.astype(np.float16).view(np.uint16).astype(np.uint32)
        c_regs = np.stack([half[:, 0] | half[:, 1] << 16, half[:, 2] | half[:, 3] << 16], 1)
    else:
        c_regs = c_lanes.view(np.uint32)
    given = np.concatenate([a_regs, b_regs, c_regs], 1).astype(np.uint32)
    na, nb, nc = a_regs.shape[1], b_regs.shape[1], c_regs.shape[1]
    count = na + nb + nc
    names = [f"%r{n + 1}" for n in range(count)]
    loads = "\n".join(f"ld.global.b32 {name}, [%rd3+{4 * n}];" for n, name in enumerate(names))
    d = ", ".join(f"%r{60 + n}" for n in range(nc))
    groups = [", ".join(names[:na]), ", ".join(names[na : na + nb]), ", ".join(names[na + nb :])]
    shape = f"m16n8k{depth}.row.col.{accumulator}.{kind}.{kind}.{accumulator}"
    body = (
        "mov.u32 %r90, %tid.x; ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [given];"
        f"mul.wide.u32 %rd3, %r90, {4 * count}; add.s64 %rd3, %rd2, %rd3;\n{loads}\n"
        f"mma.sync.aligned.{shape} {{{d}}}, {{{groups[0]}}}, {{{groups[1]}}}, {{{groups[2]}}};\n"
        f"mul.wide.u32 %rd4, %r90, {4 * nc}; add.s64 %rd4, %rd1, %rd4;\n"
        + "\n".join(f"st.global.b32 [%rd4+{4 * n}], %r{60 + n};" for n in range(nc))
    )
    out = np.zeros((32, nc), np.uint32)
    report = run(kernel(body, ".param .u64 out, .param .u64 given"), [out, given])
    if accumulator == "f16":
        got = out.view(np.uint16).view(np.float16).reshape(32, 4).astype(np.float32)
    else:
        got = out.view(np.float32)
    want = a @ b + c  # exact: all values are small multiples of 1/256
    result = np.zeros((16, 8), np.float32)
    result[GROUP, THREAD * 2], result[GROUP, THREAD * 2 + 1] = got[:, 0], got[:, 1]
    result[GROUP + 8, THREAD * 2], result[GROUP + 8, THREAD * 2 + 1] = got[:, 2], got[:, 3]
    assert np.array_equal(result, want.astype(np.float16).astype(np.float32) if accumulator == "f16" else want)
    assert report.counters["mma"] == 1
    assert report.counters["mma_flops"] == 2 * 16 * 8 * depth
    assert report.fidelity[f"mma.sync.aligned.{shape}"] == "approximate"


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_gives_each_thread_its_two_elements(count, transposed):
    tile = RNG.integers(0, 65536, (32, 8)).astype(np.uint16)  # row r at byte 16 * place[r]
    place = RNG.permutation(32)
    d = ", ".join(f"%r{60 + n}" for n in range(count))
    body = (
        "mov.u32 %r90, %tid.x; ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [tile]; ld.param.u64 %rd3, [place];"
        "mul.wide.u32 %rd4, %r90, 16; add.s64 %rd2, %rd2, %rd4; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2];"
        "mul.wide.u32 %rd5, %r90, 4; add.s64 %rd3, %rd3, %rd5; ld.global.u32 %r5, [%rd3];"
        "mov.u32 %r6, smem; shl.b32 %r5, %r5, 4; add.s32 %r6, %r6, %r5;"
        "st.shared.v4.u32 [%r6], {%r1, %r2, %r3, %r4}; bar.sync 0;"
        f"ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16 {{{d}}}, [%r6];"
        "ld.param.u64 %rd1, [out]; add.s64 %rd1, %rd1, %rd4;"
        + "".join(f"st.global.u32 [%rd1+{4 * n}], %r{60 + n};" for n in range(count))
    )
    out = np.zeros((32, 4), np.uint32)
    params = ".param .u64 out, .param .u64 tile, .param .u64 place"
    text = kernel(body, params, before=".shared .align 128 .b8 smem[512];")
    report = run(text, [out, tile, place.astype(np.uint32)])
    for n in range(count):
        matrix = tile[8 * n : 8 * n + 8]
        matrix = matrix.T if transposed else matrix
        low, high = matrix[GROUP, THREAD * 2].astype(np.uint32), matrix[GROUP, THREAD * 2 + 1].astype(np.uint32)
        assert np.array_equal(out[:, n], low | high << 16)
    turns = sum(np.bincount(place[8 * n : 8 * n + 8] % 8).max() for n in range(count))
    assert report.counters["ldmatrix_wavefronts"] == turns
    assert report.counters["ldmatrix_wavefronts_ideal"] == count


def test_movmatrix_transposes():
    matrix = RNG.integers(0, 65536, (8, 8)).astype(np.uint16)
    body = (
        "mov.u32 %r90, %tid.x; ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [given]; mul.wide.u32 %rd3, %r90, 4;"
        "add.s64 %rd2, %rd2, %rd3; add.s64 %rd1, %rd1, %rd3; ld.global.u32 %r1, [%rd2];"
        "movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1; st.global.u32 [%rd1], %r2;"
    )
    out = np.zeros((8, 8), np.uint16)
    run(kernel(body, ".param .u64 out, .param .u64 given"), [out, matrix])
    assert np.array_equal(out, matrix.T)


SHUFFLES = {
    "bfly": lambda lane, b, low, high: lane ^ b,
    "up": lambda lane, b, low, high: lane - b,
    "down": lambda lane, b, low, high: lane + b,
    "idx": lambda lane, b, low, high: low | b,
}


@pytest.mark.parametrize("mode", SHUFFLES)
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles_stay_inside_their_segment(mode, width):
    body = (
        "mov.u32 %r90, %tid.x; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd3, %r90, 4; add.s64 %rd1, %rd1, %rd3;"
        f"add.u32 %r1, %r90, 100; shfl.sync.{mode}.b32 %r2|%p1, %r1, {3 if mode != 'bfly' else 2},"
        f" {((32 - width) << 8) | (0 if mode == 'up' else 31)}, -1; selp.u32 %r3, 1000, 0, %p1;"
        "add.u32 %r2, %r2, %r3; st.global.u32 [%rd1], %r2;"
    )
    out = np.zeros(32, np.uint32)
    run(kernel(body), [out])
    step = 3 if mode != "bfly" else 2
    for lane in range(32):
        low = lane // width * width
        source = SHUFFLES[mode](lane, step, low, low + width - 1)
        inside = low <= source < low + width
        assert out[lane] == 100 + (source + 1000 if inside else lane)


def test_votes_reductions_and_masks():
    body = (
        "mov.u32 %r90, %laneid; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd3, %r90, 32; add.s64 %rd1, %rd1, %rd3;"
        "setp.lt.u32 %p1, %r90, 5; vote.sync.ballot.b32 %r1, %p1, -1; vote.sync.any.pred %p2, %p1, -1;"
        "vote.sync.all.pred %p3, !%p1, -1; selp.u32 %r2, 1, 0, %p2; selp.u32 %r3, 1, 0, %p3;"
        "redux.sync.add.u32 %r4, %r90, -1; activemask.b32 %r5; mov.u32 %r6, %lanemask_lt; and.b32 %r7, %r90, 3;"
        "match.any.sync.b32 %r7, %r7, -1; mov.u32 %r8, %lanemask_ge;"
        "st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4}; st.global.v4.u32 [%rd1+16], {%r5, %r6, %r7, %r8};"
    )
    out = np.zeros((32, 8), np.uint32)
    run(kernel(body), [out])
    for lane in range(32):
        below = (1 << lane) - 1
        same = 0x11111111 << (lane % 4)
        assert out[lane].tolist() == [31, 1, 0, 496, 0xFFFFFFFF, below, same, 0xFFFFFFFF ^ below]
