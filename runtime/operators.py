"""Attention as operators of torch.library, for those who must see a call: compilers, dispatch modes, fake tensors.

`kernelwright_<module>::attend` and `::attend_backward` take everything as plain arguments and do what the functions do.
A call that nobody watches goes past them. A library has its module's name, so that two modules do not meet.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeAlias

import torch
from torch.utils.flop_counter import register_flop_formula

from .autograd import Differentiable, refuse_twice
from .backward import INPUTS, Wanted
from .block_mask import BlockMask
from .errors import GradientError
from .inputs import check
from .options import Options, Sequences

Values: TypeAlias = tuple[Any, ...]  # Any: the arguments of an operator, as its schema types them
Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_OPTIONS = (
    *("Tensor? sink", "Tensor? bias", "Tensor? alibi_slopes", "Tensor? rng_state"),
    *("Tensor? cu_seqlens_q", "Tensor? cu_seqlens_k", "Tensor? seqused_k"),
    *("Tensor? block_counts", "Tensor? block_lists", "Tensor? block_bits", "int block_q", "int block_k"),
    *("SymInt max_seqlen_q", "SymInt max_seqlen_k"),
    *("float? softmax_scale", "bool causal", "SymInt window_left", "SymInt window_right", "SymInt attention_chunk"),
    *("float softcap", "float dropout_p", "bool deterministic"),
)
_NAMES = tuple(one.split()[1] for one in _OPTIONS)
_INPUTS = ("Tensor q", "Tensor k", "Tensor v", *_OPTIONS)
_GIVEN = ("Tensor? dout", "Tensor? dlse", "Tensor out", "Tensor lse", "bool[] wanted")
_FORWARD = f"attend({', '.join(_INPUTS)}) -> (Tensor, Tensor)"
_BACKWARD = f"attend_backward({', '.join([*_GIVEN, *_INPUTS])}) -> ({', '.join(['Tensor'] * len(INPUTS))})"
_DEVICES = ("CPU", "CUDA")


class Operators:
    """The operators of one module."""

    def __init__(self, package: str, differentiable: Differentiable) -> None:
        self._differentiable = differentiable
        self._library, self.namespace = _new_library(package)
        for device in _DEVICES:
            self._library.impl("attend", self._attend, device)
            self._library.impl("attend_backward", self._attend_backward, device)
        name, backward_name = (f"{self.namespace}::{one}" for one in ("attend", "attend_backward"))
        torch.library.register_fake(name, _fake_attend, lib=self._library)
        torch.library.register_fake(backward_name, _fake_attend_backward, lib=self._library)
        torch.library.register_autograd(name, self._gradients, setup_context=_set_up, lib=self._library)
        torch.library.register_autograd(backward_name, refuse_twice, setup_context=_ignore, lib=self._library)
        packets = getattr(torch.ops, self.namespace)
        register_flop_formula(packets.attend, get_raw=True)(_flops)
        register_flop_formula(packets.attend_backward, get_raw=True)(_backward_flops)
        self.forward = packets.attend.default
        self.backward = packets.attend_backward.default

    def attend(self, q: Any, k: Any, v: Any, options: Options, deterministic: bool) -> Pair:  # Any: kinds of tensors
        """Return out and lse by the operator."""
        if options.dropout_p and options.rng_state is None:
            options = replace(options, rng_state=torch.randint(0, 2**62, (2,), dtype=torch.int64, device=q.device))
        found: Pair = self.forward(q, k, v, *_values(options, deterministic))
        return found

    # ------------------------------------------------------------------ what they do

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *values: Any) -> Pair:
        options, _ = _options(values)
        with torch.no_grad():
            request = check(q, k, v, options)
            out, lse, whole_out, whole_lse = self._differentiable.new_results(request, options)
            self._differentiable.attention.compute(replace(request, out=whole_out), whole_lse)
        return out, lse

    def _attend_backward(
        self,
        dout: torch.Tensor | None,
        dlse: torch.Tensor | None,
        out: torch.Tensor,
        lse: torch.Tensor,
        wanted: Sequence[bool],
        *inputs: Any,
    ) -> tuple[torch.Tensor, ...]:
        q, k, v, *values = inputs
        options, is_deterministic = _options(values)
        asked = dict(zip(INPUTS, wanted, strict=True))
        with torch.no_grad():
            request = check(q, k, v, options)
            found = self._differentiable.gradients_of(
                (q, k, v, out, lse), request, options, dout, dlse, Wanted.strictly(is_deterministic, **asked)
            )
            absent = q.new_empty(0)
            given = {"q": q, "k": k, "v": v, "sink": options.sink, "bias": options.bias}
            # As the fake says: contiguous, and in each input's dtype.
            return tuple(
                found[name].to(given[name].dtype).contiguous() if name in found else absent.clone() for name in INPUTS
            )

    def _gradients(self, ctx: Any, dout: torch.Tensor | None, dlse: torch.Tensor | None) -> Values:
        """The gradient of `attend`, for autograd: of q, k, v and every option."""
        values = list(ctx.values)
        tensors = iter(ctx.saved_tensors)
        q, k, v, out, lse = (next(tensors) for _ in range(5))
        for index in ctx.places:
            values[index] = next(tensors)
        needs = dict(zip(("q", "k", "v", *_NAMES), ctx.needs_input_grad, strict=True))
        if needs["alibi_slopes"]:
            raise GradientError("alibi_slopes requires a gradient, which no kernel computes. Detach it.")
        wanted = [bool(needs[name]) for name in INPUTS]
        found = self.backward(dout, dlse, out, lse, wanted, q, k, v, *values)
        by_name = {name: one for name, one, is_wanted in zip(INPUTS, found, wanted, strict=True) if is_wanted}
        return tuple(by_name.get(name) for name in ("q", "k", "v", *_NAMES))


def _new_library(package: str) -> tuple[torch.library.Library, str]:
    """A library of the module's name; imported anew, a module gets another one, as operators cannot be replaced."""
    base = f"kernelwright_{package.replace('.', '_')}"
    for number in itertools.count(1):
        namespace = base if number == 1 else f"{base}_{number}"
        library = torch.library.Library(namespace, "FRAGMENT")
        try:
            library.define(_FORWARD)
        except RuntimeError:  # taken
            continue
        library.define(_BACKWARD)
        return library, namespace
    raise AssertionError


