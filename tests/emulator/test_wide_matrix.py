"""mma.sync of tf32, 8-bit and fp64 elements, stmatrix and fp8 conversions, against matrices put together here."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_kernels import elementwise, kernel, run

from kernelwright import emulator as emu

RNG = np.random.default_rng(5)
LANE = np.arange(32)
GROUP, THREAD = LANE // 4, LANE % 4
SMEM = ".shared .align 128 .b8 smem[512];"
EVERY_BYTE = np.arange(256, dtype=np.uint8)


@pytest.fixture
def device():
    """Set the emulated device's compute capability; back to 80 afterwards."""
    yield lambda sm: emu.configure(sm=sm)
    emu.configure(sm=80)


def fp8(byte: np.ndarray, kind: str) -> np.ndarray:
    """The values of fp8 bytes, from the format's definition."""
    mantissa, bias = (3, 7) if kind == "e4m3" else (2, 15)
    field = (byte.astype(int) & 0x7F) >> mantissa
    fraction = (byte.astype(int) & ((1 << mantissa) - 1)) / (1 << mantissa)
    value = np.where(field == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (field - bias))
    if kind == "e4m3":
        value = np.where((byte & 0x7F) == 0x7F, np.nan, value)
    else:
        value = np.where(field == 31, np.where(fraction == 0, np.inf, np.nan), value)
    return np.where(byte & 0x80, -value, value)


def test_fp8_values_of_the_test_itself():
    values = fp8(EVERY_BYTE, "e4m3")
    assert values[0x7E] == 448 and values[1] == 2.0**-9 and values[0x38] == 1 and np.isnan(values[[0x7F, 0xFF]]).all()
    values = fp8(EVERY_BYTE, "e5m2")
    assert values[0x7B] == 57344 and values[1] == 2.0**-16 and values[0xBC] == -1 and values[0xFC] == -np.inf


