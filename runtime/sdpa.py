"""`scaled_dot_product_attention` with torch's own arguments and meaning, on a module's kernels where it has them.

Where it has none torch's own function answers, and a warning says why, once for each reason. docs/layers.md.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from .attention import Attention, callers_level
from .devices import EMULATOR_FILE
from .errors import FallbackWarning, NoKernelError, UnsupportedInputError
from .inputs import DTYPES, plain_tensor, refuse_tracing

torch_sdpa: Callable[..., torch.Tensor] = torch._C._nn.scaled_dot_product_attention
"""torch's own, whatever `torch.nn.functional` has been patched to."""

_NUMBERS = re.compile(r"\d[\d., x]*")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why torch's function answered; `kind` is the same for calls that differ in sizes alone."""

    kind: str
    text: str


class _TorchAnswers(Exception):
    """Raised inside this file alone: this call is torch's to answer."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.reason = Reason(_NUMBERS.sub("#", text), text)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """A call as kernels take it: [batch, seqlen, num_heads, head_dim], and the leading sizes of the result."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor | None
    leading: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)  # Any: of flash_attn_func


class ScaledDotProductAttention:
    """torch's function on one module's kernels."""

    def __init__(self, attention: Attention, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._engine = attention.engine
        self._attend = functions["flash_attn_func"]
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def function(self) -> Callable[..., torch.Tensor]:
        """Return the function that users call."""

        def scaled_dot_product_attention(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attn_mask: torch.Tensor | None = None,
            dropout_p: float = 0.0,
            is_causal: bool = False,
            *,
            scale: float | None = None,
            enable_gqa: bool = False,
        ) -> torch.Tensor:
            """As `torch.nn.functional.scaled_dot_product_attention`, on this module's kernels where it has them.

            Where it has none torch's function answers, and a `FallbackWarning` says why, once for each reason.

            Args:
                query: [..., num_heads, seqlen_q, head_dim]; key: [..., num_heads_kv, seqlen_k, head_dim]; value:
                    [..., num_heads_kv, seqlen_k, head_dim_v]. Under torch.autocast they are cast first, as by torch.
                attn_mask: bool, true where a query sees a key, or of query's dtype, added to the scores; broadcasts to
                    [..., num_heads, seqlen_q, seqlen_k]. Needs kernels with a bias.
                dropout_p: always applied; other random numbers than torch's, in steps of 1/256.
                is_causal: query i sees keys j <= i, counted from the first key, unlike `flash_attn_func`.
                scale: factor on the scores; None: head_dim ** -0.5.
                enable_gqa: num_heads may be a multiple of num_heads_kv.

            Returns:
                [..., num_heads, seqlen_q, head_dim_v]. A row that sees no key is 0, as torch has it.
            """
            out, reason = self.attend(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
            if reason is not None:
                self._say(reason)
            return out

        function: Any = scaled_dot_product_attention
        # Dynamo breaks its graph around it: why torch answered is found out and said in Python.
        function._torchdynamo_disable = True
        function.__module__ = self._engine.package
        function.__qualname__ = function.__name__
        made: Callable[..., torch.Tensor] = function
        return made

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> tuple[torch.Tensor, Reason | None]:
        """Return the result, and why torch computed it; None where a kernel did."""
        try:
            if isinstance(query, torch.Tensor) and query.device.type == "cpu" and not self._has_emulator:
                raise _TorchAnswers("the tensors are on the CPU, and this module was built without the emulator.")
            if attn_mask is None and not dropout_p and _is_plain(query, key, value, is_causal, enable_gqa):
                q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
                return self._attend(q, k, v, softmax_scale=scale, causal=bool(is_causal)).transpose(1, 2), None
            call = _lower(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
            return self._compute(call, is_causal), None
        except _TorchAnswers as error:
            reason = error.reason
        except NoKernelError as error:
            reason = Reason(str(error).splitlines()[-1], str(error))
        except UnsupportedInputError as error:
            reason = _TorchAnswers(str(error)).reason
        # Outside the handlers: an error of torch's is the caller's own, not one during another.
        options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
        options |= {"enable_gqa": enable_gqa} if enable_gqa else {}  # which torch 2.4 does not know
        return torch_sdpa(query, key, value, attn_mask=attn_mask, **options), reason

    @cached_property
    def _has_emulator(self) -> bool:
        return (self._engine.folder / EMULATOR_FILE).exists()

    def _compute(self, call: _Call, is_causal: bool) -> torch.Tensor:
        q, k, v = call.q, call.k, call.v
        options = call.options if call.bias is None else {**call.options, "bias": call.bias}
        seqlen_q, seqlen_k = q.shape[1], k.shape[1]
        if not is_causal:
            out = self._attend(q, k, v, **options)
        elif seqlen_q <= seqlen_k:  # torch counts from the first key: later ones than the last query are never seen
            out = self._attend(q, k[:, :seqlen_q], v[:, :seqlen_q], causal=True, **options)
        else:  # queries behind the last key see all of them
            square = self._attend(q[:, :seqlen_k], k, v, causal=True, **options)
            out = torch.cat([square, self._attend(q[:, seqlen_k:], k, v, **options)], dim=1)
        out = out.transpose(1, 2)
        return out.reshape(*call.leading, *out.shape[2:])

    def _say(self, reason: Reason) -> None:
        with self._lock:
            if reason.kind in self._said:
                return
            self._said.add(reason.kind)
        warnings.warn(
            f"{self._engine.package}.scaled_dot_product_attention left a call to torch: {reason.text} "
            "This is said once for each reason.",
            FallbackWarning,
            stacklevel=callers_level(),
        )


def _is_plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool, enable_gqa: bool) -> bool:
    """Whether a call without mask and dropout needs its dimensions swapped and nothing else: most do, and quickly."""
    if not type(query) is type(key) is type(value) is torch.Tensor or torch.jit.is_tracing():
        return False
    sizes, sizes_k = query.shape, key.shape
    if len(sizes) != 4 or len(sizes_k) != 4 or value.dim() != 4 or query.dtype not in DTYPES:
        return False
    device = query.device.type
    return (
        sizes[0] == sizes_k[0] == value.shape[0]
        and sizes_k[1] == value.shape[1]
        and (sizes[1] == sizes_k[1] or enable_gqa)
        and (sizes[2] == sizes_k[2] or not is_causal)
        and (not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) == query.dtype)
    )


def _lower(
    query: object,
    key: object,
    value: object,
    attn_mask: object,
    dropout_p: object,
    is_causal: object,
    scale: object,
    enable_gqa: object,
) -> _Call:
    """Turn a call of torch's into one of ours.

    Raises:
        _TorchAnswers, UnsupportedInputError: if it cannot be one, for whatever reason: torch answers, or complains.
    """
    refuse_tracing()
    tensors = [plain_tensor(name, one) for name, one in (("query", query), ("key", key), ("value", value))]
    mask = None if attn_mask is None else plain_tensor("attn_mask", attn_mask)
    tensors, mask = autocast(tensors, mask)
    dtype = tensors[0].dtype
    if dtype not in DTYPES or any(one.dtype != dtype for one in tensors):
        found = ", ".join(sorted({str(one.dtype).removeprefix("torch.") for one in tensors}))
        raise _TorchAnswers(f"query, key and value are {found}; kernels take float16 or bfloat16 (or torch.autocast).")
    if is_causal and mask is not None:
        raise _TorchAnswers("attn_mask and is_causal are given together, which torch does not define.")
    if isinstance(dropout_p, bool) or not isinstance(dropout_p, int | float) or not 0 <= dropout_p < 1:
        raise _TorchAnswers(f"dropout_p is {dropout_p!r}; kernels take 0 to below 1.")
    leading, tensors = _broadcast(tensors, bool(enable_gqa))
    q, k, v = (one.transpose(1, 2) for one in tensors)
    bias = None if mask is None else _bias(mask, (*leading, q.shape[1], k.shape[1]), dtype)
    options: dict[str, Any] = {"softmax_scale": scale}  # Any: of flash_attn_func
    if dropout_p:
        options["dropout_p"] = float(dropout_p)
    return _Call(q=q, k=k, v=v, bias=bias, leading=leading, options=options)


def autocast(tensors: list[torch.Tensor], mask: torch.Tensor | None) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Cast as torch.autocast casts the arguments of torch's function: all floating-point ones but float64."""
    device = tensors[0].device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors, mask
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        eligible = tensor.is_floating_point() and tensor.dtype != torch.float64 and tensor.device.type == device
        return tensor.to(dtype) if eligible else tensor

    return [cast(one) for one in tensors], None if mask is None else cast(mask)


def _broadcast(tensors: list[torch.Tensor], enable_gqa: bool) -> tuple[tuple[int, ...], list[torch.Tensor]]:
    """The sizes before seqlen, broadcast as torch does, and the tensors as [batch, num_heads, seqlen, head_dim]."""
    if min(one.dim() for one in tensors) < 2:
        raise _TorchAnswers("a tensor has fewer than 2 dimensions.")
    if enable_gqa and min(one.dim() for one in tensors) < 3:
        raise _TorchAnswers("enable_gqa is given with tensors that have no heads.")
    fixed = 3 if enable_gqa else 2  # with shared heads their number is not broadcast
    heads = [tuple(one.shape[-3:-2]) if enable_gqa else () for one in tensors]
    if heads[1] != heads[2]:
        raise _TorchAnswers("key and value have other numbers of heads.")
    try:
        outer = torch.broadcast_shapes(*(one.shape[:-fixed] for one in tensors))
    except RuntimeError as error:
        raise _TorchAnswers("the sizes before seqlen do not broadcast.") from error
    found = []
    for one, own in zip(tensors, heads, strict=True):
        whole = one.expand(*outer, *own, *one.shape[-2:])
        while whole.dim() < 4:
            whole = whole.unsqueeze(0)
        found.append(whole.flatten(0, -4) if whole.dim() > 4 else whole)
    return (*outer, *heads[0]), found


def _bias(mask: torch.Tensor, wanted: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """attn_mask as what kernels add: of the dtype of q, [batch or 1, num_heads or 1, seqlen_q, seqlen_k]."""
    if mask.dtype not in (torch.bool, dtype):
        name = str(mask.dtype).removeprefix("torch.")
        raise _TorchAnswers(f"attn_mask is {name}; kernels read it in bool or in query's dtype, {dtype}.")
    if mask.dim() < 2 or len(mask.shape) > len(wanted):
        raise _TorchAnswers("attn_mask has another number of dimensions than kernels take.")
    if len(wanted) > 4 and any(size != 1 for size in mask.shape[:-2]):
        raise _TorchAnswers("attn_mask differs from entry to entry of a batch of several dimensions.")
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)
    outer = (1,) * max(4 - mask.dim(), 0) + tuple(mask.shape[-4:-2])
    mask = mask.reshape(*outer, *mask.shape[-2:])
    try:
        return mask.expand(*outer, *wanted[-2:])
    except RuntimeError as error:
        raise _TorchAnswers("attn_mask does not broadcast to the scores.") from error
