"""How kernels of other projects are compiled, launched and judged; `foreign_kernels.py` runs them.

Nothing of those projects is here: the .cu files of foreign/ include a checkout that the user names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from kernelwright import emulator as emu
from kernelwright.emulator.launch import driver

Array = np.ndarray[Any, Any]


class Launch(Protocol):
    """Runs the recipe's kernel; shared memory and threads are the kernel's own where it exports them."""

    def __call__(
        self,
        grid: Sequence[int],
        args: Sequence[Any],
        *,
        block: Sequence[int] = (),
        shared_bytes: int = 0,
        memory: Sequence[Any] = (),
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A project and how its checkout is known: a file in it that no other has."""

    name: str
    known_by: str


CUTLASS = Repository(name="NVIDIA/cutlass", known_by="include/cutlass/gemm/device/gemm.h")
FLASH_ATTENTION = Repository(
    name="Dao-AILab/flash-attention", known_by="csrc/flash_attn/src/flash_fwd_launch_template.h"
)
SGEMM_CUDA = Repository(name="siboehm/SGEMM_CUDA", known_by="src/kernels/10_kernel_warptiling.cuh")
CUDA_HGEMM = Repository(name="Bruce-Lee-LY/cuda_hgemm", known_by="src/mma/mma_async_stage3.cu")
FLASH_MINIMAL = Repository(name="tspeterkim/flash-attention-minimal", known_by="flash.cu")
LLM_C = Repository(name="karpathy/llm.c", known_by="llmc/layernorm.cuh")
FAST_CU = Repository(name="pranjalssh/fast.cu", known_by="examples/matmul/matmul_7.cuh")
OTHERS = (FLASH_ATTENTION, SGEMM_CUDA, CUDA_HGEMM, LLM_C, FLASH_MINIMAL, FAST_CU)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One kernel: `run` launches it and returns the largest error, relative to the largest expected magnitude."""

    name: str
    repository: Repository
    wrapper: str  # in foreign/
    kernel: str  # what its name in the PTX contains
    exercises: str
    run: Callable[[Launch], float]
    tolerance: float  # of `run`: rounding of the output, and of sums in another order
    include: tuple[str, ...] = ()  # folders of the checkout
    defines: Mapping[str, object] = field(default_factory=dict)
    needs: tuple[tuple[Repository, str], ...] = ()  # other checkouts and their include folders
    sm: int = 80
    features: str = ""  # "a" for the target with its own features, sm_90a
    benign: Mapping[str, str] = field(default_factory=dict)  # kinds of finding that are known, with why they do no harm


def _random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _error(got: Array, expected: Array) -> float:
    """A NaN anywhere is an infinite error."""
    worst = np.max(np.abs(got.astype(np.float64) - expected))
    return float(worst / np.max(np.abs(expected))) if np.isfinite(worst) else float("inf")


def _bf16_bits(values: Array) -> Array:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _as_float(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _e4m3(values: Array) -> tuple[Array, Array]:
    """Small whole numbers and halves, exact in e4m3, and their bytes."""
    rounded = np.clip(np.round(values * 2) / 2, -4, 4).astype(np.float32)
    magnitude = np.abs(rounded)
    exponent = np.floor(np.log2(np.where(magnitude > 0, magnitude, 1)))
    mantissa = np.where(magnitude > 0, magnitude / 2**exponent - 1, 0) * 8
    bits = np.where(magnitude > 0, (exponent + 7) * 8 + mantissa, 0)
    return rounded, (bits + np.where(rounded < 0, 128, 0)).astype(np.uint8)


def _gemm_inputs(kind: str, m: int, n: int, k: int) -> tuple[Array, Array, Array, Array]:
    """Return A [m, k] and B [n, k] as numbers and as the kernel takes them."""
    a, b = _random(m, k, seed=1), _random(n, k, seed=2)
    if kind == "half_t":
        halves = [x.astype(np.float16) for x in (a, b)]
        return halves[0].astype(np.float32), halves[1].astype(np.float32), halves[0], halves[1]
    if kind == "bfloat16_t":
        bits = [_bf16_bits(x) for x in (a, b)]
        return _as_float(bits[0]), _as_float(bits[1]), bits[0], bits[1]
    if kind == "tfloat32_t":  # tf32 keeps 10 bits of mantissa; these have fewer
        exact = [_as_float(_bf16_bits(x)) for x in (a, b)]
        return exact[0], exact[1], exact[0], exact[1]
    if kind == "int8_t":
        whole = [np.clip(np.round(x * 20), -127, 127).astype(np.int8) for x in (a, b)]
        return whole[0].astype(np.float32), whole[1].astype(np.float32), whole[0], whole[1]
    (a_exact, a_bits), (b_exact, b_bits) = _e4m3(a), _e4m3(b)
    return a_exact, b_exact, a_bits, b_bits


_OUT = {"half_t": np.float16, "bfloat16_t": np.float32, "tfloat32_t": np.float32, "int8_t": np.int32}


_NOT_FILLED = (
    "after the first stages, rows outside A and B are not filled in shared memory: they reach only parts of D that are "
    "not stored; the emulator fills them with NaN and the result is right"
)


def _cutlass(
    kind: str, *, tile: tuple[int, int, int], row_major_b: bool = False, is_ragged: bool = False
) -> Callable[[Launch], float]:
    def run(launch: Launch) -> float:
        m, n, k = 2 * tile[0], tile[1], 9 * tile[2] + 16  # the first k tile is partial, and there are two rings of them
        if is_ragged:
            m, n = m - 24, n + 40
        a, b, a_in, b_in = _gemm_inputs(kind, m, n, k)
        d = np.zeros((m, n), _OUT.get(kind, np.float32))
        b_in = np.ascontiguousarray(b_in.T) if row_major_b else b_in
        launch((-(-m // tile[0]), -(-n // tile[1])), [a_in, b_in, d, np.int32(m), np.int32(n), np.int32(k)])
        return _error(d, a.astype(np.float64) @ b.astype(np.float64).T)

    return run


def _cutlass_gemm(
    name: str,
    kind: str,
    exercises: str,
    *,
    out: str = "float",
    accumulator: str = "float",
    tile: tuple[int, int, int] = (128, 128, 32),
    instruction_k: int = 16,
    stages: int = 3,
    row_major_b: bool = False,
    is_ragged: bool = False,
    operator: str = "OpMultiplyAdd",
    sm: int = 80,
    tolerance: float = 1e-6,
) -> Recipe:
    defines = {
        "KW_IN": kind if kind == "int8_t" else f"cutlass::{kind}",
        "KW_OUT": out,
        "KW_ACCUMULATOR": accumulator,
        "KW_ARCH": f"Sm{sm}",
        "KW_LAYOUT_B": "RowMajor" if row_major_b else "ColumnMajor",
        "KW_TILE_M": tile[0],
        "KW_TILE_N": tile[1],
        "KW_TILE_K": tile[2],
        "KW_INSTRUCTION_K": instruction_k,
        "KW_STAGES": stages,
        "KW_OPERATOR": operator,
    }
    return Recipe(
        name=name,
        repository=CUTLASS,
        wrapper="cutlass_gemm.cu",
        kernel="kw_gemm",
        exercises=exercises,
        run=_cutlass(kind, tile=tile, row_major_b=row_major_b, is_ragged=is_ragged),
        benign={"uninitialised_read": _NOT_FILLED} if is_ragged else {},
        tolerance=tolerance,
        include=("include",),
        defines=defines,
        sm=sm,
    )


def _cute_sgemm(launch: Launch) -> float:
    m, n, k = 256, 128, 320
    a, b, a_in, b_in = _gemm_inputs("half_t", m, n, k)
    c = np.zeros((n, m), np.float16)  # m contiguous
    shape = np.array([m, n, k], np.int32).tobytes()
    stride, stride_c, one, empty = (
        np.array([k], np.int32).tobytes(),
        np.array([m], np.int32).tobytes(),
        np.float16(1).tobytes(),
        b"\0",
    )
    args = [shape, empty, a_in, stride, empty, empty, empty, b_in, stride, empty, empty, empty]
    args += [c, stride_c, empty, empty, one, np.float16(0).tobytes()]
    launch((m // 128, n // 128), args, block=(128,), shared_bytes=2 * 128 * 64 * 3 * 2)
    return _error(c.T, a.astype(np.float64) @ b.astype(np.float64).T)


def _sgemm(block: int) -> Callable[[Launch], float]:
    def run(launch: Launch) -> float:
        m, n, k = 256, 128, 80
        a, b, c = _random(m, k, seed=1), _random(k, n, seed=2), _random(m, n, seed=3)
        expected = 0.5 * (a.astype(np.float64) @ b.astype(np.float64)) + 2.0 * c
        sizes = [np.int32(m), np.int32(n), np.int32(k)]
        launch((n // 128, m // 128), [*sizes, np.float32(0.5), a, b, np.float32(2), c], block=(block,))
        return _error(c, expected)

    return run


def _hgemm(shared_bytes: int) -> Callable[[Launch], float]:
    def run(launch: Launch) -> float:
        m, n, k = 512, 256, 256
        a, b, a_in, b_in = _gemm_inputs("half_t", m, n, k)
        c = np.zeros((m, n), np.float16)
        sizes = [np.uint64(size) for size in (m, n, k)]
        launch((16, m // 256, 1), [a_in, b_in, c, *sizes], block=(256,), shared_bytes=shared_bytes)
        return _error(c, a.astype(np.float64) @ b.astype(np.float64).T)

    return run


def _attention(q: Array, k: Array, v: Array, *, is_causal: bool) -> tuple[Array, Array]:
    """Return O and lse of [batch, seqlen, heads, head_dim] in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    if is_causal:
        hidden = np.arange(k.shape[1]) > np.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        scores = np.where(hidden, -np.inf, scores)
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", weights / total, v), (np.log(total) + largest)[..., 0]


