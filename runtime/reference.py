"""What attention is: in float64, and (`pt`) as plain torch computes it at the kernel's own dtype.

Both work in chunks of query rows, on the CPU. Semantics: docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

MAX_SCORES = 1 << 24
"""Scores held at a time; bounds the memory to a few hundred MB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """The result in float64.

    Attributes:
        out: [batch, seqlen_q, num_heads_q, head_dim_v]; 0 where a row sees no key.
        lse: [batch, num_heads_q, seqlen_q], natural logarithm; -inf where a row sees no key.
        magnitude: [batch, seqlen_q, num_heads_q], the largest over head_dim_v of sum_j p_j |v_j|: what a rounding
            of p or of the result is relative to.
    """

    out: torch.Tensor
    lse: torch.Tensor
    magnitude: torch.Tensor


def visible(seqlen_q: int, seqlen_k: int, rows: slice, *, is_causal: bool) -> torch.Tensor:
    """Return which keys the rows see, [rows, seqlen_k]: the last query is aligned with the last key."""
    queries = torch.arange(seqlen_q)[rows, None]
    keys = torch.arange(seqlen_k)[None, :]
    return (keys <= queries + (seqlen_k - seqlen_q)) | torch.tensor(not is_causal)


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float | None, *, is_causal: bool
) -> Reference:
    """Return attention in float64."""
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    q, k, v = (one.detach().cpu().to(torch.float64) for one in (q, *_grouped(q, k, v)))
    batch, seqlen_q, num_heads, _ = q.shape
    out = torch.zeros(batch, seqlen_q, num_heads, v.shape[3], dtype=torch.float64)
    lse = torch.full((batch, num_heads, seqlen_q), -torch.inf, dtype=torch.float64)
    magnitude = torch.zeros(batch, seqlen_q, num_heads, dtype=torch.float64)
    if k.shape[1] == 0:
        return Reference(out=out, lse=lse, magnitude=magnitude)
    for rows in _chunks(q, k):
        mask = visible(seqlen_q, k.shape[1], rows, is_causal=is_causal)
        scores = torch.einsum("bqhd,bkhd->bhqk", q[:, rows], k) * scale
        scores.masked_fill_(~mask, -torch.inf)
        lse[:, :, rows] = torch.logsumexp(scores, dim=-1)
        p = torch.nan_to_num(torch.softmax(scores, dim=-1)) if not bool(mask.any(-1).all()) else scores.softmax(-1)
        out[:, rows] = torch.einsum("bhqk,bkhd->bqhd", p, v)
        magnitude[:, rows] = torch.einsum("bhqk,bkhd->bqhd", p, v.abs()).amax(-1)
    return Reference(out=out, lse=lse, magnitude=magnitude)


def pt(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float | None, *, is_causal: bool
) -> torch.Tensor:
    """Return attention with scores, softmax and P V rounded to the dtype of q, k being the scaled one.

    Source: FlashAttention's `attention_ref(upcast=False, reorder_ops=True)`, whose error the gate measures by.
    """
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    q, k, v = (one.detach().cpu() for one in (q, *_grouped(q, k, v)))
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    if k.shape[1] == 0:
        return out
    scaled = k * scale
    for rows in _chunks(q, k):
        mask = visible(q.shape[1], k.shape[1], rows, is_causal=is_causal)
        scores = torch.einsum("bqhd,bkhd->bhqk", q[:, rows], scaled)
        scores.masked_fill_(~mask, -torch.inf)
        p = torch.softmax(scores, dim=-1).to(v.dtype)
        p.masked_fill_(~mask.any(-1)[:, None], 0.0)
        out[:, rows] = torch.einsum("bhqk,bkhd->bqhd", p, v)
    return out


def fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float | None, *, is_causal: bool
) -> torch.Tensor:
    """Return attention by torch's `scaled_dot_product_attention` on the CPU, with this project's masks."""
    q, k, v = (one.detach().cpu().transpose(1, 2) for one in (q, *_grouped(q, k, v)))
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    if k.shape[2] == 0:
        return out.transpose(1, 2)
    mask = visible(q.shape[2], k.shape[2], slice(None), is_causal=is_causal)
    seen = mask.any(-1).expand(q.shape[2])  # where a row sees no key torch's versions differ
    out[:, :, seen] = torch.nn.functional.scaled_dot_product_attention(
        q[:, :, seen], k, v, attn_mask=mask[seen] if is_causal else None, scale=softmax_scale
    )
    return out.transpose(1, 2)


def _grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat key and value heads for the query heads that share them: consecutive ones."""
    group = q.shape[2] // k.shape[2]
    return k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)


def _chunks(q: torch.Tensor, k: torch.Tensor) -> Iterator[slice]:
    batch, seqlen_q, num_heads, _ = q.shape
    step = max(1, MAX_SCORES // max(1, batch * num_heads * k.shape[1]))
    for start in range(0, seqlen_q, step):
        yield slice(start, min(start + step, seqlen_q))
