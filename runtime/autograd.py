"""Attention that autograd records: one node for a call, whose backward pass runs this module's kernels.

Two kinds of node: for plain calls, with nothing but what the backward pass cannot do without, and for all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn, TypeAlias

import torch

from .attention import Attention
from .backward import INPUTS, Backward, Plan, Saved, Wanted, plain_plan, plan_of
from .errors import GradientError
from .inputs import Request, check
from .options import Options

Gradient: TypeAlias = torch.Tensor | None
Context: TypeAlias = Any  # what torch gives a node: it takes any attribute
OUT = 3  # of what a node saves: q, k, v, out, lse, options


class Differentiable:
    """The attention of one module, recorded by autograd."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.backward = Backward(attention)
        self.attend_plainly = make_plain_node(self)

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        options: Options,
        return_lse: bool,
        is_deterministic: bool,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """As `Attention.attend`, with a node for autograd."""
        found: torch.Tensor | tuple[torch.Tensor, ...] = _Node.apply(
            q, k, v, options.sink, options.bias, self, options, return_lse, is_deterministic
        )
        return found

    def forward(
        self, ctx: Context, tensors: tuple[Any, ...], options: Options, return_lse: bool, is_deterministic: bool
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Compute, and keep what the backward pass needs."""
        q, k, v = tensors[:3]
        request = check(q, k, v, options)
        plan = plan_of(request, options)
        out, lse, whole_out, whole_lse = self.new_results(request, options)
        saved = self._saved(plan, (q, k, v, out, lse), request.lowered.tensors)
        self.backward.require(plan, saved, _wanted(ctx.needs_input_grad, is_deterministic))
        self.attention.compute(replace(request, out=whole_out), whole_lse)
        names = tuple(request.lowered.tensors)
        ctx.save_for_backward(q, k, v, out, lse, *(request.lowered.tensors[name] for name in names))
        ctx.plan, ctx.names, ctx.is_deterministic, ctx.owner = plan, names, is_deterministic, self
        ctx.set_materialize_grads(False)
        if not any(plan.flags[name] for name in plan.flags if name != "is_causal"):
            # Whether a call without options is one of this kind is all that its node asks.
            needs = (*ctx.needs_input_grad[:3], False, False, False, False)
            plain = (q.device, q.dtype, q.shape[-1], options.causal, needs, is_deterministic)
            self.attention.engine.trainable.add(plain)
        return (out, lse) if return_lse else out

    @staticmethod
    def new_results(request: Request, options: Options) -> tuple[torch.Tensor, ...]:
        """Return out and lse as a caller gets them, and with a batch dimension.

        What a caller gets is no view of another tensor, so that it may be written in place later.
        """
        drop = int(options.sequences is not None)
        out = torch.empty(request.out_shape[drop:], dtype=request.q.dtype, device=request.q.device)
        lse = torch.empty(request.lse_shape[drop:], dtype=torch.float32, device=request.q.device)
        return (out, lse, out.unsqueeze(0), lse.unsqueeze(0)) if drop else (out, lse, out, lse)

    @staticmethod
    def _saved(plan: Plan, tensors: tuple[torch.Tensor, ...], options: dict[str, torch.Tensor]) -> Saved:
        q, k, v, out, lse = (one.unsqueeze(0) for one in tensors) if plan.is_packed else tensors
        return Saved(q=q, k=k, v=v, out=out, lse=lse, options=options)

    def gradients(
        self, ctx: Context, kept: tuple[torch.Tensor, ...], dout: Gradient, dlse: Gradient
    ) -> tuple[Gradient, ...]:
        """Return the gradients of INPUTS, None where none is asked for, given what `forward` saved."""
        saved = self._saved(ctx.plan, kept[:5], dict(zip(ctx.names, kept[5:], strict=True)))
        found = self._run(ctx.plan, saved, dout, dlse, _wanted(ctx.needs_input_grad, ctx.is_deterministic))
        return tuple(found.get(name) for name in INPUTS)

    def gradients_of(
        self,
        tensors: tuple[torch.Tensor, ...],
        request: Request,
        options: Options,
        dout: Gradient,
        dlse: Gradient,
        wanted: Wanted,
    ) -> dict[str, torch.Tensor]:
        """Return the gradients that are wanted of a checked call, whose q, k, v, out and lse `tensors` are."""
        plan = plan_of(request, options)
        return self._run(plan, self._saved(plan, tensors, request.lowered.tensors), dout, dlse, wanted)

    def _run(self, plan: Plan, saved: Saved, dout: Gradient, dlse: Gradient, wanted: Wanted) -> dict[str, torch.Tensor]:
        if plan.is_packed:
            dout, dlse = (one if one is None else one.unsqueeze(0) for one in (dout, dlse))
        found = self.backward.run(plan, saved, dout, dlse, wanted)
        if plan.is_packed:
            found |= {name: found[name].squeeze(0) for name in ("q", "k", "v") if name in found}
        return found


class _Node(torch.autograd.Function):  # type: ignore[misc]
    """q, k, v, sink, bias and how: out, and lse where it is asked for."""

    @staticmethod
    def forward(ctx: Context, *arguments: Any) -> Any:  # Any: as torch declares it
        owner, options, return_lse, is_deterministic = arguments[5:]
        return owner.forward(ctx, arguments[:5], options, return_lse, is_deterministic)

    @staticmethod
    def backward(ctx: Context, *grads: Gradient) -> tuple[Gradient, ...]:
        dout, dlse = grads if len(grads) == 2 else (grads[0], None)
        kept = ctx.saved_tensors  # asked for once: a checkpoint gives them no second time
        found = ctx.owner.gradients(ctx, kept, dout, dlse)
        if torch.is_grad_enabled():
            found = _closed(found, (kept[OUT], dout, dlse))
        return (*found, None, None, None, None)


class NotPlainError(Exception):
    """A call that looked plain is none, or its kernels are yet to be loaded: nothing was launched."""


PlainAttend: TypeAlias = Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]


def make_plain_node(owner: Differentiable) -> PlainAttend:
    """Return the way of a call without options: q, k, v, softmax_scale, causal, return_lse, deterministic.

    Everything that it names is bound here, once, for speed; so is torch's own `apply`, without the part of it in Python
    that serves functorch, whose transforms the caller has ruled out.

    Raises:
        NotPlainError: if the call must go the long way.
    """
    attention, trainable = owner.attention, owner.attention.engine.trainable
    empty_like, empty, float32 = torch.empty_like, torch.empty, torch.float32

    class PlainNode(torch.autograd.Function):  # type: ignore[misc]
        """A call without options."""

        @staticmethod
        def forward(
            ctx: Context,
            q: torch.Tensor,
            k: torch.Tensor,
            v: torch.Tensor,
            softmax_scale: float | None,
            causal: bool,
            return_lse: bool,
            is_deterministic: bool,
        ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            try:
                batch, seqlen_q, num_heads, head_dim = q.shape
                device = q.device
                if (device, q.dtype, head_dim, causal, ctx.needs_input_grad, is_deterministic) not in trainable:
                    raise NotPlainError
                out = empty_like(q)
                lse = empty(batch, num_heads, seqlen_q, dtype=float32, device=device)
            except (RuntimeError, ValueError, TypeError) as error:  # the long way says what
                raise NotPlainError from error
            # fmt: off
            if not attention.launch(
                q, k, v, out, lse, None, None, None, None, None, None, None, None, None, None, None, None,  # TENSORS
                softmax_scale, None, None, None, None, None, None, None, None, None,  # SCALARS
                causal, None,
            ):
                # fmt: on
                raise NotPlainError
            ctx.save_for_backward(q, k, v, out, lse)
            ctx.how = softmax_scale, causal, is_deterministic
            if not return_lse:
                return out
            ctx.set_materialize_grads(False)
            return out, lse

        @staticmethod
        def backward(ctx: Context, dout: Gradient, dlse: Gradient = None) -> tuple[Gradient, ...]:
            q, k, v, out, lse = ctx.saved_tensors
            softmax_scale, causal, is_deterministic = ctx.how
            wants_q, wants_k, wants_v = ctx.needs_input_grad[:3]
            found = owner.backward.run(
                plain_plan(q, k, softmax_scale, causal),
                Saved(q=q, k=k, v=v, out=out, lse=lse, options={}),
                dout,
                dlse,
                Wanted.strictly(is_deterministic, q=wants_q, k=wants_k, v=wants_v),
            )
            grads: tuple[Gradient, ...] = (found.get("q"), found.get("k"), found.get("v"))
            if torch.is_grad_enabled():
                grads = _closed(grads, (out, dout, dlse))
            return (*grads, None, None, None, None)

    short: PlainAttend = super(torch.autograd.Function, PlainNode).apply
    return short


def _wanted(needs: tuple[bool, ...], is_deterministic: bool) -> Wanted:
    return Wanted.strictly(is_deterministic, **dict(zip(INPUTS, needs[: len(INPUTS)], strict=True)))


def _closed(grads: tuple[Gradient, ...], sources: tuple[Gradient, ...]) -> tuple[Gradient, ...]:
    """Gradients that are recorded (create_graph=True) lead to an error when they are differentiated, not to zeros.

    They hang on what they depend on, `out` for all inputs of its node: autograd asks no node that is on no way to what
    it differentiates by, and would leave the term away.
    """
    given = [one.detach().requires_grad_() for one in grads if one is not None]
    closed = iter(_Closed.apply(len(given), *given, *sources) if given else ())
    return tuple(None if one is None else next(closed) for one in grads)


class _Closed(torch.autograd.Function):  # type: ignore[misc]
    """What has no derivative."""

    @staticmethod
    def forward(ctx: Context, count: int, *tensors: Any) -> tuple[torch.Tensor, ...]:
        return tuple(one.view_as(one) for one in tensors[:count])

    @staticmethod
    def backward(ctx: Context, *grads: Gradient) -> tuple[Gradient, ...]:
        refuse_twice(ctx, *grads)


def refuse_twice(ctx: Context, *grads: Gradient) -> NoReturn:
    """The backward pass of a gradient."""
    raise GradientError(
        "A gradient of attention is differentiated again, which this module's kernels do not compute. "
        "Leave create_graph=True away, or use torch.nn.functional.scaled_dot_product_attention with "
        "torch.nn.attention.SDPBackend.MATH there."
    )
