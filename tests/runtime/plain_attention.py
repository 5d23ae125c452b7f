"""Attention in a few lines of torch, in whatever dtype its inputs have, for autograd to differentiate."""

from __future__ import annotations

from itertools import pairwise

import torch


def plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: tuple[int, int] = (-1, -1),
    chunk: int = 0,
    softcap: float = 0.0,
    slopes: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    sink: torch.Tensor | None = None,
    seen: torch.Tensor | None = None,
    kept: torch.Tensor | None = None,
    keep_scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return out and lse of [batch, seqlen, num_heads, head_dim] tensors; `seen` and `kept` mask keys."""
    dtype = q.dtype
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = (one.repeat_interleave(group, 1) for one in (k, v))
    seqlen_q, seqlen_k = q.shape[2], k.shape[2]
    scores = q @ (k * (q.shape[-1] ** -0.5 if scale is None else scale)).mT
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.to(dtype)
    place = torch.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q
    key = torch.arange(seqlen_k)
    if slopes is not None:
        scores = scores - slopes.to(dtype).expand(q.shape[:2])[..., None, None] * (place - key).abs().to(dtype)
    visible = torch.ones(seqlen_q, seqlen_k, dtype=torch.bool) if seen is None else seen
    left, right = window
    right = 0 if causal else right
    visible = visible & (key <= place + right if right >= 0 else True)
    visible = visible & (key >= place - left if left >= 0 else True)
    if chunk:
        visible = visible & (
            torch.div(key, chunk, rounding_mode="floor") == torch.div(place, chunk, rounding_mode="floor")
        )
    scores = scores.masked_fill(~visible, -torch.inf)
    terms = scores
    if sink is not None:
        column = sink.to(dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        terms = torch.cat([scores, column], -1)
    some = (terms > -torch.inf).any(-1, keepdim=True)
    safe = torch.where(some, terms, 0.0)
    lse = torch.where(some[..., 0], torch.logsumexp(safe, -1), -torch.inf)
    p = torch.softmax(safe, -1)[..., :seqlen_k] * (visible & some)
    if kept is not None:
        p = p * kept * keep_scale
    return (p @ v).transpose(1, 2), lse


def plain_sequences(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of sequences one after another; `used`, keys in use of each; bias for each sequence."""
    bias, used = options.pop("bias", None), options.pop("used", None)
    outs, lses = [], []
    for index, ((begin, end), (begin_k, end_k)) in enumerate(
        zip(pairwise(cu_q.tolist()), pairwise(cu_k.tolist()), strict=True)
    ):
        if used is not None:
            end_k = begin_k + int(used[index])
        more = {} if bias is None else {"bias": bias[index : index + 1, :, : end - begin, : end_k - begin_k]}
        if begin < end:
            one = plain(q[None, begin:end], k[None, begin_k:end_k], v[None, begin_k:end_k], **options, **more)
            outs.append(one[0][0]), lses.append(one[1][0])
    return torch.cat(outs), torch.cat(lses, -1)
