"""Small PTX kernels made for one instruction, and running them."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from kernelwright import emulator as emu

PTX = Path(__file__).parent / "ptx"
HEADER = ".version 9.0\n.target sm_80\n.address_size 64\n"
_REGISTER = {1: ("%rs", "u8"), 2: ("%rs", "b16"), 4: ("%r", "b32"), 8: ("%rd", "b64")}
LANES = 32


def kernel(body: str, params: str = ".param .u64 out", *, before: str = "", name: str = "k", sm: int = 80) -> str:
    """A module with one kernel; registers %r, %rd, %f, %rs and %p with 100 of each are declared."""
    header = HEADER.replace("sm_80", f"sm_{sm}")
    return (
        f"{header}{before}\n.visible .entry {name}({params})\n{{\n"
        ".reg .pred %p<100>;\n.reg .b16 %rs<100>;\n.reg .b32 %r<100>;\n.reg .f32 %f<100>;\n.reg .b64 %rd<100>;\n"
        f"{body}\nret;\n}}\n"
    )


def elementwise(
    instruction: str, inputs: list[np.ndarray], out_dtype: type, sm: int = 80, **launch: object
) -> np.ndarray:
    """Run `instruction` once a thread. Its operands are {d}, {a}, {b}, {c}, {e}; predicates %p1 to %p9 are free."""
    count = inputs[0].size
    out_dtype = np.dtype(out_dtype)
    names = [f"p{i}" for i in range(len(inputs))]
    lines = [
        "mov.u32 %r90, %tid.x;", "mov.u32 %r91, %ctaid.x;", "mad.lo.s32 %r90, %r91, 128, %r90;",
        "ld.param.u32 %r92, [n];", "setp.ge.u32 %p90, %r90, %r92;", "@%p90 bra $done;",
    ]  # fmt: skip
    operands = {}
    for i, (name, values) in enumerate(zip(names, inputs, strict=True)):
        prefix, kind = _REGISTER[values.itemsize]
        register = f"{prefix}{i + 1}"
        lines += [
            f"ld.param.u64 %rd80, [{name}];", f"mul.wide.u32 %rd81, %r90, {values.itemsize};",
            "add.s64 %rd80, %rd80, %rd81;", f"ld.global.{kind} {register}, [%rd80];",
        ]  # fmt: skip
        operands["abce"[i]] = register
    prefix, kind = _REGISTER[out_dtype.itemsize]
    lines += [
        instruction.format(d=f"{prefix}50", **operands),
        "ld.param.u64 %rd80, [out];", f"mul.wide.u32 %rd81, %r90, {out_dtype.itemsize};",
        "add.s64 %rd80, %rd80, %rd81;", f"st.global.{kind} [%rd80], {prefix}50;", "$done:",
    ]  # fmt: skip
    params = ", ".join(f".param .u64 {name}" for name in ["out", *names]) + ", .param .u32 n"
    out = np.zeros(count, out_dtype)
    module = emu.load(kernel("\n".join(lines), params, sm=sm))
    args = [out, *[np.ascontiguousarray(values) for values in inputs], np.uint32(count)]
    module.launch("k", grid=((count + 127) // 128,), block=(128,), args=args, **launch)  # type: ignore[arg-type]
    return out


def run(text: str, args: list[object], *, block: int = LANES, grid: int = 1, **launch: object) -> emu.Report:
    """Load a module and launch its kernel `k`."""
    return emu.load(text).launch("k", grid=(grid,), block=(block,), args=args, **launch)  # type: ignore[arg-type]


class FlashParams(ctypes.Structure):
    """`Params` of flash_fwd.cu."""

    _fields_ = (
        ("q", ctypes.c_void_p), ("k", ctypes.c_void_p), ("v", ctypes.c_void_p), ("o", ctypes.c_void_p),
        ("lse", ctypes.c_void_p), ("seqlen_q", ctypes.c_int), ("seqlen_k", ctypes.c_int), ("num_heads", ctypes.c_int),
        ("num_heads_kv", ctypes.c_int), ("softmax_scale_log2", ctypes.c_float),
    )  # fmt: skip


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros at a multiple of 256 bytes, as device allocations are."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 256, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + size].view(dtype).reshape(shape)


class Flash:
    """One forward problem of flash_fwd.cu: causal, head_dim 64, 64 x 64 tiles."""

    def __init__(self, batch: int, heads: int, heads_kv: int, seqlen_q: int, seqlen_k: int) -> None:
        rng = np.random.default_rng(0)
        self.q = aligned((batch, seqlen_q, heads, 64), np.float16)
        self.k = aligned((batch, seqlen_k, heads_kv, 64), np.float16)
        self.v = aligned((batch, seqlen_k, heads_kv, 64), np.float16)
        for one in (self.q, self.k, self.v):
            one[:] = rng.standard_normal(one.shape).astype(np.float16)
        self.o = aligned(self.q.shape, np.float16)
        self.lse = aligned((batch, heads, seqlen_q), np.float32)
        self.shape = (batch, heads, heads_kv, seqlen_q, seqlen_k)

    def launch(self, module: emu.Module, **launch: object) -> emu.Report:
        batch, heads, heads_kv, seqlen_q, seqlen_k = self.shape
        pointers = [one.ctypes.data for one in (self.q, self.k, self.v, self.o, self.lse)]
        params = FlashParams(*pointers, seqlen_q, seqlen_k, heads, heads_kv, 64**-0.5 * np.log2(np.e))
        memory = [emu.Memory(array=one, access="read") for one in (self.q, self.k, self.v)]
        memory += [emu.Memory(array=one, access="write", initialised=False) for one in (self.o, self.lse)]
        grid = ((seqlen_q + 63) // 64, heads, batch)
        return module.launch(
            "flash_fwd", grid=grid, block=(128,), args=[params], memory=memory, shared_bytes=5 * 64 * 64 * 2, **launch
        )  # type: ignore[arg-type]

    def reference(self) -> tuple[np.ndarray, np.ndarray]:
        _, heads, heads_kv, seqlen_q, seqlen_k = self.shape
        k, v = (np.repeat(one.astype(np.float64), heads // heads_kv, 2) for one in (self.k, self.v))
        scores = np.einsum("bqhd,bkhd->bhqk", self.q.astype(np.float64), k) * 64**-0.5
        hidden = np.arange(seqlen_k) > np.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q
        weights = np.where(hidden, 0.0, np.exp(np.where(hidden, 0.0, scores)))
        total = weights.sum(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            lse = np.log(total)[..., 0]
        return np.einsum("bhqk,bkhd->bqhd", weights / np.where(total > 0, total, 1), v), lse
