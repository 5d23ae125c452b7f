"""Bindings: how a call becomes a launch, as data for the generic launcher (docs/module.md).

The parameter struct of a template is emitted from the same list, so launcher and kernel cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernelwright.gen.spec import OPERATION

_Q_DIMS = ["batch", "seqlen_q", "num_heads_q", "head_dim"]
_KV_DIMS = ["batch", "seqlen_k", "num_heads_kv", "head_dim"]


def _field(name: str, kind: str, *source: str | int) -> dict[str, object]:
    return {"name": name, "type": kind, "from": list(source)}


def _tensor(name: str, dims: list[str], access: str, dtype: str = "io", optional: bool = False) -> dict[str, object]:
    return {"name": name, "dims": dims, "dtype": dtype, "access": access, "optional": optional}


def _stride_fields(tensor: str) -> list[dict[str, object]]:
    axes = {"batch": 0, "row": 1, "head": 2}
    return [_field(f"{tensor}_{axis}_stride", "i64", "stride", tensor, index) for axis, index in axes.items()]


def forward_binding() -> dict[str, object]:
    """Return the binding of `flash_fwd`: q, k, v -> out and, when given, lse."""
    return {
        "sizes": ["batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim"],
        "tensors": [
            _tensor("q", _Q_DIMS, "read"),
            _tensor("k", _KV_DIMS, "read"),
            _tensor("v", _KV_DIMS, "read"),
            _tensor("out", _Q_DIMS, "write"),
            _tensor("lse", ["batch", "num_heads_q", "seqlen_q"], "write", "float32", optional=True),
        ],
        "divides": [["num_heads_kv", "num_heads_q"]],
        "scalars": ["softmax_scale"],
        "flags": ["is_causal"],
        "fixed": ["head_dim"],
        "fields": [
            *[_field(name, "ptr", "pointer", name) for name in ("q", "k", "v", "out", "lse")],
            *[field for name in ("q", "k", "v", "out") for field in _stride_fields(name)],
            _field("seqlen_q", "i32", "size", "seqlen_q"),
            _field("seqlen_k", "i32", "size", "seqlen_k"),
            _field("num_heads_q", "i32", "size", "num_heads_q"),
            _field("heads_per_kv", "i32", "quotient", "num_heads_q", "num_heads_kv"),
            _field("num_m_blocks", "i32", "ceil_div", "seqlen_q", "block_m"),
            _field("softmax_scale", "f32", "scalar", "softmax_scale"),
        ],
        "grid": [[["ceil_div", "seqlen_q", "block_m"], ["size", "num_heads_q"], ["size", "batch"]], [], []],
    }


def bindings() -> dict[str, Mapping[str, object]]:
    """Return the binding of every operation, by name."""
    return {OPERATION: forward_binding()}


@dataclass(frozen=True, slots=True, kw_only=True)
class StructField:
    """A member of a kernel's parameter struct in CUDA C++."""

    name: str
    ctype: str


def struct_fields(binding: Mapping[str, object]) -> list[StructField]:
    """Return the members of the parameter struct that a binding fills, in order."""
    tensors, members = binding["tensors"], binding["fields"]
    assert isinstance(tensors, Sequence) and isinstance(members, Sequence)
    access = {tensor["name"]: tensor for tensor in tensors}
    plain = {"i64": "long long", "i32": "int", "f32": "float"}

    def ctype(member: Mapping[str, object]) -> str:
        if member["type"] != "ptr":
            return plain[str(member["type"])]
        tensor = access[member["name"]]
        element = "float" if tensor["dtype"] == "float32" else "char"
        return f"const {element}*" if tensor["access"] == "read" else f"{element}*"

    return [StructField(name=member["name"], ctype=ctype(member)) for member in members]
