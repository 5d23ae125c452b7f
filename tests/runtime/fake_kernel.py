"""A kernel in Python: reads the parameter block of a launch on the CPU and computes it from memory as addressed."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from fake_module import BINDING, FEATURES

from kernelwright.runtime.binding import Binding, read_binding
from kernelwright.runtime.block_mask import BlockMask
from kernelwright.runtime.inputs import check
from kernelwright.runtime.options import LoweredOptions, Options
from kernelwright.runtime.reference import Attended, reference
from kernelwright.runtime.schema import Node


def binding() -> Binding:
    """The binding of the fakes, which is the real one."""
    return read_binding(Node(value=BINDING, path="$", file=Path("table.json")))


VISIBILITY = binding().visibility
SEQUENCE = ("q_starts", "q_ends", "k_starts", "k_ends", "seqused_k")


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> Attended:
    """What a call attends to; `options` are those of Options."""
    with torch.no_grad():
        request = check(q, k, v, Options(**options))
    inputs = request.q, request.k, request.v
    return Attended(*inputs, request.softmax_scale, request.lowered, VISIBILITY, options.get("block_mask"))


def memory(address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor on the memory at an address."""
    count = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    item = torch.empty(0, dtype=dtype).element_size()
    data = (ctypes.c_char * (count * item)).from_address(address)
    return torch.frombuffer(data, dtype=dtype).as_strided(shape, strides)


def dense(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A contiguous tensor on the memory at an address."""
    return memory(address, shape, torch.empty(shape, device="meta").stride(), dtype)


def inputs_and_out(
    fields: dict[str, Any], kernel: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v and out of a launch, by the strides and sizes of its parameter block."""
    dtype = torch.bfloat16 if "_bf16_" in kernel else torch.float16
    head_dim = int(kernel.split("_hd")[1].split("_")[0])
    head_dim_v = int(kernel.split("_dv")[1].split("_")[0]) if "_dv" in kernel else head_dim
    batch = 1 if fields["q_starts"] else fields["num_seqs"]
    num_heads_kv = fields["num_heads_q"] // fields["heads_per_kv"]

    def tensor(name: str, seqlen: int, heads: int, dim: int) -> torch.Tensor:
        strides = tuple(fields[f"{name}_{axis}_stride"] for axis in ("batch", "row", "head"))
        return memory(fields[name], (batch, seqlen, heads, dim), (*strides, 1), dtype)

    seqlen_q, seqlen_k, num_heads = fields["seqlen_q"], fields["seqlen_k"], fields["num_heads_q"]
    return (
        tensor("q", seqlen_q, num_heads, head_dim),
        tensor("k", seqlen_k, num_heads_kv, head_dim),
        tensor("v", seqlen_k, num_heads_kv, head_dim_v),
        tensor("out", seqlen_q, num_heads, head_dim_v),
    )


def compute(fields: dict[str, Any], kernel: str) -> None:
    """Do what the kernel named would do, with the parameter block alone."""
    q, k, v, out = inputs_and_out(fields, kernel)
    tensors = _extra_tensors(fields, q)
    names = {"is_causal": "_causal1_" in kernel, **{name: f"_{name.partition('_')[2]}_" in kernel for name in FEATURES}}
    scalars = {one["name"]: fields[one["name"]] for one in BINDING["scalars"] if one["name"] in fields}
    window = (scalars["window_left"], scalars["window_right"])
    lowered = LoweredOptions(flags=names, tensors=tensors, scalars=scalars, window=window)
    mask = _block_mask(fields, q.shape[0]) if names["is_block_sparse"] else None
    result = reference(Attended(q, k, v, scalars["softmax_scale"], lowered, VISIBILITY, mask))
    out.copy_(result.out)
    if fields["lse"]:
        dense(fields["lse"], tuple(result.lse.shape), torch.float32).copy_(result.lse)


def _extra_tensors(fields: dict[str, Any], q: torch.Tensor) -> dict[str, torch.Tensor]:
    num_seqs, num_heads = fields["num_seqs"], fields["num_heads_q"]
    found = {name: dense(fields[name], (num_seqs,), torch.int32) for name in SEQUENCE if fields[name]}
    if fields["alibi_slopes"]:
        strides = fields["alibi_slopes_batch_stride"], fields["alibi_slopes_head_stride"]
        found["alibi_slopes"] = memory(fields["alibi_slopes"], (num_seqs, num_heads), strides, torch.float32)
    if fields["sink"]:
        found["sink"] = dense(fields["sink"], (num_heads,), torch.float32)
    if fields["rng_state"]:
        found["rng_state"] = dense(fields["rng_state"], (2,), torch.int64)
    if fields["bias"]:
        strides = tuple(fields[f"bias_{axis}_stride"] for axis in ("batch", "head", "row"))
        longest = [fields["seqlen_q"], fields["seqlen_k"]]
        if "q_starts" in found:
            longest = [int((found[f"{one}_ends"] - found[f"{one}_starts"]).max()) for one in "qk"]
        found["bias"] = memory(fields["bias"], (num_seqs, num_heads, *longest), (*strides, 1), q.dtype)
    return found


def _block_mask(fields: dict[str, Any], batch: int) -> BlockMask:
    block_q, block_k = fields["sparse_block_q"], fields["sparse_block_k"]
    rows, columns = -(-fields["seqlen_q"] // block_q), -(-fields["seqlen_k"] // block_k)
    lead = batch, fields["num_heads_q"]
    strides = [fields[f"block_counts_{axis}_stride"] for axis in ("batch", "head")]
    counts = memory(fields["block_counts"], (*lead, rows), (*strides, 1), torch.int32)
    strides = [fields[f"block_lists_{axis}_stride"] for axis in ("batch", "head", "row")]
    lists = memory(fields["block_lists"], (*lead, rows, columns, 2), (*strides, 2, 1), torch.int32)
    held = torch.arange(columns) < counts[..., None]
    num_bits = int(torch.where(held, lists[..., 1], -1).max()) + 1
    bits = dense(fields["block_bits"], (max(1, num_bits), block_q, block_k // 32), torch.int32)
    sizes = {"seqlen_q": fields["seqlen_q"], "seqlen_k": fields["seqlen_k"]}
    return BlockMask(counts=counts, lists=lists, bits=bits, block_q=block_q, block_k=block_k, **sizes)
