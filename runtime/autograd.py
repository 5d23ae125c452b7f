"""Attention that autograd records: one node for a call, whose backward pass runs this module's kernels.

Two kinds of node: for plain calls, with nothing but what the backward pass cannot do without, and for all others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import torch

from .attention import Attention
from .backward import INPUTS, Backward, Plan, Saved, Wanted, plan_of
from .errors import GradientError
from .inputs import check
from .options import Options

Gradient: TypeAlias = torch.Tensor | None
Context: TypeAlias = Any  # what torch gives a node: it takes any attribute


class Differentiable:
    """The attention of one module, recorded by autograd."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.backward = Backward(attention)
        self._plain_plans: dict[bool, Plan] = {}
        self._trained: set[tuple[object, ...]] = set()

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
        # A result is no view of another tensor, so that it may be written in place later.
        shape = request.out_shape[1:] if plan.is_packed else request.out_shape
        out = torch.empty(shape, dtype=request.q.dtype, device=request.q.device)
        lse = torch.empty(request.lse_shape[plan.is_packed :], dtype=torch.float32, device=request.q.device)
        saved = self._saved(plan, (q, k, v, out, lse), request.lowered.tensors)
        wanted = _wanted(ctx.needs_input_grad, is_deterministic)
        self.backward.require(plan, saved, wanted)
        self.attention.compute(replace(request, out=saved.out), saved.lse)
        names = tuple(request.lowered.tensors)
        ctx.save_for_backward(q, k, v, out, lse, *(request.lowered.tensors[name] for name in names))
        ctx.plan, ctx.names, ctx.is_deterministic, ctx.owner = plan, names, is_deterministic, self
        ctx.set_materialize_grads(False)
        return (out, lse) if return_lse else out

    @staticmethod
    def _saved(plan: Plan, tensors: tuple[torch.Tensor, ...], options: dict[str, torch.Tensor]) -> Saved:
        q, k, v, out, lse = (one.unsqueeze(0) for one in tensors) if plan.is_packed else tensors
        return Saved(q=q, k=k, v=v, out=out, lse=lse, options=options)

    def gradients(self, ctx: Context, dout: Gradient, dlse: Gradient) -> tuple[Gradient, ...]:
        """Return the gradients of INPUTS, None where none is asked for."""
        plan: Plan = ctx.plan
        kept = ctx.saved_tensors
        saved = self._saved(plan, kept[:5], dict(zip(ctx.names, kept[5:], strict=True)))
        wanted = _wanted(ctx.needs_input_grad, ctx.is_deterministic)
        if plan.is_packed:
            dout, dlse = (one if one is None else one.unsqueeze(0) for one in (dout, dlse))
        found = self.backward.run(plan, saved, dout, dlse, wanted)
        if plan.is_packed:
            found |= {name: found[name].squeeze(0) for name in ("q", "k", "v") if name in found}
        return tuple(found.get(name) for name in INPUTS)


class _Node(torch.autograd.Function):  # type: ignore[misc]
    """q, k, v, sink, bias and how: out, and lse where it is asked for."""

    @staticmethod
    def forward(ctx: Context, *arguments: Any) -> Any:  # Any: as torch declares it
        owner, options, return_lse, is_deterministic = arguments[5:]
        return owner.forward(ctx, arguments[:5], options, return_lse, is_deterministic)

    @staticmethod
    def backward(ctx: Context, *grads: Gradient) -> tuple[Gradient, ...]:
        dout, dlse = grads if len(grads) == 2 else (grads[0], None)
        found = ctx.owner.gradients(ctx, dout, dlse)
        return (*_closed(found), None, None, None, None)


def _wanted(needs: tuple[bool, ...], is_deterministic: bool) -> Wanted:
    q, k, v, sink, bias = needs[:5]
    strict = is_deterministic or torch.are_deterministic_algorithms_enabled()
    return Wanted(q=q, k=k, v=v, sink=sink, bias=bias, is_deterministic=strict)


def _closed(grads: tuple[Gradient, ...]) -> tuple[Gradient, ...]:
    """Gradients that are recorded (create_graph=True) lead to an error when they are differentiated, not to zeros."""
    if not torch.is_grad_enabled():
        return grads
    given = [one.detach().requires_grad_() for one in grads if one is not None]
    closed = iter(_Closed.apply(*given) if given else ())
    return tuple(None if one is None else next(closed) for one in grads)


class _Closed(torch.autograd.Function):  # type: ignore[misc]
    """What has no derivative."""

    @staticmethod
    def forward(ctx: Context, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(one.view_as(one) for one in grads)

    @staticmethod
    def backward(ctx: Context, *_: Gradient) -> tuple[Gradient, ...]:
        raise GradientError(
            "A gradient of attention is differentiated again, which this module's kernels do not compute. "
            "Leave create_graph=True away, or use torch.nn.functional.scaled_dot_product_attention with "
            "torch.nn.attention.SDPBackend.MATH there."
        )
