"""Which keys a query sees, said once: the kernel's loops and masks, the float64 reference and counts derive from it.

The keys a query sees are an interval `[first_key, end_key)` whose bounds never fall as the query grows. So for the rows
of a tile, keys before the first row's `first_key` or from the last row's `end_key` on are seen by none, and those from
the last row's `first_key` to before the first row's `end_key` by all. Expressions are text that both C++ and the
evaluator of `runtime/expressions.py` read: names, whole numbers, + - *, and the functions max, min, floor_div, choose.

Names: `query`, counted in its sequence; `seqlen_k`; `shift = seqlen_k - seqlen_q`, which aligns the last query with
the last key; and the arguments of a launch. `floor_div` rounds down; `choose(c, a, b)` is a where c is not 0, else b.
Source: FlashAttention's documentation of `causal`, `window_size` (2.3) and `attention_chunk` (3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from kernelwright.gen.spec import ForwardProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """Bounds of the keys that `query` sees; where end_key <= first_key it sees none."""

    first_key: str
    end_key: str


FULL = Visibility(first_key="0", end_key="seqlen_k")
CAUSAL = Visibility(first_key="0", end_key="min(seqlen_k, query + shift + 1)")
_CHUNK = "floor_div(query + shift, max(attention_chunk, 1)) * attention_chunk"
LOCAL = Visibility(
    first_key=f"max(max(0, query + shift - window_left), choose(attention_chunk, {_CHUNK}, 0))",
    end_key=(
        "min(min(seqlen_k, query + shift + window_right + 1), "
        f"choose(attention_chunk, {_CHUNK} + attention_chunk, seqlen_k))"
    ),
)
"""A window that is not limited on a side has that size as large as the sequences; attention_chunk 0 is no chunks."""


def visibility(problem: ForwardProblem) -> Visibility:
    """Return what the queries of a problem see."""
    return LOCAL if problem.is_local else CAUSAL if problem.is_causal else FULL


def visibilities() -> dict[str, Mapping[str, str]]:
    """Return each kind as plain data, by the flag that chooses it; "" where none is set."""
    return {name: asdict(one) for name, one in (("", FULL), ("is_causal", CAUSAL), ("is_local", LOCAL))}
