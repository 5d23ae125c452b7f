"""A kernel in Python: reads the parameter block of a launch on the CPU and computes it from memory as addressed."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from kernelwright.runtime.reference import reference


def memory(address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor on the memory at an address."""
    count = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    item = torch.empty(0, dtype=dtype).element_size()
    data = (ctypes.c_char * (count * item)).from_address(address)
    return torch.frombuffer(data, dtype=dtype).as_strided(shape, strides)


def compute(fields: dict[str, Any], grid: tuple[int, int, int], kernel: str) -> None:
    """Do what the kernel named would do, with the strides and sizes of its parameter block."""
    dtype = torch.bfloat16 if "_bf16_" in kernel else torch.float16
    head_dim = int(kernel.split("_hd")[1].split("_")[0])
    num_heads, seqlen_q, seqlen_k = fields["num_heads_q"], fields["seqlen_q"], fields["seqlen_k"]
    batch = grid[0] // (fields["num_m_blocks"] * num_heads)

    def tensor(name: str, seqlen: int, heads: int) -> torch.Tensor:
        strides = tuple(fields[f"{name}_{axis}_stride"] for axis in ("batch", "row", "head"))
        return memory(fields[name], (batch, seqlen, heads, head_dim), (*strides, 1), dtype)

    num_heads_kv = num_heads // fields["heads_per_kv"]
    q, out = tensor("q", seqlen_q, num_heads), tensor("out", seqlen_q, num_heads)
    k, v = tensor("k", seqlen_k, num_heads_kv), tensor("v", seqlen_k, num_heads_kv)
    result = reference(q, k, v, fields["softmax_scale"], is_causal="_causal1" in kernel)
    out.copy_(result.out)
    if fields["lse"]:
        dense = (num_heads * seqlen_q, seqlen_q, 1)
        memory(fields["lse"], (batch, num_heads, seqlen_q), dense, torch.float32).copy_(result.lse)
