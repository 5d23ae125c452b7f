"""Other people's attention, and torch's own several, each as a call on the same q, k and v.

To add one: a function that imports it and returns the call, and a line in `PEERS`. What cannot be imported, refuses
the shape or raises is a result with its reason.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Attention = Callable[[], torch.Tensor]  # its result is [batch, seqlen, num_heads, head_dim], like q
Prepare = Callable[[Tensors, bool], Attention]
OURS, PLAIN, REFERENCE = "ours", "torch plain", "sdpa default"
Group = Literal["ready", "compiled"]


class Refused(RuntimeError):
    """An implementation does not take this problem; the message is its reason."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An implementation.

    Args:
        name: in records and tables.
        prepare: (q, k, v), is_causal -> call. Everything done once a shape belongs in here and is not timed.
        group: `compiled` ones need long before the first call of each shape, and are timed after all others.
    """

    name: str
    prepare: Prepare
    group: Group = "ready"


def heads_first(qkv: Tensors) -> Tensors:
    """Return views of [batch, num_heads, seqlen, head_dim], as torch's own functions want them."""
    q, k, v = (one.transpose(1, 2) for one in qkv)
    return q, k, v


def repeated_heads(qkv: Tensors) -> Tensors:
    """Return q, k, v with as many heads of keys and values as of queries."""
    q, k, v = qkv
    group = q.shape[2] // k.shape[2]
    return (q, k, v) if group == 1 else (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2))


def plain_attention(qkv: Tensors, is_causal: bool) -> Attention:
    """Two products with a softmax between, the scores in memory, as FlashAttention's own benchmark has it."""
    (batch, seqlen, heads, head_dim), seqlen_k = qkv[0].shape, qkv[1].shape[1]
    q, k, v = (one.transpose(1, 2).reshape(batch * heads, -1, head_dim) for one in repeated_heads(qkv))
    scale = head_dim**-0.5
    hidden = None
    if is_causal:
        hidden = torch.ones(seqlen, seqlen_k, dtype=torch.bool, device=q.device).triu(1 + seqlen_k - seqlen)

    def call() -> torch.Tensor:
        scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
        if hidden is not None:
            scores.masked_fill_(hidden, float("-inf"))
        out = torch.bmm(torch.softmax(scores, -1), v)
        return out.view(batch, heads, seqlen, head_dim).transpose(1, 2)

    return call


def sdpa(backend: str | None) -> Prepare:
    """torch's scaled_dot_product_attention, held to one backend; None leaves the choice to torch."""

    def prepare(qkv: Tensors, is_causal: bool) -> Attention:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = heads_first(qkv)
        options: dict[str, Any] = {"is_causal": is_causal}  # Any: keyword arguments
        if k.shape[1] != q.shape[1]:
            options["enable_gqa"] = True
        attend = torch.nn.functional.scaled_dot_product_attention

        def free() -> torch.Tensor:
            return attend(q, k, v, **options).transpose(1, 2)

        if backend is None:
            return free
        chosen = getattr(SDPBackend, backend)

        def held() -> torch.Tensor:
            with sdpa_kernel(chosen):
                return free()

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                held()
            except RuntimeError as error:
                reasons = "; ".join(dict.fromkeys(str(one.message).split("(Triggered")[0].strip() for one in said))
                raise Refused(f"{error}{': ' if reasons else ''}{reasons}") from error
        return held

    return prepare


def flex(qkv: Tensors, is_causal: bool) -> Attention:
    """flex_attention, compiled on a GPU; on a CPU as it is, which only shows that it can be called."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = heads_first(qkv)
    mask = None
    if is_causal:
        offset = k.shape[2] - q.shape[2]
        mask = create_block_mask(
            lambda b, h, i, j: i + offset >= j, None, None, q.shape[2], k.shape[2], device=str(q.device)
        )
    if q.is_cuda:
        torch._dynamo.reset()  # after eight shapes it would compile no more, and run flex_attention as it is
    attend = torch.compile(flex_attention, dynamic=False) if q.is_cuda else flex_attention
    is_grouped = k.shape[1] != q.shape[1]

    def call() -> torch.Tensor:
        return attend(q, k, v, block_mask=mask, enable_gqa=is_grouped).transpose(1, 2)

    if not q.is_cuda:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not compiled, once a process
            call()
    return call


def flash_attn_2(qkv: Tensors, is_causal: bool) -> Attention:
    attend = importlib.import_module("flash_attn").flash_attn_func
    return lambda: _first(attend(*qkv, causal=is_causal))


def flash_attn_3(qkv: Tensors, is_causal: bool) -> Attention:
    attend = importlib.import_module("flash_attn_interface").flash_attn_func
    return lambda: _first(attend(*qkv, causal=is_causal))


def flash_attn_4(qkv: Tensors, is_causal: bool) -> Attention:
    attend = importlib.import_module("flash_attn.cute").flash_attn_func
    return lambda: _first(attend(*qkv, causal=is_causal))


def flashinfer(qkv: Tensors, is_causal: bool) -> Attention:
    """Its prefill over ragged sequences, which is the one that takes a batch."""
    make = importlib.import_module("flashinfer").BatchPrefillWithRaggedKVCacheWrapper
    q, k, _ = qkv
    (batch, seqlen, heads, head_dim), (_, seqlen_k, heads_kv, _) = q.shape, k.shape
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=q.device)
    wrapper = make(workspace, "NHD")
    starts, starts_k = (
        torch.arange(batch + 1, dtype=torch.int32, device=q.device) * length for length in (seqlen, seqlen_k)
    )
    wrapper.plan(
        starts, starts_k, heads, heads_kv, head_dim, causal=is_causal, q_data_type=q.dtype, kv_data_type=k.dtype
    )
    flat = [one.reshape(-1, *one.shape[2:]) for one in qkv]
    return lambda: _first(wrapper.run(*flat)).view(q.shape)


def _first(result: Any) -> torch.Tensor:  # Any: a tensor, or a tuple that begins with it
    first: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return first


PEERS: tuple[Peer, ...] = (
    Peer(name=PLAIN, prepare=plain_attention),
    Peer(name="sdpa flash", prepare=sdpa("FLASH_ATTENTION")),
    Peer(name="sdpa cudnn", prepare=sdpa("CUDNN_ATTENTION")),
    Peer(name="sdpa efficient", prepare=sdpa("EFFICIENT_ATTENTION")),
    Peer(name="flash_attn 2", prepare=flash_attn_2),
    Peer(name="flash_attn 3", prepare=flash_attn_3),
    Peer(name="flash_attn 4", prepare=flash_attn_4, group="compiled"),
    Peer(name="flashinfer", prepare=flashinfer, group="compiled"),
    Peer(name="flex_attention", prepare=flex, group="compiled"),
)


def peer(name: str) -> Peer:
    """Return a peer by name.

    Raises:
        KeyError: if there is none of that name.
    """
    return {one.name: one for one in PEERS}[name]


def names(group: Group) -> list[str]:
    """Return the peers of a group, in order."""
    return [one.name for one in PEERS if one.group == group]