def fragments(matrix: np.ndarray, wide: int) -> np.ndarray:
    """Registers [lane, n] of A (or of B transposed): `wide` neighbours of a row in each 32 bits."""
    rows, depth = matrix.shape
    halves = max(rows // 8, 1)
    out = []
    for n in range(halves * depth // (4 * wide)):
        row, column = GROUP + 8 * (n % halves), 4 * wide * (n // halves) + wide * THREAD
        parts = np.stack([matrix[row, column + k] for k in range(wide)], 1)
        out.append(np.ascontiguousarray(parts).view(np.uint32)[:, 0])
    return np.stack(out, 1)


def mma(shape: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, *, sm: int = 80) -> tuple[np.ndarray, emu.Report]:
    """One mma on fragments [lane, register]; D comes back as registers like C."""
    na, nb, nc = a.shape[1], b.shape[1], c.shape[1]
    given = np.concatenate([a, b, c], 1).astype(np.uint32)
    names = [f"%r{n + 1}" for n in range(given.shape[1])]
    groups = [", ".join(names[:na]), ", ".join(names[na : na + nb]), ", ".join(names[na + nb :])]
    d = ", ".join(f"%r{60 + n}" for n in range(nc))
    body = (
        "mov.u32 %r90, %tid.x; ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [given];"
        f"mul.wide.u32 %rd3, %r90, {4 * given.shape[1]}; add.s64 %rd3, %rd2, %rd3;\n"
        + "".join(f"ld.global.b32 {name}, [%rd3+{4 * n}];" for n, name in enumerate(names))
        + f"\nmma.sync.aligned.{shape} {{{d}}}, {{{groups[0]}}}, {{{groups[1]}}}, {{{groups[2]}}};\n"
        + f"mul.wide.u32 %rd4, %r90, {4 * nc}; add.s64 %rd4, %rd1, %rd4;\n"
        + "".join(f"st.global.b32 [%rd4+{4 * n}], %r{60 + n};" for n in range(nc))
    )
    out = np.zeros((32, nc), np.uint32)
    report = run(kernel(body, ".param .u64 out, .param .u64 given", sm=sm), [out, given])
    return out, report


def split(c: np.ndarray) -> np.ndarray:
    """Accumulators [lane, register] of 32 bits each."""
    parts = [c[GROUP + 8 * half, THREAD * 2 + odd] for half in range(c.shape[0] // 8) for odd in range(2)]
    return np.stack(parts, 1).view(np.uint32)


def join(registers: np.ndarray, dtype: type) -> np.ndarray:
    out = np.zeros((4 * registers.shape[1], 8), dtype)
    for n in range(registers.shape[1]):
        out[GROUP + 8 * (n // 2), THREAD * 2 + n % 2] = registers[:, n].view(dtype)
    return out


@pytest.mark.parametrize("depth", [4, 8])
def test_tf32_ignores_the_low_13_bits_of_its_inputs(depth):
    a = (RNG.integers(-64, 64, (16, depth)) / 16).astype(np.float32)
    b = (RNG.integers(-64, 64, (depth, 8)) / 16).astype(np.float32)
    c = (RNG.integers(-64, 64, (16, 8)) / 8).astype(np.float32)
    noisy = [(x.view(np.uint32) | RNG.integers(0, 1 << 13, x.shape).astype(np.uint32)) for x in (a, b)]
    shape = f"m16n8k{depth}.row.col.f32.tf32.tf32.f32"
    out, report = mma(shape, fragments(noisy[0], 1), fragments(noisy[1].T.copy(), 1), split(c))
    assert np.array_equal(join(out, np.float32), a @ b + c)
    assert report.counters["mma_flops"] == 2 * 16 * 8 * depth
    assert report.fidelity[f"mma.sync.aligned.{shape}"] == "approximate"


@pytest.mark.parametrize("shape", [(8, 16), (16, 16), (16, 32)])
@pytest.mark.parametrize("types", [("s8", "s8"), ("s8", "u8"), ("u8", "s8"), ("u8", "u8")])
@pytest.mark.parametrize("finite", [False, True])
def test_integer_mma_wraps_or_clamps(shape, types, finite):
    rows, depth = shape
    dtype = {"s8": np.int8, "u8": np.uint8}
    a = RNG.integers(0, 256, (rows, depth)).astype(np.uint8).view(dtype[types[0]])
    b = RNG.integers(0, 256, (depth, 8)).astype(np.uint8).view(dtype[types[1]])
    c = RNG.integers(-(2**31), 2**31, (rows, 8))
    c[0], c[1] = 2**31 - 1, -(2**31)
    exact = a.astype(np.int64) @ b.astype(np.int64) + c
    assert (np.abs(exact) > 2**31).any()
    saturate = ".satfinite" if finite else ""
    name = f"m{rows}n8k{depth}.row.col{saturate}.s32.{types[0]}.{types[1]}.s32"
    out, report = mma(name, fragments(a, 4), fragments(b.T.copy(), 4), split(c.astype(np.int32)))
    want = np.clip(exact, -(2**31), 2**31 - 1) if finite else exact
    assert np.array_equal(join(out, np.int32), want.astype(np.int32))
    assert report.counters["mma_flops"] == 2 * rows * 8 * depth
    assert report.fidelity[f"mma.sync.aligned.{name}"] == "exact"


@pytest.mark.parametrize("depth", [16, 32])
@pytest.mark.parametrize("a_type", ["e4m3", "e5m2"])
@pytest.mark.parametrize("b_type", ["e4m3", "e5m2"])
@pytest.mark.parametrize("accumulator", ["f32", "f16"])
def test_fp8_mma(depth, a_type, b_type, accumulator, device):
    device(89)
    # Magnitudes 2^-2 to 2 in both formats: every sum is exact in fp32, and rounds once to fp16.
    exponents = {"e4m3": range(0x28, 0x40), "e5m2": range(0x34, 0x40)}
    pick = {kind: np.array([*bytes_, *(x | 0x80 for x in bytes_)], np.uint8) for kind, bytes_ in exponents.items()}
    a, b = RNG.choice(pick[a_type], (16, depth)), RNG.choice(pick[b_type], (depth, 8))
    c = (RNG.integers(-64, 64, (16, 8)) / 8).astype(np.float32)
    want = (fp8(a, a_type) @ fp8(b, b_type) + c).astype(np.float32)
    registers = split(c)
    if accumulator == "f16":
        half = registers.view(np.float32).astype(np.float16).view(np.uint16).astype(np.uint32)
        registers = half[:, 0::2] | half[:, 1::2] << 16
    name = f"m16n8k{depth}.row.col.{accumulator}.{a_type}.{b_type}.{accumulator}"
    out, report = mma(name, fragments(a, 4), fragments(b.T.copy(), 4), registers, sm=89)
    if accumulator == "f16":
        floats = np.stack([out[:, 0] & 0xFFFF, out[:, 0] >> 16, out[:, 1] & 0xFFFF, out[:, 1] >> 16], 1)
        got = join(floats.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32), np.float32)
        want = want.astype(np.float16).astype(np.float32)
    else:
        got = join(out, np.float32)
    assert np.array_equal(got, want)
    assert report.counters["mma_flops"] == 2 * 16 * 8 * depth


def test_fp64_mma():
    a, b, c = (RNG.integers(-99, 99, shape).astype(np.float64) for shape in ((8, 4), (4, 8), (8, 8)))
    given = np.stack([a[GROUP, THREAD], b[THREAD, GROUP], c[GROUP, 2 * THREAD], c[GROUP, 2 * THREAD + 1]], 1)
    body = (
        "mov.u32 %r90, %tid.x; ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [given]; mul.wide.u32 %rd3, %r90, 32;"
        "add.s64 %rd2, %rd2, %rd3; ld.global.b64 %rd11, [%rd2]; ld.global.b64 %rd12, [%rd2+8];"
        "ld.global.b64 %rd13, [%rd2+16]; ld.global.b64 %rd14, [%rd2+24];\n"
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd15, %rd16}, {%rd11}, {%rd12}, {%rd13, %rd14};\n"
        "mul.wide.u32 %rd3, %r90, 16; add.s64 %rd1, %rd1, %rd3;"
        "st.global.b64 [%rd1], %rd15; st.global.b64 [%rd1+8], %rd16;"
    )
    out = np.zeros((8, 8))
    report = run(kernel(body, ".param .u64 out, .param .u64 given"), [out, given])
    assert np.array_equal(out, a @ b + c)
    assert report.counters["mma_flops"] == 2 * 8 * 8 * 4


FOUR, TWO, ONE = "{%r1, %r2, %r3, %r4}", "{%r1, %r2}", "{%r1}"


@pytest.mark.parametrize(
    ("instruction", "wants"),
    [
        (f"mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {FOUR}, {FOUR}, {TWO}, {FOUR}", "sm_89"),
        ("cvt.rn.satfinite.e4m3x2.f32 %rs1, %f1, %f2", "sm_89"),
        ("cvt.rn.f16x2.e5m2x2 %r1, %rs1", "sm_89"),
        (f"stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {ONE}", "sm_90"),
        ("mbarrier.try_wait.shared.b64 %p1, [%r1], %rd1", "sm_90"),
        (f"mma.sync.aligned.m16n8k32.row.col.s32.s4.s4.s32 {FOUR}, {TWO}, {ONE}, {FOUR}", "4-bit"),
        (f"mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.xor.popc {FOUR}, {TWO}, {ONE}, {FOUR}", "single bits"),
        (f"mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {FOUR}, {TWO}, {TWO}, {FOUR}", "sm_70"),
        (f"ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {TWO}, [%r1]", "sm_100"),
        ("mbarrier.arrive.expect_tx.shared.b64 %rd1, [%r1], 16", "sm_90"),
        ("mbarrier.arrive.shared::cluster.b64 _, [%r1]", "sm_90"),
    ],
)
def test_what_the_target_or_the_emulator_lacks_is_refused_at_its_line(instruction, wants):
    text = kernel(f"\n{instruction};\n")
    line = text.split("\n").index(f"{instruction};") + 1
    with pytest.raises(emu.EmulatorError, match=rf"PTX line {line}: .*{wants}"):
        emu.load(text)


def narrow(x: np.ndarray, kind: str) -> np.ndarray:
    """Nearest fp8 of each float: the smallest distance wins, of two the even byte; beyond the largest, that one."""
    finite = EVERY_BYTE[:0x7F] if kind == "e4m3" else EVERY_BYTE[:0x7C]
    values = fp8(finite, kind)
    magnitude = np.minimum(np.abs(np.nan_to_num(x.astype(np.float64))), values[-1])
    upper = np.searchsorted(values, magnitude)
    lower = np.maximum(upper - 1, 0)
    below, above = magnitude - values[lower], values[upper] - magnitude
    pick = np.where((below < above) | ((below == above) & (lower % 2 == 0)), lower, upper).astype(np.uint8)
    return np.where(np.isnan(x), 0x7F, pick | (np.signbit(x) * np.uint8(0x80))).astype(np.uint8)


def interesting_floats(kind: str) -> np.ndarray:
    """Every value, every midpoint and its neighbours, and what lies beyond the range."""
    values = np.sort(fp8(EVERY_BYTE, kind)[np.isfinite(fp8(EVERY_BYTE, kind))])
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-45, 464.0, 465.0, 480.0, 61440.0, 65536.0, 1e30]
    parts = [values, middle, np.nextafter(middle, np.float32(9e9)), np.nextafter(middle, np.float32(-9e9)), odd]
    return np.concatenate([np.asarray(part, np.float32) for part in parts])


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
@pytest.mark.parametrize("relu", ["", ".relu"])
def test_floats_round_to_fp8(kind, relu, device):
    device(89)
    a = interesting_floats(kind)
    b = RNG.permutation(a)
    with np.errstate(invalid="ignore"):
        want = [narrow(np.where(x < 0, 0, x) if relu else x, kind).astype(np.uint16) for x in (a, b)]
    instruction = f"cvt.rn.satfinite{relu}.{kind}x2.f32 {{d}}, {{a}}, {{b}};"
    got = elementwise(instruction, [a, b], np.uint16, sm=89)
    assert np.array_equal(got, want[0] << 8 | want[1])


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_every_fp16_rounds_to_fp8(kind, device):
    device(89)
    bits = np.arange(1 << 16, dtype=np.uint16)
    pairs = bits.astype(np.uint32) << 16 | bits[::-1].astype(np.uint32)
    with np.errstate(invalid="ignore"):
        want = narrow(bits.view(np.float16).astype(np.float32), kind).astype(np.uint16)
    got = elementwise(f"cvt.rn.satfinite.{kind}x2.f16x2 {{d}}, {{a}};", [pairs], np.uint16, sm=89)
    assert np.array_equal(got, want << 8 | want[::-1])


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
@pytest.mark.parametrize("relu", ["", ".relu"])
def test_every_fp8_widens_to_fp16(kind, relu, device):
    device(89)
    pairs = EVERY_BYTE.astype(np.uint16) << 8 | EVERY_BYTE[::-1]
    values = fp8(EVERY_BYTE, kind)
    values = np.where(values < 0, 0, values) if relu else values
    half = np.where(np.isnan(values), np.uint16(0x7FFF), values.astype(np.float16).view(np.uint16)).astype(np.uint32)
    got = elementwise(f"cvt.rn{relu}.f16x2.{kind}x2 {{d}}, {{a}};", [pairs], np.uint32, sm=89)
    assert np.array_equal(got, half << 16 | half[::-1])


def stmatrix(count: int, transposed: bool, sync: str) -> str:
    """Store registers %r1 on, one for each matrix, to rows placed by `place`; read a row a thread back."""
    registers = ", ".join(f"%r{1 + n}" for n in range(count))
    return (
        "mov.u32 %r90, %tid.x; ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [tile]; ld.param.u64 %rd3, [place];"
        "mul.wide.u32 %rd4, %r90, 16; add.s64 %rd2, %rd2, %rd4; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2];"
        "mul.wide.u32 %rd5, %r90, 4; add.s64 %rd3, %rd3, %rd5; ld.global.u32 %r5, [%rd3];"
        "mov.u32 %r6, smem; shl.b32 %r5, %r5, 4; add.s32 %r6, %r6, %r5;"
        f"stmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16 [%r6], {{{registers}}};\n"
        f"{sync}"
        f"setp.ge.u32 %p1, %r90, {8 * count}; @%p1 bra $end;"
        "ld.shared.v4.u32 {%r11, %r12, %r13, %r14}, [%r6]; add.s64 %rd1, %rd1, %rd4;"
        "st.global.v4.u32 [%rd1], {%r11, %r12, %r13, %r14};\n$end:\n"
    )


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_stmatrix_stores_what_ldmatrix_would_load(count, transposed, device):
    device(90)
    fragments_of = RNG.integers(0, 2**32, (32, 4), dtype=np.uint64).astype(np.uint32)
    place = RNG.permutation(32).astype(np.uint32)
    params = ".param .u64 out, .param .u64 tile, .param .u64 place"
    text = kernel(stmatrix(count, transposed, "bar.warp.sync -1;"), params, before=SMEM, sm=90)
    out = np.zeros((32, 8), np.uint16)
    report = run(text, [out, fragments_of, place])
    for n in range(count):
        matrix = np.zeros((8, 8), np.uint16)
        matrix[GROUP, 2 * THREAD] = fragments_of[:, n] & 0xFFFF
        matrix[GROUP, 2 * THREAD + 1] = fragments_of[:, n] >> 16
        assert np.array_equal(out[8 * n : 8 * n + 8], matrix.T if transposed else matrix)
    turns = sum(np.bincount(place[8 * n : 8 * n + 8] % 8).max() for n in range(count))
    assert report.counters["stmatrix_wavefronts"] == turns
    assert report.counters["stmatrix_wavefronts_ideal"] == count


def test_lanes_must_synchronise_before_they_read_what_stmatrix_stored(device):
    device(90)
    params = ".param .u64 out, .param .u64 tile, .param .u64 place"
    text = kernel(stmatrix(4, False, ""), params, before=SMEM, sm=90)
    arguments = [np.zeros((32, 8), np.uint16), np.zeros((32, 4), np.uint32), LANE.astype(np.uint32)]
    with pytest.raises(emu.EmulatorError, match=r"race .*__syncwarp"):
        run(text, arguments)
