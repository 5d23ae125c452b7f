"""What a call of attention asks beside q, k and v: masks, changes of scores, dropout, sequences of different lengths.

Every option is checked here, each fault in its own words, and turned into what a launch takes: flags that choose a
kernel, tensors and numbers by the binding's names. Semantics: docs/semantics.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch

from .block_mask import BlockMask
from .errors import InputTypeError, UnsupportedInputError

Window = tuple[int, int]
NO_WINDOW: Window = (-1, -1)
KEEP_LEVELS = 255  # dropout compares a byte


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sequences:
    """Sequences that lie one after another: q [total_q, num_heads_q, head_dim], k and v [total_k, num_heads_kv, ...].

    Attributes:
        cu_seqlens_q, cu_seqlens_k: int32 [num_seqs + 1], where each begins; the last is the end.
        max_seqlen_q, max_seqlen_k: of the longest, or more.
        seqused_k: int32 [num_seqs], keys in use of each sequence, from its first on; None: all.
    """

    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    seqused_k: torch.Tensor | None = None

    @property
    def num_seqs(self) -> int:
        return int(self.cu_seqlens_q.shape[0]) - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Options:
    """As the user gave them. What each means: `flash_attn_func`."""

    softmax_scale: object = None
    causal: object = False
    window_size: object = NO_WINDOW
    attention_chunk: object = 0
    softcap: object = 0.0
    alibi_slopes: object = None
    bias: object = None
    sink: object = None
    dropout_p: object = 0.0
    rng_state: object = None
    block_mask: BlockMask | None = None
    sequences: Sequences | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShape:
    """Sizes that options are checked against. Of sequences, num_seqs and the longest."""

    num_seqs: int
    num_heads_q: int
    max_seqlen_q: int
    max_seqlen_k: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoweredOptions:
    """What a launch takes of them, by the binding's names, and what of it a reference needs."""

    flags: dict[str, bool]
    tensors: dict[str, torch.Tensor]
    scalars: dict[str, float | int]
    window: Window  # as the kernel sees it, each side a whole number
    dropout_p: float = 0.0
    others: tuple[dict[str, bool], ...] = field(default=())  # flags of kernels that compute the same

    @property
    def keep_threshold(self) -> int:
        """A key is kept where its random byte is not above."""
        return int(self.scalars.get("keep_threshold", KEEP_LEVELS))


