"""Layers of torch.nn on a module's kernels. `nn.py` of a dispatch module gives them its functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch.nn.functional import linear

from .block_mask import BlockMask
from .errors import InputTypeError, UnsupportedInputError
from .options import NO_WINDOW, Window
from .rotary import RotaryEmbedding
from .torch_attention import attention_by_torch, varlen_attention_by_torch


class MultiheadAttention(torch.nn.Module):  # type: ignore[misc]  # Any: torch is not followed
    """Multi-head attention with its projections, on this module's kernels.

    Parameters have the names and shapes of `torch.nn.MultiheadAttention`, so that state dicts go both ways where there
    are as many key as query heads; the same state dict serves `use_flash=True` and `False`. The first dimension is
    always the batch.

    Args:
        embed_dim: elements of a token.
        num_heads: query heads.
        num_heads_kv: key and value heads; num_heads is a multiple of it; None: num_heads.
        head_dim: elements of a head; None: embed_dim / num_heads.
        bias: whether projections add a bias.
        dropout: probability of dropping a probability of attention, in training alone, from 0 to below 1.
        causal: query i sees key j when j <= i + seqlen_k - seqlen_q.
        window_size: (left, right) tokens seen on each side, -1 for no limit.
        softmax_scale: factor on the scores; None: head_dim ** -0.5.
        softcap: scores become softcap * tanh(scores / softcap); 0: they stay.
        sink: whether each head has a learnt score that takes part in the softmax and has no value (`sink`, [num_heads],
            0 at first).
        rotary_dim: elements of each head that rotary embeddings turn, even; 0: none. Positions are counted from 0 in
            each sequence.
        rotary_base, rotary_interleaved: as in `RotaryEmbedding`.
        use_flash: False computes the same by torch, in any dtype, for comparison. May be set later too.
        device, dtype: of the parameters. Kernels take float16 and bfloat16: that, or torch.autocast.

    Raises:
        UnsupportedInputError: if a size or an option is not possible.
    """

    functions: ClassVar[Mapping[str, Callable[..., Any]]] = {}  # of the dispatch module: its nn.py

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_heads_kv: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
        window_size: Window = NO_WINDOW,
        softmax_scale: float | None = None,
        softcap: float = 0.0,
        sink: bool = False,
        rotary_dim: int = 0,
        rotary_base: float = 10000.0,
        rotary_interleaved: bool = False,
        use_flash: bool = True,
        device: object = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = _size("embed_dim", embed_dim)
        self.num_heads = _size("num_heads", num_heads)
        self.num_heads_kv = self.num_heads if num_heads_kv is None else _size("num_heads_kv", num_heads_kv)
        if self.num_heads % self.num_heads_kv:
            raise UnsupportedInputError(
                f"num_heads must be a multiple of num_heads_kv, got {num_heads} and {num_heads_kv}."
            )
        if head_dim is None and self.embed_dim % self.num_heads:
            raise UnsupportedInputError(
                f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}. Or give head_dim."
            )
        self.head_dim = self.embed_dim // self.num_heads if head_dim is None else _size("head_dim", head_dim)
        if not 0 <= dropout < 1:
            raise UnsupportedInputError(f"dropout must be from 0 to below 1, got {dropout!r}.")
        if not softcap >= 0:
            raise UnsupportedInputError(f"softcap must be 0 for none, or positive, got {softcap!r}.")
        if rotary_dim and rotary_dim > self.head_dim:
            raise UnsupportedInputError(f"rotary_dim must be at most head_dim, got {rotary_dim} and {self.head_dim}.")
        if not isinstance(window_size, tuple | list) or [type(one) for one in window_size] != [int, int]:
            raise UnsupportedInputError(f"window_size must be a pair of whole numbers, got {window_size!r}.")
        choices = {"bias": bias, "causal": causal, "sink": sink, "use_flash": use_flash}
        for name, value in {**choices, "rotary_interleaved": rotary_interleaved}.items():
            if not isinstance(value, bool):
                raise UnsupportedInputError(f"{name} must be True or False, got {value!r}.")
        self.dropout, self.causal, self.window_size = float(dropout), causal, tuple(window_size)
        self.softmax_scale, self.softcap, self.use_flash = softmax_scale, float(softcap), use_flash
        self.rotary = RotaryEmbedding(rotary_dim, rotary_base, rotary_interleaved) if rotary_dim else None
        place = {"device": device, "dtype": dtype}
        rows = (self.num_heads + 2 * self.num_heads_kv) * self.head_dim
        self.in_proj_weight = torch.nn.Parameter(torch.empty(rows, self.embed_dim, **place))
        self.in_proj_bias = torch.nn.Parameter(torch.empty(rows, **place)) if bias else None
        self.out_proj = torch.nn.Linear(self.num_heads * self.head_dim, self.embed_dim, bias=bias, **place)
        self.sink = torch.nn.Parameter(torch.empty(self.num_heads, **place)) if sink else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, as torch's layer does: Xavier for q, k and v together, biases and sinks 0."""
        torch.nn.init.xavier_uniform_(self.in_proj_weight)
        self.out_proj.reset_parameters()
        for zero in (self.in_proj_bias, self.out_proj.bias, self.sink):
            if zero is not None:
                torch.nn.init.zeros_(zero)

    @classmethod
    def from_torch(cls, layer: torch.nn.MultiheadAttention, **options: Any) -> MultiheadAttention:
        """Return a layer with a copy of the weights of torch's, on its device and of its dtype.

        Args:
            layer: its input becomes [batch, seqlen, embed_dim] whatever its `batch_first` is.
            options: of the constructor, beside sizes; `dropout` is the layer's unless given.

        Raises:
            UnsupportedInputError: if it has `kdim` or `vdim` other than embed_dim, `add_bias_kv` or `add_zero_attn`.
        """
        if type(layer) is not torch.nn.MultiheadAttention:
            raise InputTypeError(f"from_torch takes a torch.nn.MultiheadAttention, got {type(layer).__name__}.")
        present = {
            "kdim or vdim": not layer._qkv_same_embed_dim,
            "add_bias_kv": layer.bias_k is not None,
            "add_zero_attn": layer.add_zero_attn,
        }
        if any(present.values()):
            named = ", ".join(name for name, is_there in present.items() if is_there)
            raise UnsupportedInputError(f"a torch.nn.MultiheadAttention with {named} has no counterpart here.")
        weight = layer.in_proj_weight
        settings = {"dropout": layer.dropout, "device": weight.device, "dtype": weight.dtype, **options}
        made = cls(layer.embed_dim, layer.num_heads, bias=layer.in_proj_bias is not None, **settings)
        made.load_state_dict({**made.state_dict(), **layer.state_dict()})
        made.train(layer.training)
        return made

    def extra_repr(self) -> str:
        shown = f"{self.embed_dim}, {self.num_heads}, num_heads_kv={self.num_heads_kv}, head_dim={self.head_dim}"
        changed = {
            "bias": (self.in_proj_bias is not None, True),
            "dropout": (self.dropout, 0.0),
            "causal": (self.causal, False),
            "window_size": (self.window_size, NO_WINDOW),
            "softmax_scale": (self.softmax_scale, None),
            "softcap": (self.softcap, 0.0),
            "sink": (self.sink is not None, False),
            "use_flash": (self.use_flash, True),
        }
        return ", ".join([shown, *(f"{name}={now}" for name, (now, usual) in changed.items() if now != usual)])

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None = None,
        *,
        cu_seqlens: torch.Tensor | None = None,
        max_seqlen: int | None = None,
        cu_seqlens_k: torch.Tensor | None = None,
        max_seqlen_k: int | None = None,
        block_mask: BlockMask | None = None,
    ) -> torch.Tensor:
        """Return what each token of x gathers, of x's shape.

        Args:
            x: [batch, seqlen, embed_dim]; of sequences one after another [total, embed_dim].
            memory: what keys and values are made of, [batch, seqlen_k, embed_dim] or [total_k, embed_dim]; None: x.
            cu_seqlens, max_seqlen: of sequences one after another: int32 [batch + 1], prefix sums from 0, and the
                longest length. Rows of x behind the last sequence give results that mean nothing.
            cu_seqlens_k, max_seqlen_k: those of `memory`.
            block_mask: which blocks of keys are visited at all; not with dropout or cu_seqlens.

        Raises:
            UnsupportedInputError: if shapes or options do not go together, or the dtype is none that kernels take.
            NoKernelError: if the module has no kernel for this; the last line says how to build it.
        """
        self._check(x, memory, cu_seqlens, max_seqlen, cu_seqlens_k, max_seqlen_k, block_mask)
        q, k, v = self._project(x, memory)
        if self.rotary is not None:
            positions = None if cu_seqlens is None else _positions(cu_seqlens, x.shape[0])
            q, k = self.rotary(q, positions), self.rotary(k, positions)
        options: dict[str, Any] = {  # Any: as the functions take them
            "softmax_scale": self.softmax_scale,
            "causal": self.causal,
            "window_size": self.window_size,
            "softcap": self.softcap,
            "sink": self.sink,
        }
        if block_mask is not None:
            options["block_mask"] = block_mask
        elif self.training and self.dropout:
            options["dropout_p"] = self.dropout
        if cu_seqlens is None:
            name = "flash_attn_func" if block_mask is None else "sparse_attn_func"
            out = (self.functions[name] if self.use_flash else attention_by_torch)(q, k, v, **options)
        else:
            cu_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
            max_k = max_seqlen if cu_seqlens_k is None else max_seqlen_k
            if self.use_flash:
                out = self.functions["flash_attn_varlen_func"](q, k, v, cu_seqlens, cu_k, max_seqlen, max_k, **options)
            else:
                out = varlen_attention_by_torch(q, k, v, cu_seqlens, cu_k, **options)
        return self.out_proj(out.flatten(-2))

    def _project(self, x: torch.Tensor, memory: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k and v, [..., num_heads, head_dim], as parts of one product where there is no memory."""
        sizes = [self.num_heads, self.num_heads_kv, self.num_heads_kv]
        if memory is None:
            packed = linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (sum(sizes), self.head_dim))
            q, k, v = packed.split(sizes, dim=-2)
            return q, k, v
        rows = [sizes[0] * self.head_dim, 2 * sizes[1] * self.head_dim]
        weights = self.in_proj_weight.split(rows)
        biases = (None, None) if self.in_proj_bias is None else self.in_proj_bias.split(rows)
        q = linear(x, weights[0], biases[0]).unflatten(-1, (sizes[0], self.head_dim))
        k, v = linear(memory, weights[1], biases[1]).unflatten(-1, (2 * sizes[1], self.head_dim)).chunk(2, dim=-2)
        return q, k, v

    def _check(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None,
        cu_seqlens: torch.Tensor | None,
        max_seqlen: int | None,
        cu_seqlens_k: torch.Tensor | None,
        max_seqlen_k: int | None,
        block_mask: BlockMask | None,
    ) -> None:
        dims, axes = (3, "[batch, seqlen, embed_dim]") if cu_seqlens is None else (2, "[total, embed_dim]")
        for name, tensor in (("x", x), ("memory", memory)):
            if tensor is not None and (tensor.dim() != dims or tensor.shape[-1] != self.embed_dim):
                raise UnsupportedInputError(
                    f"{name} must be {axes} with an embed_dim of {self.embed_dim}, got {list(tensor.shape)}."
                )
        if memory is not None and cu_seqlens is None and memory.shape[0] != x.shape[0]:
            raise UnsupportedInputError(
                f"x and memory must have one batch size, got {x.shape[0]} and {memory.shape[0]}."
            )
        given = [max_seqlen is not None, cu_seqlens is not None]
        given_k = [max_seqlen_k is not None, cu_seqlens_k is not None, cu_seqlens is not None and memory is not None]
        if len(set(given)) > 1 or len(set(given_k)) > 1:
            raise UnsupportedInputError(
                "cu_seqlens comes with max_seqlen, and with cu_seqlens_k and max_seqlen_k where there is memory, and "
                "none of them alone."
            )
        if memory is not None and self.rotary is not None:
            raise UnsupportedInputError(
                "rotary embeddings need one count of positions, which x and memory do not share. Use rotary_dim=0."
            )
        if block_mask is not None and (cu_seqlens is not None or (self.training and self.dropout)):
            raise UnsupportedInputError("block_mask goes neither with cu_seqlens nor, in training, with dropout.")


def _size(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnsupportedInputError(f"{name} must be a positive whole number, got {value!r}.")
    return value


def _positions(cu_seqlens: torch.Tensor, total: int) -> torch.Tensor:
    """The position of each token in its sequence, int64 [total], without waiting for a GPU."""
    tokens = torch.arange(total, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens, tokens.to(cu_seqlens.dtype), right=True) - 1
    return tokens - cu_seqlens[sequence]