def _values(options: Options, deterministic: bool) -> Values:
    """The options as an operator takes them; what it does not take is left to `_options` to refuse."""
    given = {one.name: getattr(options, one.name) for one in fields(options)}
    given |= dict.fromkeys(_NAMES[_NAMES.index("cu_seqlens_q") : _NAMES.index("block_q")])
    given |= {"block_q": 0, "block_k": 0, "max_seqlen_q": 0, "max_seqlen_k": 0, "deterministic": deterministic}
    given["window_left"], given["window_right"] = options.window_size  # type: ignore[misc]
    mask, sequences = options.block_mask, options.sequences
    if mask is not None:
        given |= {"block_counts": mask.counts, "block_lists": mask.lists, "block_bits": mask.bits}
        given |= {"block_q": mask.block_q, "block_k": mask.block_k}
        given |= {"max_seqlen_q": mask.seqlen_q, "max_seqlen_k": mask.seqlen_k}
    if sequences is not None:
        given |= {one: getattr(sequences, one) for one in ("cu_seqlens_q", "cu_seqlens_k", "seqused_k")}
        given |= {"max_seqlen_q": sequences.max_seqlen_q, "max_seqlen_k": sequences.max_seqlen_k}
    return tuple(given[name] for name in _NAMES)


def _options(values: Sequence[Any]) -> tuple[Options, bool]:
    """The options of an operator's arguments, and whether bits must repeat."""
    given = dict(zip(_NAMES, values, strict=True))
    sequences = mask = None
    lengths = {"max_seqlen_q": given["max_seqlen_q"], "max_seqlen_k": given["max_seqlen_k"]}
    if given["cu_seqlens_q"] is not None:
        names = ("cu_seqlens_q", "cu_seqlens_k", "seqused_k")
        sequences = Sequences(**{name: given[name] for name in names}, **lengths)
    if given["block_counts"] is not None:
        mask = BlockMask(
            counts=given["block_counts"],
            lists=given["block_lists"],
            bits=given["block_bits"],
            block_q=given["block_q"],
            block_k=given["block_k"],
            seqlen_q=given["max_seqlen_q"],
            seqlen_k=given["max_seqlen_k"],
        )
    same = {one.name: given[one.name] for one in fields(Options) if one.name in given}
    window = (given["window_left"], given["window_right"])
    return Options(**same, window_size=window, sequences=sequences, block_mask=mask), bool(given["deterministic"])


