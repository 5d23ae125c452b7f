"""Bindings: how a call becomes a launch, as data for the generic launcher (docs/module.md).

The parameter struct of a template is emitted from the same list, so launcher and kernel cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernelwright.gen.spec import OPERATION
from kernelwright.gen.visibility import visibilities

_Q_DIMS = ["batch", "seqlen_q", "num_heads_q", "head_dim"]
_K_DIMS = ["batch", "seqlen_k", "num_heads_kv", "head_dim"]
_V_DIMS = ["batch", "seqlen_k", "num_heads_kv", "head_dim_v"]
_OUT_DIMS = ["batch", "seqlen_q", "num_heads_q", "head_dim_v"]
_HEAD_DIMS = ["num_seqs", "num_heads_q"]
_LIST_DIMS = [*_HEAD_DIMS, "sparse_rows"]


_HEADS_PER_KV = "floor_div(num_heads_q, num_heads_kv)"
# With pack_gqa the query heads that share a key head are rows of the same tiles.
_M_BLOCKS = f"ceil_div(max_seqlen_q * choose(pack_gqa, {_HEADS_PER_KV}, 1), block_m)"
_TILES = f"{_M_BLOCKS} * choose(pack_gqa, num_heads_kv, num_heads_q) * num_seqs"


def _field(name: str, kind: str, *source: str | int) -> dict[str, object]:
    return {"name": name, "type": kind, "from": list(source)}


def _tensor(
    name: str, dims: list[str], access: str, dtype: str = "io", optional: bool = False, layout: str = "rows"
) -> dict[str, object]:
    return {"name": name, "dims": dims, "dtype": dtype, "access": access, "optional": optional, "layout": layout}


def _optional(name: str, dims: list[str], dtype: str, layout: str = "dense") -> dict[str, object]:
    return _tensor(name, dims, "read", dtype, optional=True, layout=layout)


def _scalar(name: str, kind: str, default: object = 0) -> dict[str, object]:
    return {"name": name, "type": kind, "default": default}


def _stride_fields(tensor: str, *axes: str) -> list[dict[str, object]]:
    return [
        _field(f"{tensor}_{axis}_stride", "i64", "stride", tensor, index) for index, axis in enumerate(axes) if axis
    ]


def forward_binding() -> dict[str, object]:
    """Return the binding of `flash_fwd`: q, k, v -> out and, when given, lse.

    Grid and terms are expressions of sizes, scalars, numbers of the kernel's schedule, and `num_sms` of the device.
    Sequences of different lengths are one batch entry of q, k, v, out and lse; `q_starts` to `k_ends` say where each
    lies.
    """
    scalars = [
        _scalar("softmax_scale", "f32", ["head_dim", -0.5]),
        _scalar("softcap", "f32"),
        _scalar("window_left", "i32"),
        _scalar("window_right", "i32"),
        _scalar("attention_chunk", "i32"),
        _scalar("keep_threshold", "i32", 255),
        _scalar("keep_scale", "f32", 1),
        _scalar("max_seqlen_q", "i32", ["seqlen_q", 1]),
        _scalar("sparse_block_q", "i32", 1),
        _scalar("sparse_block_k", "i32", 1),
    ]
    return {
        "sizes": [
            *["batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "head_dim_v", "num_seqs"],
            *[
                "bias_rows",
                "bias_columns",
                "words",
                "sparse_rows",
                "sparse_columns",
                "pair",
                "bit_blocks",
                "bit_rows",
                "bit_words",
            ],
        ],
        "size_defaults": {"num_seqs": "batch"},
        "tensors": [
            _tensor("q", _Q_DIMS, "read"),
            _tensor("k", _K_DIMS, "read"),
            _tensor("v", _V_DIMS, "read"),
            _tensor("out", _OUT_DIMS, "write"),
            _tensor("lse", ["batch", "num_heads_q", "seqlen_q"], "write", "float32", optional=True, layout="dense"),
            *[
                _optional(name, ["num_seqs"], "int32")
                for name in ("q_starts", "q_ends", "k_starts", "k_ends", "seqused_k")
            ],
            _optional("alibi_slopes", _HEAD_DIMS, "float32", "any"),
            _optional("sink", ["num_heads_q"], "float32"),
            _optional("bias", [*_HEAD_DIMS, "bias_rows", "bias_columns"], "io", "any"),
            _optional("rng_state", ["words"], "int64"),
            _optional("block_counts", _LIST_DIMS, "int32", "any"),
            _optional("block_lists", [*_LIST_DIMS, "sparse_columns", "pair"], "int32", "any"),
            _optional("block_bits", ["bit_blocks", "bit_rows", "bit_words"], "int32"),
        ],
        "divides": [["num_heads_kv", "num_heads_q"]],
        "scalars": scalars,
        "flags": [
            *["is_causal", "is_local", "is_varlen", "has_softcap", "has_alibi", "has_bias", "has_dropout"],
            "is_block_sparse",
        ],
        "fixed": ["head_dim", "head_dim_v"],
        "visibility": visibilities(),
        "fields": [
            *[_field(name, "ptr", "pointer", name) for name in ("q", "k", "v", "out", "lse")],
            *[
                _field(name, "ptr", "pointer", name)
                for name in ("q_starts", "q_ends", "k_starts", "k_ends", "seqused_k")
            ],
            *[_field(name, "ptr", "pointer", name) for name in ("alibi_slopes", "sink", "bias", "rng_state")],
            *[_field(name, "ptr", "pointer", name) for name in ("block_counts", "block_lists", "block_bits")],
            *[field for name in ("q", "k", "v", "out") for field in _stride_fields(name, "batch", "row", "head")],
            *_stride_fields("alibi_slopes", "batch", "head"),
            *_stride_fields("bias", "batch", "head", "row"),
            *_stride_fields("block_counts", "batch", "head"),
            *_stride_fields("block_lists", "batch", "head", "row"),
            *[_field(name, "i32", "term", name) for name in ("seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv")],
            _field("heads_per_kv", "i32", "term", _HEADS_PER_KV),
            _field("num_seqs", "i32", "term", "num_seqs"),
            _field("num_m_blocks", "i32", "term", _M_BLOCKS),
            *[
                _field(str(one["name"]), str(one["type"]), "scalar", str(one["name"]))
                for one in scalars
                if one["name"] != "max_seqlen_q"
            ],
        ],
        "grid": [f"choose(persistent_blocks, min({_TILES}, persistent_blocks * num_sms), {_TILES})", "num_slices", "1"],
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
        element = {"float32": "float", "int32": "int", "int64": "long long"}.get(str(tensor["dtype"]), "char")
        return f"const {element}*" if tensor["access"] == "read" else f"{element}*"

    return [StructField(name=member["name"], ctype=ctype(member)) for member in members]
