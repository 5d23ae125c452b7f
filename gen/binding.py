"""Bindings: how a call becomes a launch, as data for the generic launcher (docs/module.md).

The parameter struct of a template is emitted from the same list, so launcher and kernel cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernelwright.gen.visibility import visibilities

_Q_DIMS = ["batch", "seqlen_q", "num_heads_q", "head_dim"]
_K_DIMS = ["batch", "seqlen_k", "num_heads_kv", "head_dim"]
_V_DIMS = ["batch", "seqlen_k", "num_heads_kv", "head_dim_v"]
_OUT_DIMS = ["batch", "seqlen_q", "num_heads_q", "head_dim_v"]
_ROW_DIMS = ["batch", "num_heads_q", "seqlen_q"]
_HEAD_DIMS = ["num_seqs", "num_heads_q"]
_BIAS_DIMS = [*_HEAD_DIMS, "bias_rows", "bias_columns"]
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


_LENGTHS = ("q_starts", "q_ends", "k_starts", "k_ends", "seqused_k")
_FLAGS = [
    *["is_causal", "is_local", "is_varlen", "has_softcap", "has_alibi", "has_bias", "has_dropout"],
    "is_block_sparse",
]
_BLOCK_SIZES = ["sparse_rows", "sparse_columns", "pair", "bit_blocks", "bit_rows", "bit_words"]
_BLOCK_TENSORS = [
    _optional("block_counts", _LIST_DIMS, "int32", "any"),
    _optional("block_lists", [*_LIST_DIMS, "sparse_columns", "pair"], "int32", "any"),
    _optional("block_bits", ["bit_blocks", "bit_rows", "bit_words"], "int32"),
]
_BLOCK_SCALARS = [_scalar("sparse_block_q", "i32", 1), _scalar("sparse_block_k", "i32", 1)]
_BLOCK_STRIDES = [
    *_stride_fields("block_counts", "batch", "head"),
    *_stride_fields("block_lists", "batch", "head", "row"),
]
"""A mask's lists: for each block of queries those of keys; for flash_bwd, for each block of keys those of queries."""


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
        *_BLOCK_SCALARS,
    ]
    return {
        "sizes": [
            *["batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "head_dim_v", "num_seqs"],
            *["bias_rows", "bias_columns", "words", *_BLOCK_SIZES],
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
            _optional("bias", _BIAS_DIMS, "io", "any"),
            _optional("rng_state", ["words"], "int64"),
            *_BLOCK_TENSORS,
        ],
        "divides": [["num_heads_kv", "num_heads_q"]],
        "scalars": scalars,
        "flags": _FLAGS,
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
            *_BLOCK_STRIDES,
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


def backward_binding() -> dict[str, object]:
    """Return the binding of `flash_bwd`: q, k, v, dout, lse, delta -> dk, dv and, when given, dq_sum and dbias.

    A thread block owns `block_n` keys. What it adds to `dq_sum` and `dbias`, in fp32, is there before: zeros. To dq_sum
    it adds in no fixed order; to an element of dbias once for each sequence and head that share it (by strides of 0),
    so where none do the result is the same each time.
    """
    return _gradient_binding(
        written=[
            _tensor("dq_sum", _Q_DIMS, "update", "float32", optional=True, layout="dense"),
            _tensor("dk", _K_DIMS, "write"),
            _tensor("dv", _V_DIMS, "write"),
            _tensor("dbias", _BIAS_DIMS, "update", "float32", optional=True, layout="any"),
        ],
        strides={"dbias": ("batch", "head", "row")},
        blocks={"num_n_blocks": "ceil_div(max_seqlen_k, block_n)"},
        grid="ceil_div(max_seqlen_k, block_n) * num_heads_kv * num_seqs",
    )


def query_gradient_binding() -> dict[str, object]:
    """Return the binding of `flash_bwd_dq`: q, k, v, dout, lse, delta -> dq. A thread block owns `block_m` queries."""
    return _gradient_binding(
        written=[_tensor("dq", _Q_DIMS, "write")],
        blocks={"num_m_blocks": "ceil_div(max_seqlen_q, block_m)"},
        grid="ceil_div(max_seqlen_q, block_m) * num_heads_q * num_seqs",
    )


def _gradient_binding(
    written: list[dict[str, object]],
    blocks: Mapping[str, str],
    grid: str,
    strides: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, object]:
    """Return a binding that recomputes scores: forward's inputs and options, dout, and the two numbers of each row."""
    scalars = [
        _scalar("softmax_scale", "f32", ["head_dim", -0.5]),
        _scalar("softcap", "f32"),
        _scalar("window_left", "i32"),
        _scalar("window_right", "i32"),
        _scalar("attention_chunk", "i32"),
        _scalar("keep_threshold", "i32", 255),
        _scalar("keep_scale", "f32", 1),
        _scalar("max_seqlen_q", "i32", ["seqlen_q", 1]),
        _scalar("max_seqlen_k", "i32", ["seqlen_k", 1]),
        *_BLOCK_SCALARS,
    ]
    tensors = [
        _tensor("q", _Q_DIMS, "read"),
        _tensor("k", _K_DIMS, "read"),
        _tensor("v", _V_DIMS, "read"),
        _tensor("dout", _OUT_DIMS, "read"),
        *[_tensor(name, _ROW_DIMS, "read", "float32", layout="dense") for name in ("lse", "delta")],
        *written,
        *[_optional(name, ["num_seqs"], "int32") for name in _LENGTHS],
        _optional("alibi_slopes", _HEAD_DIMS, "float32", "any"),
        _optional("bias", _BIAS_DIMS, "io", "any"),
        _optional("rng_state", ["words"], "int64"),
        *_BLOCK_TENSORS,
    ]
    in_rows = [str(one["name"]) for one in tensors if one["layout"] == "rows"]
    return {
        "sizes": [
            *["batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "head_dim_v", "num_seqs"],
            *["bias_rows", "bias_columns", "words", *_BLOCK_SIZES],
        ],
        "size_defaults": {"num_seqs": "batch"},
        "tensors": tensors,
        "divides": [["num_heads_kv", "num_heads_q"]],
        "scalars": scalars,
        "flags": _FLAGS,
        "fixed": ["head_dim", "head_dim_v"],
        "visibility": visibilities(),
        "fields": [
            *[_field(str(one["name"]), "ptr", "pointer", str(one["name"])) for one in tensors],
            *[field for name in in_rows for field in _stride_fields(name, "batch", "row", "head")],
            *_stride_fields("alibi_slopes", "batch", "head"),
            *_stride_fields("bias", "batch", "head", "row"),
            *[field for name, axes in (strides or {}).items() for field in _stride_fields(name, *axes)],
            *_BLOCK_STRIDES,
            *[_field(name, "i32", "term", name) for name in ("seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv")],
            _field("heads_per_kv", "i32", "term", _HEADS_PER_KV),
            *[_field(name, "i32", "term", term) for name, term in blocks.items()],
            *[
                _field(str(one["name"]), str(one["type"]), "scalar", str(one["name"]))
                for one in scalars
                if not str(one["name"]).startswith("max_")
            ],
        ],
        "grid": [grid, "1", "1"],
    }


def delta_binding() -> dict[str, object]:
    """Return the binding of `flash_bwd_delta`: out, dout -> delta, the sum over a row of their product."""
    return _row_binding(
        sizes=["batch", "seqlen_q", "num_heads_q", "head_dim_v"],
        tensors=[
            _tensor("out", _OUT_DIMS, "read"),
            _tensor("dout", _OUT_DIMS, "read"),
            _tensor("delta", _ROW_DIMS, "write", "float32", layout="dense"),
        ],
    )


def convert_binding() -> dict[str, object]:
    """Return the binding of `flash_bwd_convert`: dq_sum -> dq, rounded to 16 bits."""
    return _row_binding(
        sizes=["batch", "seqlen_q", "num_heads_q", "head_dim"],
        tensors=[
            _tensor("dq_sum", _Q_DIMS, "read", "float32", layout="dense"),
            _tensor("dq", _Q_DIMS, "write"),
        ],
    )


def _row_binding(sizes: list[str], tensors: list[dict[str, object]]) -> dict[str, object]:
    in_rows = [str(one["name"]) for one in tensors if one["layout"] == "rows"]
    return {
        "sizes": sizes,
        "size_defaults": {},
        "tensors": tensors,
        "divides": [],
        "scalars": [],
        "flags": [],
        "fixed": sizes[-1:],
        "visibility": {"": visibilities()[""]},
        "fields": [
            *[_field(str(one["name"]), "ptr", "pointer", str(one["name"])) for one in tensors],
            *[field for name in in_rows for field in _stride_fields(name, "batch", "row", "head")],
            *[_field(name, "i32", "term", name) for name in ("seqlen_q", "num_heads_q")],
            _field("num_rows", "i64", "term", "batch * seqlen_q * num_heads_q"),
        ],
        "grid": ["ceil_div(batch * seqlen_q * num_heads_q, block_m)", "1", "1"],
    }


def bindings() -> dict[str, Mapping[str, object]]:
    """Return the binding of every operation, by name."""
    return {
        "flash_fwd": forward_binding(),
        "flash_bwd": backward_binding(),
        "flash_bwd_dq": query_gradient_binding(),
        "flash_bwd_delta": delta_binding(),
        "flash_bwd_convert": convert_binding(),
    }


def names_of(binding: Mapping[str, object]) -> frozenset[str]:
    """Return the words in the expressions of a binding: sizes, scalars, functions, and numbers of the schedule."""
    members, grid = binding["fields"], binding["grid"]
    assert isinstance(members, Sequence) and isinstance(grid, Sequence)
    terms = [str(one["from"][1]) for one in members if one["from"][0] == "term"]
    return frozenset(word for text in [*terms, *grid] for word in re.findall(r"[a-z_]\w*", text))


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