def lower_options(options: Options, shape: CallShape) -> LoweredOptions:
    """Check the options against a call and lower them.

    Raises:
        UnsupportedInputError: naming the option, what it is, what is allowed and what to do.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, float | int] = {}
    window, chunk, mask = _mask(options, shape)
    softcap = _number("softcap", options.softcap)
    if softcap < 0:
        raise UnsupportedInputError(f"softcap must be 0 for none, or positive, got {softcap}.")
    if softcap:
        scalars["softcap"] = softcap
    local = {"window_left": window[0], "window_right": window[1], "attention_chunk": chunk}
    if options.alibi_slopes is not None:
        tensors["alibi_slopes"] = _slopes(options.alibi_slopes, shape)
    if options.bias is not None:
        tensors["bias"] = _bias(options.bias, shape)
    if options.sink is not None:
        tensors["sink"] = _sink(options.sink, shape)
    p = _dropout(options, shape, tensors, scalars)
    if options.sequences is not None:
        tensors |= _sequences(options.sequences, shape)
        scalars["max_seqlen_q"] = shape.max_seqlen_q
    if options.block_mask is not None:
        tensors |= _blocks(options.block_mask, shape)
        scalars |= {"sparse_block_q": options.block_mask.block_q, "sparse_block_k": options.block_mask.block_k}
    flags = {
        "is_causal": mask == "causal",
        "is_local": mask == "local",
        "is_varlen": options.sequences is not None,
        "has_softcap": bool(softcap),
        "has_alibi": "alibi_slopes" in tensors,
        "has_bias": "bias" in tensors,
        "has_dropout": bool(p),
        "is_block_sparse": options.block_mask is not None,
    }
    # A local kernel computes causal and full attention too.
    others = () if mask == "local" else ({**flags, "is_causal": False, "is_local": True},)
    return LoweredOptions(
        flags=flags, tensors=tensors, scalars=scalars | local, window=window, dropout_p=p, others=others
    )


def _mask(options: Options, shape: CallShape) -> tuple[Window, int, Literal["full", "causal", "local"]]:
    """The window in whole numbers, the chunk, and the kind of kernel."""
    if not isinstance(options.causal, bool):
        raise InputTypeError(f"causal must be True or False, got {options.causal!r}.")
    given = options.window_size
    if not isinstance(given, tuple | list) or len(given) != 2 or not all(_is_whole(one) for one in given):
        raise InputTypeError(
            f"window_size must be a pair of whole numbers (left, right), -1 for no limit, got {given!r}."
        )
    chunk = options.attention_chunk
    if not _is_whole(chunk) or chunk < 0:  # type: ignore[operator]
        raise InputTypeError(f"attention_chunk must be 0 for none, or a positive whole number, got {chunk!r}.")
    left, right = (int(one) for one in given)
    right = 0 if options.causal else right
    left = -1 if left >= shape.max_seqlen_k else left
    right = -1 if right >= shape.max_seqlen_k + shape.max_seqlen_q else right
    is_local = left >= 0 or right > 0 or bool(chunk)
    # Beyond the sequences a side has no limit.
    window = (shape.max_seqlen_k if left < 0 else left, shape.max_seqlen_q + shape.max_seqlen_k if right < 0 else right)
    return window, int(chunk), "local" if is_local else "causal" if right == 0 else "full"  # type: ignore[call-overload]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputTypeError(f"{name} must be a finite number, got {value!r}.")
    return float(value)


def _tensor(name: str, value: object, shape: CallShape) -> torch.Tensor:
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise InputTypeError(f"{name} must be a plain torch.Tensor, got {type(value).__name__}.")
    assert isinstance(value, torch.Tensor)
    if value.device != shape.device:
        raise UnsupportedInputError(
            f"{name} must be on {shape.device} like q, got {value.device}. Move it with .to(device)."
        )
    return value.resolve_neg()


def _slopes(value: object, shape: CallShape) -> torch.Tensor:
    slopes = _tensor("alibi_slopes", value, shape)
    if slopes.dtype != torch.float32:
        raise InputTypeError(f"alibi_slopes must be float32, got {slopes.dtype}. Convert with .float().")
    if tuple(slopes.shape) not in ((shape.num_heads_q,), (shape.num_seqs, shape.num_heads_q)):
        raise UnsupportedInputError(
            f"alibi_slopes must be [num_heads_q] or [batch, num_heads_q], that is [{shape.num_heads_q}] or "
            f"[{shape.num_seqs}, {shape.num_heads_q}], got {list(slopes.shape)}."
        )
    return slopes.expand(shape.num_seqs, shape.num_heads_q)


def _bias(value: object, shape: CallShape) -> torch.Tensor:
    bias = _tensor("bias", value, shape)
    if bias.dtype != shape.dtype:
        raise InputTypeError(f"bias must be {shape.dtype} like q, got {bias.dtype}. Convert with .to({shape.dtype}).")
    wanted = (shape.num_seqs, shape.num_heads_q, shape.max_seqlen_q, shape.max_seqlen_k)
    fits = bias.dim() == 4 and all(have in (1, want) for have, want in zip(bias.shape[:2], wanted[:2], strict=True))
    if not fits or tuple(bias.shape[2:]) != wanted[2:]:
        raise UnsupportedInputError(
            f"bias must be [batch, num_heads_q, seqlen_q, seqlen_k], batch and num_heads_q maybe 1, that is "
            f"{list(wanted)}, got {list(bias.shape)}."
        )
    if bias.stride(3) != 1 and bias.shape[3] != 1:
        bias = bias.contiguous()
    return bias.detach().expand(wanted)  # detached: a view of a leaf that is written later has an error of its own


def _sink(value: object, shape: CallShape) -> torch.Tensor:
    sink = _tensor("sink", value, shape)
    if tuple(sink.shape) != (shape.num_heads_q,) or not sink.is_floating_point():
        raise UnsupportedInputError(
            f"sink must be a floating-point tensor [num_heads_q], that is [{shape.num_heads_q}], "
            f"got {sink.dtype} {list(sink.shape)}."
        )
    return sink.to(torch.float32).contiguous()


def _dropout(
    options: Options, shape: CallShape, tensors: dict[str, torch.Tensor], scalars: dict[str, float | int]
) -> float:
    p = _number("dropout_p", options.dropout_p)
    if not 0 <= p < 1:
        raise UnsupportedInputError(f"dropout_p must be from 0 to below 1, got {p}.")
    if p == 0:
        return p
    state = options.rng_state
    if state is None:
        state = torch.randint(0, 2**62, (2,), dtype=torch.int64, device=shape.device)
    state = _tensor("rng_state", state, shape)
    if state.dtype != torch.int64 or tuple(state.shape) != (2,):
        raise InputTypeError(
            f"rng_state must be an int64 tensor (seed, offset), got {state.dtype} {list(state.shape)}."
        )
    tensors["rng_state"] = state.contiguous()
    scalars["keep_threshold"] = math.floor(KEEP_LEVELS * (1 - p))
    scalars["keep_scale"] = 1 / (1 - p)
    return p


def _sequences(given: Sequences, shape: CallShape) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, value in (("cu_seqlens_q", given.cu_seqlens_q), ("cu_seqlens_k", given.cu_seqlens_k)):
        offsets = _tensor(name, value, shape)
        if offsets.dtype != torch.int32 or offsets.dim() != 1 or offsets.shape[0] < 2:
            raise InputTypeError(
                f"{name} must be an int32 tensor [batch + 1] of at least 2 elements, got {offsets.dtype} "
                f"{list(offsets.shape)}."
            )
        offsets = offsets.contiguous()
        prefix = name[-1]
        found |= {f"{prefix}_starts": offsets[:-1], f"{prefix}_ends": offsets[1:]}
    if found["q_starts"].shape != found["k_starts"].shape:
        raise UnsupportedInputError(
            f"cu_seqlens_q and cu_seqlens_k must have one length, got {found['q_starts'].shape[0] + 1} and "
            f"{found['k_starts'].shape[0] + 1}."
        )
    if given.seqused_k is not None:
        used = _tensor("seqused_k", given.seqused_k, shape)
        if used.dtype != torch.int32 or tuple(used.shape) != (shape.num_seqs,):
            raise InputTypeError(
                f"seqused_k must be an int32 tensor [batch], that is [{shape.num_seqs}], got {used.dtype} "
                f"{list(used.shape)}."
            )
        found["seqused_k"] = used.contiguous()
    return found


def check_offsets(given: Sequences, total_q: int, total_k: int) -> None:
    """Check what offsets on the CPU hold; those on a GPU are not looked at, which would wait for it.

    Raises:
        UnsupportedInputError: if they do not rise from 0 to the total, or a sequence is longer than it may be.
    """
    named = (
        ("cu_seqlens_q", given.cu_seqlens_q, total_q, "max_seqlen_q", given.max_seqlen_q),
        ("cu_seqlens_k", given.cu_seqlens_k, total_k, "max_seqlen_k", given.max_seqlen_k),
    )
    for name, offsets, total, limit_name, limit in named:
        if offsets.device.type != "cpu":
            continue
        values = offsets.tolist()
        lengths = [end - start for start, end in pairwise(values)]
        if values[0] != 0 or min(lengths) < 0 or values[-1] > total:
            raise UnsupportedInputError(f"{name} must rise from 0 to at most {total}, got {_shown(values)}.")
        if max(lengths) > limit:
            raise UnsupportedInputError(f"{limit_name} is {limit}, and {name} has a sequence of {max(lengths)}.")
    used = given.seqused_k
    if used is not None and used.device.type == "cpu" and given.cu_seqlens_k.device.type == "cpu":
        have = given.cu_seqlens_k.diff()
        if bool(((used < 0) | (used > have)).any()):
            raise UnsupportedInputError(
                f"seqused_k must be from 0 to each sequence's length {_shown(have.tolist())}, "
                f"got {_shown(used.tolist())}."
            )


def _shown(values: list[int]) -> str:
    return str(values) if len(values) <= 12 else f"[{', '.join(map(str, values[:12]))}, ...]"


def _blocks(mask: BlockMask, shape: CallShape) -> dict[str, torch.Tensor]:
    if not isinstance(mask, BlockMask):
        raise InputTypeError(
            f"block_mask must be a BlockMask, got {type(mask).__name__}. Make one with BlockMask.from_dense."
        )
    if (mask.seqlen_q, mask.seqlen_k) != (shape.max_seqlen_q, shape.max_seqlen_k):
        raise UnsupportedInputError(
            f"block_mask is for seqlen {mask.seqlen_q} x {mask.seqlen_k}, the call has "
            f"{shape.max_seqlen_q} x {shape.max_seqlen_k}."
        )
    batch, heads = mask.counts.shape[:2]
    if batch not in (1, shape.num_seqs) or heads not in (1, shape.num_heads_q):
        raise UnsupportedInputError(
            f"block_mask is for batch {batch} and {heads} heads, the call has {shape.num_seqs} and "
            f"{shape.num_heads_q}; either of the mask's may be 1."
        )
    for name in ("counts", "lists", "bits"):
        _tensor(f"block_mask.{name}", getattr(mask, name), shape)
    return {**mask.by_queries().tensors(shape.num_seqs, shape.num_heads_q), "block_bits": mask.bits}
