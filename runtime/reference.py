"""What attention is: in float64, and (`pt`) as plain torch computes it at the kernel's own dtype.

Both work sequence by sequence in chunks of query rows, on the CPU. What a query sees comes from the binding's
visibility, as the kernels' loops do. Semantics: docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from .binding import Visibility
from .block_mask import BlockMask
from .dropout import keep_mask
from .options import LoweredOptions

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


class Attended:
    """What is attended to: q, k, v on the CPU and everything that acts on the scores.

    Sequences of different lengths are one batch entry of q, k and v, as a launch has them.
    """

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        softmax_scale: float | None,
        lowered: LoweredOptions,
        visibility: Mapping[str, Visibility],
        block_mask: BlockMask | None = None,
    ) -> None:
        self.q, self.k, self.v = (one.detach().cpu() for one in (q, k, v))
        self.scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        self.lowered = lowered
        self.extra = {name: one.detach().cpu() for name, one in lowered.tensors.items()}
        kind = next((name for name in visibility if name and lowered.flags[name]), "")
        self.visibility = visibility[kind]
        self.block_mask = None if block_mask is None else block_mask.to("cpu").to_dense()
        self.num_heads = q.shape[2]
        self.keep_scale = float(lowered.scalars.get("keep_scale", 1.0))

    def sequences(self) -> Iterator[tuple[int, tuple[int, slice], tuple[int, slice]]]:
        """Yield the number of each sequence, and its batch entry and rows in q and in k and v."""
        if "q_starts" not in self.extra:
            for batch in range(self.q.shape[0]):
                yield batch, (batch, slice(0, self.q.shape[1])), (batch, slice(0, self.k.shape[1]))
            return
        bounds = [self.extra[name].tolist() for name in ("q_starts", "q_ends", "k_starts", "k_ends")]
        for number, (q_start, q_end, k_start, k_end) in enumerate(zip(*bounds, strict=True)):
            if "seqused_k" in self.extra:
                k_end = k_start + int(self.extra["seqused_k"][number])
            yield number, (0, slice(q_start, q_end)), (0, slice(k_start, k_end))

    def visible(self, number: int, seqlen_q: int, seqlen_k: int, rows: slice) -> torch.Tensor:
        """Return which keys the rows of a sequence see, bool [1 or num_heads, rows, seqlen_k]."""
        query = torch.arange(seqlen_q)[rows]
        numbers = {"query": query, "seqlen_k": seqlen_k, "shift": seqlen_k - seqlen_q}
        numbers |= {name: int(value) for name, value in self.lowered.scalars.items()}
        first, end = (
            torch.as_tensor(one.value(numbers)).expand(query.shape)[:, None]
            for one in (self.visibility.first_key, self.visibility.end_key)
        )
        keys = torch.arange(seqlen_k)
        seen = ((keys >= first) & (keys < end))[None]
        if self.block_mask is not None:
            blocks = self.block_mask[number if self.block_mask.shape[0] > 1 else 0]
            seen = seen & blocks[:, :seqlen_q, :seqlen_k][:, rows]
        return seen

    def scores(
        self, q: torch.Tensor, k: torch.Tensor, number: int, seqlen_q: int, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores of some rows, [num_heads, rows, seqlen_k], -inf where not visible, and what is visible.

        Args:
            q: [rows, num_heads, head_dim]; k: [seqlen_k, num_heads, head_dim], scaled. Their dtype is computed in.
        """
        dtype, seqlen_k = q.dtype, k.shape[0]
        scores = torch.einsum("qhd,khd->hqk", q, k)
        if self.lowered.flags["has_softcap"]:
            cap = float(self.lowered.scalars["softcap"])
            scores = torch.tanh(scores / cap) * cap
        if "bias" in self.extra:
            scores = scores + self.extra["bias"][number, :, :seqlen_q, :seqlen_k][:, rows].to(dtype)
        if "alibi_slopes" in self.extra:
            query = torch.arange(seqlen_q)[rows, None] + (seqlen_k - seqlen_q)
            distance = (query - torch.arange(seqlen_k)).abs()
            scores = scores - (self.extra["alibi_slopes"][number][:, None, None] * distance).to(dtype)
        seen = self.visible(number, seqlen_q, seqlen_k, rows)
        return scores.masked_fill(~seen, -torch.inf), seen

    def kept(self, number: int, seqlen_q: int, seqlen_k: int, rows: slice) -> torch.Tensor | None:
        """Return what dropout keeps of some rows, bool [num_heads, rows, seqlen_k]; None without dropout."""
        if "rng_state" not in self.extra:
            return None
        state = self.extra["rng_state"].clone()
        state[1] += number * self.num_heads * 32
        return keep_mask(state, 1, self.num_heads, seqlen_q, seqlen_k, self.lowered.keep_threshold)[0, :, rows]

    def chunks(self, seqlen_q: int, seqlen_k: int) -> Iterator[slice]:
        """Yield slices of rows whose scores fit MAX_SCORES."""
        step = max(1, MAX_SCORES // max(1, self.num_heads * seqlen_k))
        for start in range(0, seqlen_q, step):
            yield slice(start, min(start + step, seqlen_q))


def reference(attended: Attended) -> Reference:
    """Return attention in float64."""
    q, k, v = (one.to(torch.float64) for one in (attended.q, *_grouped(attended)))
    batch, seqlen_q, num_heads, _ = q.shape
    out = torch.zeros(batch, seqlen_q, num_heads, v.shape[3], dtype=torch.float64)
    lse = torch.full((batch, num_heads, seqlen_q), -torch.inf, dtype=torch.float64)
    magnitude = torch.zeros(batch, seqlen_q, num_heads, dtype=torch.float64)
    sink = attended.extra.get("sink")
    for number, (entry, q_rows), (entry_k, k_rows) in attended.sequences():
        qs, ks, vs = q[entry, q_rows], k[entry_k, k_rows] * attended.scale, v[entry_k, k_rows]
        length = qs.shape[0]
        for rows in attended.chunks(length, ks.shape[0]):
            at = slice(q_rows.start + rows.start, q_rows.start + rows.stop)
            scores, _ = attended.scores(qs[rows], ks, number, length, rows)
            terms = scores if sink is None else _with_sink(scores, sink)
            total = torch.logsumexp(terms, dim=-1)
            p = torch.exp(scores - torch.where(total == -torch.inf, 0.0, total)[..., None])
            kept = attended.kept(number, length, ks.shape[0], rows)
            if kept is not None:
                p = p * kept * attended.keep_scale
            lse[entry, :, at] = total
            out[entry, at] = torch.einsum("hqk,khd->qhd", p, vs)
            magnitude[entry, at] = torch.einsum("hqk,khd->qhd", p, vs.abs()).amax(-1)
    return Reference(out=out, lse=lse, magnitude=magnitude)


def pt(attended: Attended) -> torch.Tensor:
    """Return attention by plain torch, every step rounded to q's dtype; k is scaled, as FlashAttention's tests do."""
    k, v = _grouped(attended)
    q, k = attended.q, k * attended.scale
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    sink = attended.extra.get("sink")
    for number, (entry, q_rows), (entry_k, k_rows) in attended.sequences():
        qs, ks, vs = q[entry, q_rows], k[entry_k, k_rows], v[entry_k, k_rows]
        length = qs.shape[0]
        for rows in attended.chunks(length, ks.shape[0]):
            scores, seen = attended.scores(qs[rows], ks, number, length, rows)
            terms = scores if sink is None else _with_sink(scores, sink)
            p = torch.softmax(terms, dim=-1).to(v.dtype)[..., : ks.shape[0]]
            p = p.masked_fill(~seen.any(-1)[..., None], 0.0)
            kept = attended.kept(number, length, ks.shape[0], rows)
            if kept is not None:
                p = p * kept * attended.keep_scale
            at = slice(q_rows.start + rows.start, q_rows.start + rows.stop)
            out[entry, at] = torch.einsum("hqk,khd->qhd", p, vs)
    return out


def fused(attended: Attended) -> torch.Tensor | None:
    """Return attention by torch's `scaled_dot_product_attention` on the CPU; None for what that does not compute."""
    flags = attended.lowered.flags
    if flags["has_softcap"] or flags["has_dropout"] or "sink" in attended.extra:
        return None
    k, v = _grouped(attended)
    out = torch.zeros(*attended.q.shape[:3], v.shape[3], dtype=attended.q.dtype)
    for number, (entry, q_rows), (entry_k, k_rows) in attended.sequences():
        qs, ks, vs = (
            one.transpose(0, 1) for one in (attended.q[entry, q_rows], k[entry_k, k_rows], v[entry_k, k_rows])
        )
        if ks.shape[1] == 0 or qs.shape[1] == 0:
            continue
        length, rows = qs.shape[1], slice(0, qs.shape[1])
        # What is added to the products: 0 without bias and slopes; then -inf where a key is not visible.
        added, seen = attended.scores(torch.zeros_like(qs).transpose(0, 1), ks.transpose(0, 1), number, length, rows)
        some = seen.any(-1).expand(qs.shape[:2])  # where a row sees no key torch's versions differ
        added = added.masked_fill(~some[..., None], 0.0)
        found = torch.nn.functional.scaled_dot_product_attention(
            *(one[None] for one in (qs, ks, vs)), attn_mask=added[None], scale=attended.scale
        )[0]
        out[entry, q_rows] = found.masked_fill(~some[..., None], 0.0).transpose(0, 1)
    return out


def _with_sink(scores: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
    return torch.cat([scores, sink.to(scores.dtype)[:, None, None].expand(*scores.shape[:2], 1)], dim=-1)


def _grouped(attended: Attended) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat key and value heads for the query heads that share them: consecutive ones."""
    group = attended.q.shape[2] // attended.k.shape[2]
    return attended.k.repeat_interleave(group, dim=2), attended.v.repeat_interleave(group, dim=2)
