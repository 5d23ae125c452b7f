"""Kernels of features beside the profile's: what is built for a device run, and the calls of theirs that are timed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kernelwright.gen.constraints import reasons_against
from kernelwright.gen.devices import reference_device
from kernelwright.gen.ladder import default_schedule, ladder
from kernelwright.gen.spec import BACKWARD_OPERATIONS, ForwardProblem, Variant
from kernelwright.tuner.shapes import Shape

Json = dict[str, Any]  # Any: JSON
LONG = Shape(batch=4, num_heads_q=32, num_heads_kv=8, seqlen_q=4096, seqlen_k=4096)
DECODE = Shape(batch=16, num_heads_q=64, num_heads_kv=8, seqlen_q=1, seqlen_k=16384)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A kernel and the call that is timed. `problem` and `schedule` differ from bf16, head_dim 128 and the default."""

    name: str
    problem: Json
    shape: Shape = LONG
    schedule: Json | None = None

    def variant(self, sm: int) -> Variant:
        """Return the kernel."""
        problem = ForwardProblem(**{"dtype": "bf16", "head_dim": 128, **self.problem})
        return Variant(sm=sm, problem=problem, schedule=replace(default_schedule(problem), **(self.schedule or {})))


_VARLEN = {"is_causal": True, "is_varlen": True}
ROWS = (
    Row(name="varlen_causal", problem=_VARLEN),
    Row(name="window_1024", problem={"is_local": True}, shape=replace(LONG, window_left=1023, window_right=0)),
    Row(name="softcap_causal", problem={"is_causal": True, "has_softcap": True}),
    Row(name="decode_gqa_packed", problem={}, shape=DECODE, schedule={"pack_gqa": True}),
    Row(name="decode_gqa", problem={}, shape=DECODE),
    Row(name="sparse_half", problem={"is_block_sparse": True}),
    Row(name="dropout_causal", problem={"is_causal": True, "has_dropout": True}),
    Row(name="alibi_causal", problem={"is_causal": True, "has_alibi": True}),
    Row(name="bias_causal", problem={"is_causal": True, "has_bias": True}),
    Row(name="varlen_causal_persistent", problem=_VARLEN, schedule={"persistent_blocks": 2}),
    Row(name="varlen_causal_packed", problem=_VARLEN, schedule={"pack_gqa": True, "persistent_blocks": 2}),
    Row(name="hd256_causal", problem={"is_causal": True, "head_dim": 256}),
    Row(name="hd512_causal", problem={"is_causal": True, "head_dim": 512}),
    Row(name="wider_values", problem={"is_causal": True, "head_dim": 64, "head_dim_v": 128}),
    Row(name="gemma_window", problem={"head_dim": 256, "is_local": True, "has_softcap": True},
        shape=replace(LONG, window_left=4095, window_right=0, seqlen_q=8192, seqlen_k=8192)),
)  # fmt: skip
"""Most telling first."""

TINY = Row(
    name="tiny_window",
    problem={"head_dim": 64, "is_local": True},
    shape=Shape(batch=1, num_heads_q=2, num_heads_kv=1, seqlen_q=96, seqlen_k=96, window_left=40, window_right=0),
)
"""What a quick run has instead: it shows that everything is called."""


BACKWARD: tuple[Json, ...] = (
    _VARLEN,
    {"is_local": True},
    {"is_causal": True, "has_softcap": True},
    {"is_block_sparse": True},
    {"is_causal": True, "has_alibi": True},
    {"is_causal": True, "has_bias": True},
    {"is_causal": True, "has_dropout": True},
    {"is_causal": True, "head_dim": 256},
    {"head_dim": 72},
    {"is_causal": True, "head_dim": 64, "head_dim_v": 128},
)
"""What problems of bf16 and head_dim 128 have besides whose backward kernels are checked."""


def rows(*, quick: bool) -> tuple[Row, ...]:
    """Return the rows of a run."""
    return (TINY,) if quick else ROWS


def variants(sm: int, quick: bool) -> list[Variant]:
    """Return the kernels of the rows, and those of BACKWARD, that an architecture allows, each once."""
    found = dict.fromkeys(row.variant(sm) for row in rows(quick=quick))
    for more in () if quick else BACKWARD:
        problem = ForwardProblem(**{"dtype": "bf16", "head_dim": 128, **more})
        for operation in BACKWARD_OPERATIONS:
            found |= dict.fromkeys(rung.variant for rung in ladder(sm, problem, operation))
    return [one for one in found if not reasons_against(one, reference_device(sm))]
