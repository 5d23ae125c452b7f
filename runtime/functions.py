"""The functions of a dispatch module, with FlashAttention-2's names, order of arguments and defaults.

`flash_attn_func` has a short way for plain calls; all else goes through `Attention.attend`. Semantics:
docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .attention import SCALARS, TENSORS, Attention, Result, mark_written
from .autograd import Differentiable, NotPlainError
from .block_mask import BlockMask
from .engine import WHOLE_HEAD_DIM_V
from .errors import GradientError, InputTypeError, UnsupportedInputError
from .inputs import HEAD_DIM_STEP, MAX_SCALE, check, plain_tensor
from .operators import Operators, is_watched
from .options import NO_WINDOW, Options, Sequences, Window
from .reference import Attended

FUNCTIONS = (
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "sparse_attn_func",
)
_PROBS_GRANULE = 128  # FlashAttention-2 rounds the sizes of S_dmask up to it


def make_functions(entry: Entry) -> dict[str, Callable[..., Any]]:  # Any: each function has its own type
    """Return a module's functions by name. The names they use are bound here, once, for speed."""
    attention = entry.attention
    is_compiled = torch.compiler.is_dynamo_compiling
    attend_plainly, is_grad_enabled, is_transformed = (
        entry.differentiable.attend_plainly,
        torch.is_grad_enabled,
        _transforms_query(),
    )
    any_requires_grad = _any_requires_grad
    num_modes, num_function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
    empty_like, empty, float32 = torch.empty_like, torch.empty, torch.float32
    tensor_type, no_window, max_scale = torch.Tensor, NO_WINDOW, MAX_SCALE
    assert (len(TENSORS), len(SCALARS)) == (17, 10)  # written out in the call of launch below, which is quicker

    def flash_attn_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        *,
        return_lse: bool = False,
        out: torch.Tensor | None = None,
        attention_chunk: int = 0,
        bias: torch.Tensor | None = None,
        sink: torch.Tensor | None = None,
        rng_state: torch.Tensor | None = None,
    ) -> Result:
        """Compute softmax(softmax_scale * q k^T) v, exactly, without forming the scores in memory.

        The arguments before the star are FlashAttention-2's, the others this project's.

        Args:
            q: [batch, seqlen_q, num_heads_q, head_dim], float16 or bfloat16, any strides. Where head_dim or head_dim_v
                is no multiple of 8, q, k and v are copied with zeros behind, unless `out` is given.
            k: [batch, seqlen_k, num_heads_kv, head_dim]; num_heads_q is a multiple of num_heads_kv.
            v: [batch, seqlen_k, num_heads_kv, head_dim_v].
            dropout_p: probability of dropping a probability, from 0 to below 1, in steps of 1/256.
            softmax_scale: factor on the scores, positive; None is head_dim ** -0.5.
            causal: query i sees key j when j <= i + seqlen_k - seqlen_q (last query on last key).
            window_size: (left, right): query i sees keys from i + seqlen_k - seqlen_q - left to ... + right; -1: no
                limit.
            softcap: scores become softcap * tanh(scores / softcap), before bias and slopes; 0: they stay.
            alibi_slopes: float32 [num_heads_q] or [batch, num_heads_q]; the score of i and j falls by
                slope * |i + seqlen_k - seqlen_q - j|.
            deterministic: gradients are bitwise the same each time, for more work; the result always is.
            return_attn_probs: return (out, lse, S_dmask) as FlashAttention-2 does; for tests, and slow with dropout.
            return_lse: return (out, lse).
            out: written and returned if given; like the result, any strides, apart from the inputs in memory.
            attention_chunk: keys of other chunks of this many than the query's are not seen; 0: no chunks.
            bias: like q's dtype, [batch, num_heads_q, seqlen_q, seqlen_k], the first two maybe 1; added to the scores.
            sink: [num_heads_q]; a score of each head that takes part in the softmax and has no value.
            rng_state: int64 (seed, offset) that dropout draws from; None: drawn from torch's generator of the device.

        Returns:
            out, [batch, seqlen_q, num_heads_q, head_dim_v] of q's dtype, with the others asked for. lse is float32
            [batch, num_heads_q, seqlen_q], natural logarithm. A row that sees no key is 0, its lse -inf; in the lse
            that comes with `return_attn_probs`, +inf.

        Raises:
            UnsupportedInputError: if an argument is of a kind that no kernel takes.
            NoKernelError: if no kernel was built for this, or for its gradient where an input requires one; the last
                line says how to build it.
            LaunchError, DriverError, TableError: if the launch, the driver or a file fails.
        """
        if (
            not is_compiled()
            and not num_modes()
            and not num_function_modes()
            and type(q) is tensor_type
            and dropout_p == 0.0
            and softcap == 0.0
            and attention_chunk == 0
            and (window_size is no_window or window_size == no_window)
            and alibi_slopes is None
            and bias is None
            and sink is None
            and (causal is False or causal is True)
            and (return_lse is False or return_lse is True)
            and return_attn_probs is False
            and (softmax_scale is None or (type(softmax_scale) is float and 0.0 < softmax_scale <= max_scale))
        ):
            lse = result = None
            is_recorded = q.requires_grad and is_grad_enabled()  # by k or v alone: launch() refuses
            if not is_recorded:
                try:
                    if out is None:
                        result = empty_like(q)  # of another head_dim than v's: launch() leaves it to the long way
                    elif type(out) is tensor_type and not out.requires_grad and not out.is_neg():
                        result = out
                    if return_lse and result is not None:
                        batch, seqlen_q, num_heads, _ = q.shape if q.dim() == 4 else (0, 0, 0, 0)
                        lse = empty(batch, num_heads, seqlen_q, dtype=float32, device=q.device)
                except (RuntimeError, AttributeError, IndexError):  # no shape, or no memory: the long way says what
                    result = None
                # fmt: off
                if result is not None and attention.launch(
                    q, k, v, result, lse, None, None, None, None, None, None, None, None, None, None, None, None,
                    softmax_scale, None, None, None, None, None, None, None, None, None,  # TENSORS, SCALARS
                    causal, None,
                ):
                    # fmt: on
                    if out is not None:
                        mark_written(out)
                    return result if lse is None else (result, lse)
                is_recorded = is_grad_enabled() and any_requires_grad(k, v)
            if is_recorded and out is None and not is_transformed():
                try:
                    return attend_plainly(q, k, v, softmax_scale, causal, return_lse, deterministic)
                except NotPlainError:
                    pass
        options = Options(
            softmax_scale=softmax_scale,
            causal=causal,
            window_size=window_size,
            attention_chunk=attention_chunk,
            softcap=softcap,
            alibi_slopes=alibi_slopes,
            bias=bias,
            sink=sink,
            dropout_p=dropout_p,
            rng_state=rng_state,
        )
        return _attend(entry, q, k, v, options, return_lse, return_attn_probs, out, deterministic)

    def flash_attn_kvpacked_func(
        q: torch.Tensor,
        kv: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """As `flash_attn_func`, with k and v in one tensor [batch, seqlen_k, 2, num_heads_kv, head_dim]."""
        k, v = _unpack("kv", kv, 2, 5)
        return flash_attn_func(
            *(q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic),
            return_attn_probs=return_attn_probs,
        )

    def flash_attn_qkvpacked_func(
        qkv: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """As `flash_attn_func`, with q, k and v in one tensor [batch, seqlen, 3, num_heads, head_dim]."""
        q, k, v = _unpack("qkv", qkv, 3, 5)
        return flash_attn_func(
            *(q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic),
            return_attn_probs=return_attn_probs,
        )

    def flash_attn_varlen_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: torch.Tensor | None = None,
        *,
        return_lse: bool = False,
        out: torch.Tensor | None = None,
        seqused_k: torch.Tensor | None = None,
        attention_chunk: int = 0,
        bias: torch.Tensor | None = None,
        sink: torch.Tensor | None = None,
        rng_state: torch.Tensor | None = None,
    ) -> Result:
        """As `flash_attn_func`, for sequences of different lengths that lie one after another.

        Args:
            q: [total_q, num_heads_q, head_dim]; k, v: [total_k, num_heads_kv, ...].
            cu_seqlens_q, cu_seqlens_k: int32 [batch + 1], prefix sums of the lengths, from 0; a length may be 0.
            max_seqlen_q, max_seqlen_k: the longest lengths, or more. On a GPU offsets are not looked at before the
                launch.
            block_table: paged keys and values, which this module's kernels do not read.
            seqused_k: int32 [batch], how many keys of each sequence are in use; None: all.
            bias: [batch, num_heads_q, max_seqlen_q, max_seqlen_k].

        Returns:
            As `flash_attn_func`, out [total_q, num_heads_q, head_dim_v], lse [num_heads_q, total_q].
        """
        if block_table is not None:
            raise UnsupportedInputError("block_table: this module has no kernel for paged keys and values.")
        options = Options(
            softmax_scale=softmax_scale,
            causal=causal,
            window_size=window_size,
            attention_chunk=attention_chunk,
            softcap=softcap,
            alibi_slopes=alibi_slopes,
            bias=bias,
            sink=sink,
            dropout_p=dropout_p,
            rng_state=rng_state,
            sequences=_sequences(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_k),
        )
        return _attend(entry, q, k, v, options, return_lse, return_attn_probs, out, deterministic)

    def flash_attn_varlen_kvpacked_func(
        q: torch.Tensor,
        kv: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """As `flash_attn_varlen_func`, with k and v in one tensor [total_k, 2, num_heads_kv, head_dim]."""
        k, v = _unpack("kv", kv, 2, 4)
        return flash_attn_varlen_func(
            *(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal),
            *(window_size, softcap, alibi_slopes, deterministic, return_attn_probs),
        )

    def flash_attn_varlen_qkvpacked_func(
        qkv: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """As `flash_attn_varlen_func`, with q, k and v in one tensor [total, 3, num_heads, head_dim]."""
        q, k, v = _unpack("qkv", qkv, 3, 4)
        return flash_attn_varlen_func(
            *(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, softmax_scale, causal),
            *(window_size, softcap, alibi_slopes, deterministic, return_attn_probs),
        )

    def sparse_attn_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        block_mask: BlockMask,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = NO_WINDOW,
        *,
        return_lse: bool = False,
        out: torch.Tensor | None = None,
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        sink: torch.Tensor | None = None,
        deterministic: bool = False,
    ) -> Result:
        """As `flash_attn_func`, visiting only the blocks of keys in `block_mask` (made by `BlockMask.from_dense`).

        A key is seen where the block mask and `causal` and `window_size` all show it.
        """
        options = Options(
            softmax_scale=softmax_scale,
            causal=causal,
            window_size=window_size,
            softcap=softcap,
            alibi_slopes=alibi_slopes,
            bias=bias,
            sink=sink,
            block_mask=block_mask,
        )
        if block_mask is None:
            raise InputTypeError("block_mask must be a BlockMask, got None. Make one with BlockMask.from_dense.")
        return _attend(entry, q, k, v, options, return_lse, False, out, deterministic)

    made = locals()
    functions = {name: made[name] for name in FUNCTIONS}
    for name, function in functions.items():
        function.__module__ = attention.engine.package
        function.__qualname__ = name
    return functions


class Entry:
    """The ways into one module's attention."""

    def __init__(self, package: str, attention: Attention) -> None:
        self.attention = attention
        self.differentiable = Differentiable(attention)
        self.operators = Operators(package, self.differentiable)


def _attend(
    entry: Entry,
    q: Any,  # Any: as the user gave it, checked in attend
    k: Any,
    v: Any,
    options: Options,
    return_lse: object,
    return_attn_probs: object,
    out: object,
    deterministic: object,
) -> Result:
    if not isinstance(return_attn_probs, bool):
        raise InputTypeError(f"return_attn_probs must be True or False, got {return_attn_probs!r}.")
    if not isinstance(deterministic, bool):
        raise InputTypeError(f"deterministic must be True or False, got {deterministic!r}.")
    q, k, v, options = _autocast(q, k, v, options)
    if out is None:
        padded, options = _padded(q, k, v, options)
        if padded is not None:
            q, k, v_padded = padded
            given = (q, k, v_padded, options, return_lse, return_attn_probs, None, deterministic)
            found = _attend(entry, *given)
            if isinstance(found, tuple):
                return found[0][..., : v.shape[-1]], *found[1:]
            return found[..., : v.shape[-1]]
    if not return_attn_probs:
        return _recorded(entry, q, k, v, options, return_lse, out, deterministic)
    if options.dropout_p and options.rng_state is None and isinstance(q, torch.Tensor):
        state = torch.randint(0, 2**62, (2,), dtype=torch.int64, device=q.device)
        options = replace(options, rng_state=state)
    found = _recorded(entry, q, k, v, options, True, out, deterministic)
    assert isinstance(found, tuple)
    lse, probs = _as_flash_attention(entry.attention, q, k, v, options, found[1])
    return found[0], lse, probs


def _recorded(
    entry: Entry,
    q: Any,
    k: Any,
    v: Any,
    options: Options,
    return_lse: object,
    out: object,
    deterministic: bool,
) -> Result:
    """Attend, seen by those who watch, and recorded by autograd where an input requires a gradient."""
    if torch.compiler.is_dynamo_compiling() or is_watched((q, k, v, options.sink, options.bias)):
        return _seen(entry, q, k, v, options, return_lse, out, deterministic)
    given = {"q": q, "k": k, "v": v, "sink": options.sink, "bias": options.bias, "alibi_slopes": options.alibi_slopes}
    wanting = [name for name, one in given.items() if isinstance(one, torch.Tensor) and one.requires_grad]
    if not wanting or not torch.is_grad_enabled():
        return entry.attention.attend(q, k, v, options, return_lse, out)
    if "alibi_slopes" in wanting:
        raise GradientError(
            "alibi_slopes requires a gradient, which no kernel computes. Detach it, or call this under torch.no_grad()."
        )
    if out is not None:
        raise GradientError(
            f"{', '.join(wanting)} require a gradient, and `out` is written in place, which autograd cannot record. "
            "Leave `out` away, or call it under torch.no_grad()."
        )
    for name, one in given.items():
        if one is not None:
            plain_tensor(name, one)
    if not isinstance(return_lse, bool):
        raise InputTypeError(f"return_lse must be True or False, got {return_lse!r}.")
    if _transforms_query()():
        raise InputTypeError(
            f"{', '.join(wanting)} require a gradient inside a torch.func transform (vmap, grad, jvp, functionalize), "
            "which cannot record a kernel. Call the function outside the transform, or detach them."
        )
    return entry.differentiable.attend(q, k, v, options, return_lse, deterministic)


def _seen(
    entry: Entry, q: Any, k: Any, v: Any, options: Options, return_lse: object, out: object, deterministic: bool
) -> Result:
    """Attend by the operator, in words that a compiler follows."""
    found, lse = entry.operators.attend(q, k, v, options, deterministic)
    if out is not None:
        found = out.copy_(found)  # type: ignore[attr-defined]
    return (found, lse) if return_lse else found


def _any_requires_grad(*values: object) -> bool:
    return any(isinstance(one, torch.Tensor) and one.requires_grad for one in values)


def _transforms_query() -> Callable[[], bool]:
    """What says whether a transform of torch.func is active."""
    found: Callable[[], bool] | None = getattr(torch._C, "_are_functorch_transforms_active", None)
    return found or (lambda: torch._C._functorch.peek_interpreter_stack() is not None)


def _autocast(q: Any, k: Any, v: Any, options: Options) -> tuple[Any, Any, Any, Options]:
    """q, k, v and bias, where one is float32, as autocast casts those of torch's own attention; else as they are."""
    tensors = [one for one in (q, k, v, options.bias) if isinstance(one, torch.Tensor)]
    if not isinstance(q, torch.Tensor) or all(one.dtype != torch.float32 for one in tensors):
        return q, k, v, options
    if q.device.type not in ("cpu", "cuda") or not torch.is_autocast_enabled(q.device.type):
        return q, k, v, options
    dtype = torch.get_autocast_dtype(q.device.type)

    def cast(one: Any) -> Any:
        is_cast = isinstance(one, torch.Tensor) and one.is_floating_point() and one.dtype != torch.float64
        return one.to(dtype) if is_cast else one

    return cast(q), cast(k), cast(v), replace(options, bias=cast(options.bias))


def _padded(q: Any, k: Any, v: Any, options: Options) -> tuple[list[torch.Tensor] | None, Options]:
    """q, k and v with zeros up to a head_dim that kernels are made for, None where they have one; and the options.

    As FlashAttention-2's functions do; the default softmax_scale is that of the head_dim given.
    """
    tensors = (q, k, v)
    if not all(_may_be_padded(one) for one in tensors):
        return None, options  # what is wrong is said by those who check
    # Beyond this two thread blocks share the columns of v.
    step_v = HEAD_DIM_STEP if v.shape[-1] <= WHOLE_HEAD_DIM_V else 2 * HEAD_DIM_STEP
    steps = (HEAD_DIM_STEP, HEAD_DIM_STEP, step_v)
    missing = [-one.shape[-1] % step for one, step in zip(tensors, steps, strict=True)]
    if not any(missing):
        return None, options
    if options.softmax_scale is None:
        options = replace(options, softmax_scale=q.shape[-1] ** -0.5)
    return [torch.nn.functional.pad(one, (0, more)) for one, more in zip(tensors, missing, strict=True)], options


def _may_be_padded(tensor: object) -> bool:
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and tensor.dim() >= 3
        and tensor.shape[-1] > 0
    )


def _as_flash_attention(
    attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """lse as FlashAttention-2 returns it, and its S_dmask, which is empty without dropout.

    There a row without keys has +inf, and a causal kernel leaves the part of ALiBi that is the same for a whole row
    away. S_dmask holds exp(score - largest of the row), negative where dropped.
    """
    with torch.no_grad():
        request = check(q, k, v, options)
    q = q.detach()  # the probabilities are for looking at
    attended = Attended(
        *(request.q.detach(), request.k.detach(), request.v.detach(), request.softmax_scale),
        request.lowered,
        attention.engine.binding.visibility,
    )
    lse = torch.where(lse == -torch.inf, torch.inf, lse)
    is_varlen = options.sequences is not None
    if request.lowered.flags["has_alibi"] and request.lowered.flags["is_causal"]:
        whole = lse.unsqueeze(0) if is_varlen else lse
        for number, (entry, rows), (_, keys) in attended.sequences():
            position = torch.arange(rows.stop - rows.start) + (keys.stop - keys.start) - (rows.stop - rows.start)
            shift = attended.extra["alibi_slopes"][number][:, None] * position
            whole[entry, :, rows] += shift.to(lse.device)
    if not options.dropout_p:
        return lse, q.new_empty(0)
    sizes = request.shape
    shape = [-(-one // _PROBS_GRANULE) * _PROBS_GRANULE for one in (sizes.max_seqlen_q, sizes.max_seqlen_k)]
    probs = torch.zeros(sizes.num_seqs, sizes.num_heads_q, *shape, dtype=torch.float32)
    group = request.q.shape[2] // request.k.shape[2]
    for number, (entry, rows), (entry_k, keys) in attended.sequences():
        length, length_k = rows.stop - rows.start, keys.stop - keys.start
        every = slice(0, length)
        key = attended.k[entry_k, keys].repeat_interleave(group, dim=1).float() * attended.scale
        scores, _ = attended.scores(attended.q[entry, rows].float(), key, number, length, every)
        top = scores.amax(-1, keepdim=True).nan_to_num(neginf=0.0) if length_k else 0.0
        kept = attended.kept(number, length, length_k, every)
        probs[number, :, :length, :length_k] = torch.exp(scores - top) * torch.where(kept, 1.0, -1.0)
    return lse, probs.to(q.dtype).to(q.device)


def _unpack(name: str, packed: torch.Tensor, count: int, dims: int) -> list[torch.Tensor]:
    axes = {5: "[batch, seqlen, {}, num_heads, head_dim]", 4: "[total, {}, num_heads, head_dim]"}[dims].format(count)
    if not isinstance(packed, torch.Tensor):
        raise InputTypeError(f"{name} must be a torch.Tensor, got {type(packed).__name__}.")
    if packed.dim() != dims or packed.shape[-3] != count:
        raise UnsupportedInputError(f"{name} must be {axes}, got {list(packed.shape)}.")
    return list(packed.unbind(-3))  # whose gradient is put together in one step


def _sequences(
    cu_seqlens_q: object, cu_seqlens_k: object, max_seqlen_q: object, max_seqlen_k: object, seqused_k: object
) -> Sequences:
    for name, value in (("max_seqlen_q", max_seqlen_q), ("max_seqlen_k", max_seqlen_k)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputTypeError(f"{name} must be a whole number of tokens, got {value!r}. Use .item() for a tensor.")
    offsets = {"cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    for name, value in offsets.items():
        if not isinstance(value, torch.Tensor) or value.dim() != 1:
            found = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise InputTypeError(f"{name} must be an int32 tensor [batch + 1], got {found}.")
    return Sequences(**offsets, max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k, seqused_k=seqused_k)  # type: ignore[arg-type]
