"""The attention of `flash_attn_func` by torch alone: by `scaled_dot_product_attention` where that has the words for it.

What layers compute with `use_flash=False`, for comparison. Masks are made whole, sequences are taken one by one.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from .block_mask import BlockMask
from .options import Window

_sdpa = torch.nn.functional.scaled_dot_product_attention


def attention_by_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    sink: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    block_mask: BlockMask | None = None,
) -> torch.Tensor:
    """As `flash_attn_func`, in any dtype and with gradients; dropout draws as torch's does."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    k, v = (one if group == 1 else one.repeat_interleave(group, dim=1) for one in (k, v))
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    seen = visible(q.shape[2], k.shape[2], causal, window_size, q.device)
    if block_mask is not None:
        dense = block_mask.to_dense()
        seen = dense if seen is None else dense & seen
    if softcap or sink is not None or (seen is not None and not bool(seen.any(-1).all())):
        return _written_out(q, k, v, scale, seen, softcap, sink, dropout_p).transpose(1, 2)
    is_triangle = causal and block_mask is None and window_size[0] < 0 and q.shape[2] == k.shape[2]
    mask = None if is_triangle else seen
    return _sdpa(q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=is_triangle, scale=scale).transpose(1, 2)


def varlen_attention_by_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    **options: object,
) -> torch.Tensor:
    """As `flash_attn_varlen_func`; rows behind the last sequence are 0. Waits for a GPU, to read the offsets."""
    rows, keys = (list(pairwise(one.tolist())) for one in (cu_seqlens_q, cu_seqlens_k))
    parts = []
    for (start, end), (start_k, end_k) in zip(rows, keys, strict=True):
        one = [q[start:end], k[start_k:end_k], v[start_k:end_k]]
        parts.append(attention_by_torch(*(part[None] for part in one), **options)[0])  # type: ignore[arg-type]
    behind = q.new_zeros(q.shape[0] - rows[-1][1], q.shape[1], v.shape[2])
    return torch.cat([*parts, behind])


def visible(seqlen_q: int, seqlen_k: int, causal: bool, window: Window, device: torch.device) -> torch.Tensor | None:
    """Return bool [seqlen_q, seqlen_k], true where a query sees a key; None where all see all."""
    left, right = window[0], 0 if causal else window[1]
    if left < 0 and right < 0:
        return None
    position = torch.arange(seqlen_q, device=device)[:, None] + seqlen_k - seqlen_q
    ahead = torch.arange(seqlen_k, device=device) - position
    seen = torch.ones_like(ahead, dtype=torch.bool)
    seen = seen & (ahead >= -left) if left >= 0 else seen
    return seen & (ahead <= right) if right >= 0 else seen


def _written_out(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    seen: torch.Tensor | None,
    softcap: float,
    sink: torch.Tensor | None,
    dropout_p: float,
) -> torch.Tensor:
    """The definition, for what torch's function has no argument for; scores in float32 or better."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).transpose(-1, -2) * scale
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = scores if seen is None else scores.masked_fill(~seen, -torch.inf)
    if sink is not None:
        column = sink.to(wide).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]
    elif seen is None:
        weights = scores.softmax(-1)
    else:  # a row of -inf has a softmax, and a gradient, of NaN
        sees_some = seen.any(-1, keepdim=True)
        weights = scores.masked_fill(~sees_some, 0.0).softmax(-1).masked_fill(~sees_some, 0.0)
    weights = torch.nn.functional.dropout(weights, dropout_p) if dropout_p else weights
    return weights.to(v.dtype) @ v
