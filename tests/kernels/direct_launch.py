"""Launching a forward kernel's PTX by hand, past the runtime: the binding is read again, in Python."""

from __future__ import annotations

import struct
from typing import Any

import torch

from kernelwright.emulator.launch import Memory, Report, load
from kernelwright.gen.binding import forward_binding
from kernelwright.gen.spec import Variant

FORMATS = {"ptr": "Q", "i64": "q", "i32": "i", "f32": "f"}


def launch(
    ptx: str, variant: Variant, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, Report]:
    """Run `ptx` on q, k, v; return out, lse and the emulator's report. `options` are those of `Module.launch`."""
    out = torch.full_like(q, torch.nan)
    lse = torch.full((q.shape[0], q.shape[2], q.shape[1]), torch.nan)
    tensors = {"q": q, "k": k, "v": v, "out": out, "lse": lse}
    sizes = dict(zip(("batch", "seqlen_q", "num_heads_q", "head_dim"), q.shape, strict=True))
    sizes |= {"seqlen_k": k.shape[1], "num_heads_kv": k.shape[2]}
    num_m_blocks = -(-sizes["seqlen_q"] // variant.schedule.block_m)

    def value(kind: str, *args: Any) -> int | float:
        match kind:
            case "pointer":
                return tensors[args[0]].data_ptr()
            case "stride":
                return tensors[args[0]].stride(args[1])
            case "size":
                return sizes[args[0]]
            case "quotient":
                return sizes[args[0]] // sizes[args[1]]
            case "ceil_div":
                return num_m_blocks
            case "scalar":
                return sizes["head_dim"] ** -0.5
        raise AssertionError(kind)

    fields: Any = forward_binding()["fields"]
    layout = "".join(FORMATS[field["type"]] for field in fields)
    params = struct.pack(f"@{layout}0q", *(value(*field["from"]) for field in fields))
    memory = [Memory(array=one, access="read") for one in (q, k, v)]
    memory += [Memory(array=one, access="write", initialised=False) for one in (out, lse)]
    report = load(ptx).launch(
        variant.name,
        grid=(num_m_blocks * sizes["num_heads_q"] * sizes["batch"],),
        block=(variant.schedule.threads,),
        args=[params],
        memory=memory,
        shared_bytes=variant.smem_bytes,
        **options,
    )
    return out, lse, report