def _flash2(seqlens: tuple[int, int], *, head_dim: int, is_causal: bool) -> Callable[[Launch], float]:
    def run(launch: Launch) -> float:
        batch, (seqlen_q, seqlen_k), heads, heads_k, block_m = 1, seqlens, 2, 1, 128
        q = _random(batch, seqlen_q, heads, head_dim, seed=1).astype(np.float16)
        k, v = (_random(batch, seqlen_k, heads_k, head_dim, seed=s).astype(np.float16) for s in (2, 3))
        o, lse = np.zeros_like(q), np.zeros((batch, heads, seqlen_q), np.float32)
        sizes = [np.int32(x) for x in (batch, seqlen_q, seqlen_k, heads, heads_k)]
        launch((-(-seqlen_q // block_m), batch, heads), [q, k, v, o, lse, *sizes])
        expected, expected_lse = _attention(q, k, v, is_causal=is_causal)
        return max(_error(o, expected), _error(lse, expected_lse))

    return run


def _flash_minimal(launch: Launch) -> float:
    batch, heads, seqlen, head_dim, tile = 2, 2, 96, 32, 32
    q, k, v = (_random(batch, heads, seqlen, head_dim, seed=s) for s in (1, 2, 3))
    o, row_sum = np.zeros_like(q), np.zeros((batch, heads, seqlen), np.float32)
    row_max = np.full_like(row_sum, -np.inf)
    sizes = [np.int32(x) for x in (seqlen, head_dim, seqlen // tile, seqlen // tile, tile, tile)]
    args = [q, k, v, *sizes, np.float32(head_dim**-0.5), row_sum, row_max, o]
    launch((batch, heads), args, block=(tile,), shared_bytes=(3 * tile * head_dim + tile * tile) * 4)
    expected, _ = _attention(*(x.transpose(0, 2, 1, 3) for x in (q, k, v)), is_causal=False)
    return _error(o.transpose(0, 2, 1, 3), expected)


def _normalised(x: Array) -> tuple[Array, Array, Array]:
    wide = x.astype(np.float64)
    mean = wide.mean(axis=1)
    rstd = 1 / np.sqrt(wide.var(axis=1) + 1e-5)
    return (wide - mean[:, None]) * rstd[:, None], mean, rstd


def _layernorm(launch: Launch) -> float:
    rows, columns, block_y = 19, 256, 4
    x, weight, bias = _random(rows, columns, seed=1), _random(columns, seed=2), _random(columns, seed=3)
    out, mean, rstd = np.zeros_like(x), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    args = [out, mean, rstd, x, weight, bias, np.int32(rows), np.int32(columns)]
    launch((-(-rows // block_y),), args, block=(32, block_y), shared_bytes=(2 + block_y) * columns * 4)
    norm, want_mean, want_rstd = _normalised(x)
    return max(_error(out, norm * weight + bias), _error(mean, want_mean), _error(rstd, want_rstd))


def _layernorm_backward(launch: Launch) -> float:
    rows, columns, blocks, threads = 16, 256, 2, 128  # each warp two rows
    x, dout, weight = _random(rows, columns, seed=1), _random(rows, columns, seed=2), _random(columns, seed=3)
    norm, mean, rstd = _normalised(x)
    dinp, dweight, dbias = np.zeros_like(x), np.zeros(columns, np.float32), np.zeros(columns, np.float32)
    scratch = np.zeros(32 + 2 * columns * blocks, np.float32)
    args = [dinp, dweight, dbias, scratch, dout, x, weight, mean.astype(np.float32), rstd.astype(np.float32)]
    shared = (2 * columns + 2 * (threads - 32) * 4) * 4
    launch((blocks,), [*args, np.int32(1), np.int32(rows), np.int32(columns)], block=(threads,), shared_bytes=shared)
    dnorm = dout.astype(np.float64) * weight
    want = rstd[:, None] * (dnorm - dnorm.mean(1)[:, None] - norm * (dnorm * norm).mean(1)[:, None])
    return max(_error(dinp, want), _error(dweight, (dout * norm).sum(0)), _error(dbias, dout.sum(0)))


def _classifier(launch: Launch) -> float:
    # Sizes that the kernel is right for: of the elements past a multiple of 4 every thread does all from its own on, in
    # place, so there may be one; and with more threads than quadruples of elements an unsigned comparison never ends.
    rows, vocabulary, padded, threads = 3, 1001, 1024, 128
    logits, losses = _random(rows, padded, seed=1), np.zeros(rows, np.float32)
    targets = np.array([5, 1000, 77], np.int32)
    wide = logits[:, :vocabulary].astype(np.float64)
    weights = np.exp(wide - wide.max(1, keepdims=True))
    probabilities = weights / weights.sum(1, keepdims=True)
    want_loss = -np.log(probabilities[np.arange(rows), targets])
    want = (probabilities - np.eye(vocabulary)[targets]) * 0.25
    sizes = [np.int32(x) for x in (1, rows, vocabulary, padded)]
    nothing = np.zeros(4, np.float32)
    launch((rows,), [logits, losses, nothing, np.float32(0.25), targets, *sizes, b"\0"], block=(threads,))
    return max(_error(logits[:, :vocabulary], want), _error(losses, want_loss))


_UNCLEARED = (
    "rows of Q and K beyond the sequence stay as they are in shared memory, as a comment in the source says, and their "
    "scores are masked; the emulator fills them with NaN and the result is right"
)


def _flash_attention2(name: str, *, head_dim: int, block_n: int, is_causal: bool, is_ragged: bool = False) -> Recipe:
    seqlens = (150, 333) if is_ragged else (256, 384)
    return Recipe(
        name=f"FlashAttention-2 forward {name}, {seqlens[0]} x {seqlens[1]}",
        repository=FLASH_ATTENTION,
        wrapper="flash_attention2.cu",
        kernel="kw_flash",
        exercises="cp.async, ldmatrix(.trans), mma, quad shuffles, shared-memory epilogue",
        run=_flash2(seqlens, head_dim=head_dim, is_causal=is_causal),
        benign={"uninitialised_read": _UNCLEARED} if is_ragged else {},
        tolerance=1e-3,
        include=("csrc/flash_attn/src",),
        needs=((CUTLASS, "include"),),
        defines={
            "KW_HEAD_DIM": head_dim,
            "KW_BLOCK_M": 128,
            "KW_BLOCK_N": block_n,
            "KW_WARPS": 4,
            "KW_CAUSAL": str(is_causal).lower(),
        },
    )


def _sgemm_recipe(name: str, kernel: str, exercises: str, block: int) -> Recipe:
    return Recipe(
        name=name,
        repository=SGEMM_CUDA,
        wrapper="sgemm_cuda.cu",
        kernel=kernel,
        exercises=exercises,
        run=_sgemm(block),
        tolerance=1e-6,
        include=("src",),
    )


def _hgemm_recipe(name: str, source: str, kernel: str, exercises: str, shared_bytes: int) -> Recipe:
    return Recipe(
        name=name,
        repository=CUDA_HGEMM,
        wrapper="cuda_hgemm.cu",
        kernel=kernel,
        exercises=exercises,
        run=_hgemm(shared_bytes),
        tolerance=3e-3,  # it accumulates in fp16
        include=("src/common", "src/mma", "src/wmma"),
        defines={"KW_SOURCE": f'"{source}"'},
    )


def _llmc_recipe(name: str, kernel: str, exercises: str, run: Callable[[Launch], float], *defines: str) -> Recipe:
    return Recipe(
        name=name,
        repository=LLM_C,
        wrapper="llmc.cu",
        defines=dict.fromkeys(defines, 1),
        kernel=kernel,
        exercises=exercises,
        run=run,
        tolerance=1e-5,
        include=(".",),
    )


_UNFENCED = (
    "no fence.mbarrier_init or fence.proxy.async follows the initialisation of mbarriers that count the bytes of TMA, "
    "as the PTX ISA asks, and GPUs forgive; the result is right"
)


def _aligned(nbytes: int) -> Array:
    """Bytes at a multiple of 64."""
    raw = np.zeros(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


def _fast_cu(
    number: int, *, tile: tuple[int, int], threads: int, stages: int, shape: tuple[int, int, int]
) -> Callable[[Launch], float]:
    def run(launch: Launch) -> float:
        m, n, k = shape
        numbers = [_as_float(_bf16_bits(_random(rows, k, seed=seed))) for seed, rows in ((1, m), (2, n))]
        inputs = [_aligned(2 * one.size).view(np.uint16).reshape(one.shape) for one in numbers]
        maps = []
        for given, one, rows in zip(inputs, numbers, tile, strict=True):
            given[:] = _bf16_bits(one)
            if number < 7:
                maps.append(emu.TensorMap(array=given, dtype="bfloat16", box=(rows, 64), swizzle=128))
                continue
            whole, strides = (1, 1, k // 64, one.shape[0], 64), (0, 0, 128, 2 * k)
            box = (1, 1, 1, rows, 64)
            maps.append(
                emu.TensorMap(array=given, dtype="bfloat16", box=box, swizzle=128, shape=whole, strides=strides)
            )
        passed: list[Any] = list(maps)
        if number < 6:  # they lie in global memory
            passed = [_aligned(128) for _ in maps]
            for place, one_map in zip(passed, maps, strict=True):
                status, raw = one_map.encode(driver())
                assert status == 0
                place[:] = np.frombuffer(raw, np.uint8)
        out = np.zeros((n, m), np.uint16)
        args = [np.int32(m), np.int32(n), np.int32(k), out, *passed]
        args += [np.zeros(16, np.int32)] if number == 3 else []
        blocks = m // tile[0] * (n // tile[1]) if number < 6 else 3
        launch(
            (blocks,), args, block=(threads,), shared_bytes=stages * 128 * sum(tile), memory=inputs
        )  # 64 elements of a row of each
        return _error(_as_float(out), numbers[1].astype(np.float64) @ numbers[0].astype(np.float64).T)

    return run


def _fast_cu_recipe(number: int, exercises: str, *, tile: tuple[int, int], threads: int, stages: int) -> Recipe:
    shape = (2048, 2048, 64) if number > 5 else (256, 512, 448)  # the scheduler of the later ones wants whole groups
    return Recipe(
        name=f"fast.cu matmul {number}",
        repository=FAST_CU,
        wrapper="fast_cu.cu",
        kernel="matmulKernel3ILi128ELi128ELi64ELi128ELb0E"
        if number == 3
        else f"matmulKernel{number}" + ("ILi128ELi256ELi64ELi384ELi3ELi3E" if number > 5 else ""),
        exercises=exercises,
        run=_fast_cu(number, tile=tile, threads=threads, stages=stages, shape=shape),
        tolerance=1e-2,
        include=("examples/matmul",),
        sm=90,
        features="a",
        benign={"proxy": _UNFENCED} if number == 7 else {},
    )


RECIPES = (
    _fast_cu_recipe(2, "TMA, wgmma, cuda::barrier", tile=(64, 64), threads=128, stages=0),
    _fast_cu_recipe(3, "the same with larger tiles", tile=(128, 128), threads=128, stages=1),
    _fast_cu_recipe(
        4, "a producer and a consumer warpgroup, a ring of five stages", tile=(128, 128), threads=256, stages=5
    ),
    _fast_cu_recipe(5, "two consumers, setmaxnreg, m64n256k16", tile=(128, 256), threads=384, stages=3),
    _fast_cu_recipe(6, "persistent blocks", tile=(128, 256), threads=384, stages=3),
    _fast_cu_recipe(
        7, "mbarriers in PTX, one arrival a warpgroup, 5-D tensor maps", tile=(128, 256), threads=384, stages=3
    ),
    _cutlass_gemm(
        "gemm fp16 TN",
        "half_t",
        "cp.async ring, ldmatrix, mma fp16",
        out="cutlass::half_t",
        tolerance=1e-3,
    ),
    _cutlass_gemm(
        "gemm fp16 TN, ragged",
        "half_t",
        "the same with partial tiles",
        out="cutlass::half_t",
        is_ragged=True,
        tolerance=1e-3,
    ),
    _cutlass_gemm(
        "gemm fp16 NN, 4 stages",
        "half_t",
        "the same with ldmatrix.trans",
        out="cutlass::half_t",
        row_major_b=True,
        stages=4,
        tolerance=1e-3,
    ),
    _cutlass_gemm("gemm bf16 TN", "bfloat16_t", "mma bf16"),
    _cutlass_gemm("gemm tf32 TN", "tfloat32_t", "mma tf32, cvt.rna.tf32", tile=(128, 128, 16), instruction_k=8),
    _cutlass_gemm(
        "gemm int8 TN",
        "int8_t",
        "mma s8 with saturation",
        out="int32_t",
        accumulator="int32_t",
        tile=(128, 128, 64),
        instruction_k=32,
        operator="OpMultiplyAddSaturate",
        tolerance=0.0,
    ),
    _cutlass_gemm(
        "gemm e4m3 TN",
        "float_e4m3_t",
        "mma e4m3",
        tile=(128, 128, 64),
        instruction_k=32,
        sm=89,
        tolerance=1e-6,
    ),
    Recipe(
        name="CuTe tutorial sgemm_sm80, fp16 TN",
        repository=CUTLASS,
        wrapper="cute_sgemm_sm80.cu",
        kernel="gemm_deviceI",
        exercises="CuTe copies and layouts, ldmatrix, mma with fp16 accumulation",
        run=_cute_sgemm,
        tolerance=6e-3,
        include=("include", "tools/util/include", "examples/cute/tutorial"),
    ),
    _flash_attention2("d64 causal", head_dim=64, block_n=64, is_causal=True),
    _flash_attention2("d64 causal", head_dim=64, block_n=64, is_causal=True, is_ragged=True),
    _flash_attention2("d128", head_dim=128, block_n=32, is_causal=False),
    _flash_attention2("d128", head_dim=128, block_n=32, is_causal=False, is_ragged=True),
    _sgemm_recipe("sgemm 2D block tiling", "sgemm2DBlocktiling", "shared memory, fp32 fma", 256),
    _sgemm_recipe("sgemm vectorized", "sgemmVectorize", "128-bit loads and stores", 256),
    _sgemm_recipe("sgemm warp tiling", "sgemmWarptiling", "warp tiles in registers", 128),
    _hgemm_recipe("hgemm base", "mma_base.cu", "mmaBaseKernel", "ldmatrix, mma fp16 in fp16", 65536),
    _hgemm_recipe("hgemm permuted", "mma_permuted.cu", "mmaPermutedKernel", "hand-made swizzle", 65536),
    _hgemm_recipe("hgemm async", "mma_async.cu", "mmaAsyncKernel", "cp.async, one stage", 65536),
    _hgemm_recipe("hgemm async, 3 stages", "mma_async_stage3.cu", "mmaAsyncStage3", "cp.async ring", 73728),
    _hgemm_recipe("hgemm wmma, 3 stages", "wmma_async_stage3.cu", "wmmaAsyncStage3", "wmma, cp.async ring", 92160),
    Recipe(
        name="flash-attention-minimal",
        repository=FLASH_MINIMAL,
        wrapper="flash_minimal.cu",
        kernel="forward_kernel",
        exercises="fp32 online softmax through global memory",
        run=_flash_minimal,
        tolerance=1e-5,
        include=(".",),
    ),
    _llmc_recipe(
        "layernorm forward", "layernorm_forward_kernel6", "warp reductions, 128-bit vectors, cache hints", _layernorm
    ),
    _llmc_recipe(
        "layernorm backward",
        "layernorm_backward_kernel10",
        "the last of several blocks sums up: atomics and flags",
        _layernorm_backward,
    ),
    _llmc_recipe(
        "softmax and cross entropy",
        "fused_classifier_kernel5",
        "block reductions, expf, logf",
        _classifier,
        "KW_CLASSIFIER",
    ),
)
