"""wmma.load, wmma.mma and wmma.store of fp16 against matrices put together here."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
from emulator_kernels import aligned, kernel, run

from kernelwright import emulator as emu

SHAPES = [(16, 16), (8, 32), (32, 8)]
DEPTH = 16
STRIDE = 48
TYPES = {"f16": np.float16, "f32": np.float32}


def group(first: int, count: int) -> str:
    return "{" + ", ".join(f"%r{first + n}" for n in range(count)) + "}"


def registers(kind: str) -> int:
    return 4 if kind == "f16" else 8


def stored(matrix: np.ndarray, layout: str) -> np.ndarray:
    """The matrix as it lies in memory, lines STRIDE elements apart and NaN between them."""
    lines = matrix if layout == "row" else matrix.T
    out = aligned((lines.shape[0], STRIDE), matrix.dtype.type)
    out[:] = np.nan
    out[:, : lines.shape[1]] = lines
    return out


def whole_numbers(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    """Sums of their products are exact in both types, whatever the order."""
    return rng.integers(-4, 5, shape).astype(TYPES[kind])


@pytest.mark.parametrize(("kind_d", "kind_c"), [("f32", "f32"), ("f16", "f16"), ("f32", "f16"), ("f16", "f32")])
@pytest.mark.parametrize("layouts", ["row col row col", "col row col row", "row row col col"])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_a_product_of_stored_matrices(m, n, layouts, kind_d, kind_c):
    rng = np.random.default_rng(m)
    la, lb, lc, ld = layouts.split()
    a, b = whole_numbers(rng, (m, DEPTH), "f16"), whole_numbers(rng, (DEPTH, n), "f16")
    c = whole_numbers(rng, (m, n), kind_c)
    shape = f"m{m}n{n}k16"
    nc, nd = registers(kind_c), registers(kind_d)
    body = f"""ld.param.u64 %rd1, [pa]; ld.param.u64 %rd2, [pb]; ld.param.u64 %rd3, [pc]; ld.param.u64 %rd4, [pd];
        mov.u32 %r99, {STRIDE};
        wmma.load.a.sync.aligned.{la}.{shape}.global.f16 {group(1, 8)}, [%rd1], %r99;
        wmma.load.b.sync.aligned.{lb}.{shape}.f16 {group(11, 8)}, [%rd2], {STRIDE};
        wmma.load.c.sync.aligned.{lc}.{shape}.global.{kind_c} {group(21, nc)}, [%rd3], %r99;
        wmma.mma.sync.aligned.{la}.{lb}.{shape}.{kind_d}.{kind_c} {group(31, nd)}, {group(1, 8)}, {group(11, 8)},
            {group(21, nc)};
        wmma.store.d.sync.aligned.{ld}.{shape}.global.{kind_d} [%rd4], {group(31, nd)}, %r99;"""
    expected = stored((a.astype(np.float64) @ b + c).astype(TYPES[kind_d]), ld)
    out = aligned(expected.shape, TYPES[kind_d])
    out[:] = np.nan
    arrays = [stored(a, la), stored(b, lb), stored(c, lc), out]
    report = run(kernel(body, ", ".join(f".param .u64 p{one}" for one in "abcd")), arrays)
    assert np.array_equal(out, expected, equal_nan=True)
    assert report.counters["mma_flops"] == 2 * m * n * DEPTH
    sizes = (a.nbytes + b.nbytes + c.nbytes, out.itemsize * m * n)
    assert (report.counters["global_load_bytes"], report.counters["global_store_bytes"]) == sizes
    assert [how for opcode, how in report.fidelity.items() if ".mma." in opcode] == ["approximate"]


@pytest.mark.parametrize("layout", ["row", "col"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_without_a_stride_lines_follow_one_another_in_shared_memory_too(m, n, kind, layout):
    shape, regs, size = f"m{m}n{n}k16", group(1, registers(kind)), np.dtype(TYPES[kind]).itemsize
    copies = "\n".join(
        f"ld.global.b32 %r50, [%rd3+{128 * k}]; st.shared.b32 [%r41+{128 * k}], %r50;" for k in range(2 * size)
    )
    body = f""".shared .align 32 .b8 smem[{256 * size}];
        ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out]; mov.u32 %r40, %tid.x;
        mul.wide.u32 %rd3, %r40, 4; add.s64 %rd3, %rd1, %rd3; mov.u32 %r42, smem; mad.lo.u32 %r41, %r40, 4, %r42;
        {copies}
        bar.warp.sync 0xffffffff;
        wmma.load.c.sync.aligned.{layout}.{shape}.shared.{kind} {regs}, [smem];
        wmma.store.d.sync.aligned.{layout}.{shape}.global.{kind} [%rd2], {regs};"""
    given, out = aligned((256,), TYPES[kind]), aligned((256,), TYPES[kind])
    given[:] = np.arange(256)
    run(kernel(body, ".param .u64 in, .param .u64 out"), [given, out])
    assert np.array_equal(out, given)


LOAD = "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {regs}, [%rd1], {stride};"
STORE = "wmma.store.d.sync.aligned.row.m16n16k16.global.f16 [%rd1], {%r1, %r2, %r3, %r4}, 16;"


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (LOAD.replace("{stride}", "17"), "misaligned", "global"),
        (LOAD.replace("{stride}", "24"), "out_of_bounds", "past the end"),
        ("mov.u32 %r9, %tid.x; " + LOAD.replace("{stride}", "%r9"), "divergent_warp", "not the same"),
        ("mov.u32 %r9, %tid.x; setp.lt.u32 %p1, %r9, 16; @%p1 " + LOAD.replace("{stride}", "16"),
         "divergent_warp", "some"),
        ("mov.u32 %r1, 0; mov.u32 %r2, 0; mov.u32 %r4, 0; " + STORE, "undefined_value", "%r3 is stored here"),
    ],
)  # fmt: skip
def test_wrong_uses_are_findings(body, kind, words):
    text = kernel("ld.param.u64 %rd1, [out]; " + body.replace("{regs}", group(11, 8)))
    report = run(text, [aligned((256,), np.float16)], on_finding="collect")
    assert kind in [one.kind for one in report.findings]
    assert words in next(one.text for one in report.findings if one.kind == kind)


@pytest.mark.parametrize("opcode", ["load.a.sync.aligned.row.m16n16k16.bf16", "load.a.aligned.row.m16n16k16.f16"])
def test_others_are_refused(opcode):
    with pytest.raises(emu.EmulatorError, match="not one the emulator knows"):
        emu.load(kernel(f"ld.param.u64 %rd1, [out]; wmma.{opcode} {group(1, 8)}, [%rd1], 16;"))


@pytest.mark.nvcc
def test_what_nvcc_makes_of_nvcuda_wmma_runs(tmp_path):
    source = tmp_path / "k.cu"
    source.write_text("""
        #include <mma.h>
        using namespace nvcuda::wmma;
        extern "C" __global__ void k(const half* a, const half* b, float* c) {
            __shared__ __align__(32) half tile[256];
            for (int n = threadIdx.x; n < 256; n += 32) tile[n] = a[n];
            __syncwarp();
            fragment<matrix_a, 16, 16, 16, half, row_major> fa;
            fragment<matrix_b, 16, 16, 16, half, col_major> fb;
            fragment<accumulator, 16, 16, 16, float> fc;
            fill_fragment(fc, 1.f);
            load_matrix_sync(fa, tile, 16);
            load_matrix_sync(fb, b, 16);
            mma_sync(fc, fa, fb, fc);
            for (int i = 0; i < fc.num_elements; ++i) fc.x[i] *= 2.f;
            store_matrix_sync(c, fc, 16, mem_row_major);
        }""")
    subprocess.run(["nvcc", "-ptx", "-arch=sm_80", str(source), "-o", str(tmp_path / "k.ptx")], check=True)
    rng = np.random.default_rng(0)
    a, b, c = aligned((16, 16), np.float16), aligned((16, 16), np.float16), aligned((16, 16), np.float32)
    a[:], b[:] = whole_numbers(rng, (16, 16), "f16"), whole_numbers(rng, (16, 16), "f16")
    assert len(re.findall(r"wmma\.", (tmp_path / "k.ptx").read_text())) == 4
    emu.load(tmp_path / "k.ptx").launch("k", grid=(1,), block=(32,), args=[a, b, c])
    assert np.array_equal(c, 2 * (a.astype(np.float64) @ b.T.astype(np.float64) + 1))