# ------------------------------------------------------------------ what compilers and autograd ask


def _fake_attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *values: Any) -> Pair:
    shape = (*q.shape[:-1], v.shape[-1])
    lse_shape = (shape[1], shape[0]) if q.dim() == 3 else (shape[0], shape[2], shape[1])
    return q.new_empty(shape), q.new_empty(lse_shape, dtype=torch.float32)


def _fake_attend_backward(
    dout: object, dlse: object, out: torch.Tensor, lse: torch.Tensor, wanted: Sequence[bool], *inputs: Any
) -> tuple[torch.Tensor, ...]:
    q, k, v, *values = inputs
    given = dict(zip(_NAMES, values, strict=True)) | {"q": q, "k": k, "v": v}
    return tuple(
        given[name].new_empty(given[name].shape) if is_wanted else q.new_empty(0)
        for name, is_wanted in zip(INPUTS, wanted, strict=True)
    )


def _set_up(ctx: Any, inputs: Values, output: Pair) -> None:
    q, k, v, *values = inputs
    ctx.places = [index for index, one in enumerate(values) if isinstance(one, torch.Tensor)]
    ctx.save_for_backward(q, k, v, *output, *(values[index] for index in ctx.places))
    ctx.values = [None if isinstance(one, torch.Tensor) else one for one in values]
    ctx.set_materialize_grads(False)


def _ignore(ctx: Any, inputs: Values, output: Values) -> None:
    pass


def is_watched(tensors: Sequence[object]) -> bool:
    """Whether someone must see a call who would not see a launch: a mode, or a tensor that is more than its memory."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or any(_dispatches(one) for one in tensors)
    )


def _dispatches(tensor: object) -> bool:
    if not isinstance(tensor, torch.Tensor) or type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return False
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


# ------------------------------------------------------------------ floating-point operations


def _flops(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *values: Any, **_: object) -> int:
    """Those of q k^T and p v, without regard to causal and windows, as torch counts its own attention."""
    return int(2 * _num_scores(q, k, values) * (q.shape[-1] + v.shape[-1]))


def _backward_flops(*inputs: Any, **_: object) -> int:
    """Those of q k^T, dout v^T, dv, dk and dq."""
    q, k, v, *values = inputs[len(_GIVEN) :]
    return int(2 * _num_scores(q, k, values) * (3 * q.shape[-1] + 2 * v.shape[-1]))


def _num_scores(q: torch.Tensor, k: torch.Tensor, values: Sequence[Any]) -> int:
    given = dict(zip(_NAMES, values, strict=True))
    offsets = given["cu_seqlens_q"], given["cu_seqlens_k"]
    if offsets[0] is None:
        return int(q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1])
    if all(type(one) is torch.Tensor and not one.is_meta for one in offsets):
        lengths = [one.diff().tolist() for one in offsets]
        return int(q.shape[1] * sum(a * b for a, b in zip(*lengths, strict=True)))
    return int(q.shape[1] * (offsets[0].shape[0] - 1) * given["max_seqlen_q"] * given["max_seqlen_k"])
