"""Gradients of attention: by float64, by plain torch at the kernel's dtype, and whether a kernel's are right.

What passes is what `gate` asks of a result, with a factor of its own over whole tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from .binding import Visibility
from .block_mask import BlockMask
from .gate import ATOL, FACTOR, UNIT_ROUNDOFF
from .inputs import Request, check
from .problems import TORCH_DTYPES, Problem, guarded, make_inputs
from .reference import Attended

GRADIENTS = ("dq", "dk", "dv", "dbias")
TENSOR_FACTOR = 3.0  # as FlashAttention-2's own tests allow gradients over a whole tensor; rows keep the gate's 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gradients:
    """The gradients by name, and what a forward pass leaves.

    dbias, where there is a bias, has size 1 where one serves all sequences or heads. `magnitudes`: what a rounding of
    each row of a gradient is of.
    """

    out: torch.Tensor
    lse: torch.Tensor
    values: Mapping[str, torch.Tensor]
    magnitudes: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A problem with its tensors, and the gradients that it has."""

    problem: Problem
    request: Request
    block_mask: BlockMask | None
    dout: torch.Tensor
    reference: Gradients
    plain: Gradients

    def inputs(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return those of the tensors that a backward kernel reads which are named in its binding.

        delta is what its own kernel makes of the rounded result. A block mask's lists are by keys for what writes dk.
        """
        request, device = self.request, self.request.q.device
        delta = (self.reference.out.to(request.q.dtype).float() * self.dout.cpu().float()).sum(-1).mT.contiguous()
        every = {
            **{"q": request.q, "k": request.k, "v": request.v, "dout": self.dout},
            **request.lowered.tensors,
            **{"lse": self.reference.lse.float().contiguous().to(device), "delta": delta.to(device)},
        }
        if self.block_mask is not None and "dk" in names:
            every |= self.block_mask.by_keys().tensors(request.shape.num_seqs, request.shape.num_heads_q)
        return {name: tensor for name, tensor in every.items() if name in names}

    def scalars(self, names: Collection[str]) -> dict[str, float]:
        """Return those of the numbers of a launch which are named in its binding."""
        scale = self.problem.head_dim**-0.5 if self.request.softmax_scale is None else self.request.softmax_scale
        every = {
            "softmax_scale": scale,
            **self.request.lowered.scalars,
            "max_seqlen_k": self.request.shape.max_seqlen_k,
        }
        return {name: value for name, value in every.items() if name in names}


def make_case(
    problem: Problem, visibility: Mapping[str, Visibility], *, block_n: int, seed: int, device: torch.device
) -> Case:
    """Return a problem with inputs beside NaN and its gradients; equal seeds give equal numbers on every device."""
    made = make_inputs(problem, block_n, seed, device, visibility)
    request = check(made.q, made.k, made.v, made.options)
    held = guarded(request.out_shape, TORCH_DTYPES[problem.dtype], device, "heads_first").tensor
    held.copy_(torch.randn(request.out_shape, generator=torch.Generator().manual_seed(seed + 1)))
    attended = Attended(
        *(request.q, request.k, request.v, request.softmax_scale),
        *(request.lowered, visibility, made.options.block_mask),
    )
    given = held.cpu()
    return Case(
        problem=problem,
        request=request,
        block_mask=made.options.block_mask,
        dout=held,
        reference=gradients(attended, given, torch.float64),
        plain=gradients(attended, given, request.q.dtype),
    )


def gradients(attended: Attended, dout: torch.Tensor, dtype: torch.dtype) -> Gradients:
    """Return the gradients by autograd with every step in `dtype`; float64 is the reference."""
    q, k, v = (one.to(dtype) for one in (attended.q, attended.k, attended.v))
    group = q.shape[2] // k.shape[2]
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=dtype)
    lse = torch.full((q.shape[0], q.shape[2], q.shape[1]), -torch.inf, dtype=dtype)
    values = {"dq": torch.zeros_like(q), "dk": torch.zeros_like(k), "dv": torch.zeros_like(v)}
    if "bias" in attended.extra:
        values["dbias"] = torch.zeros(given_shape(attended.extra["bias"]), dtype=dtype)
    magnitudes = {name: torch.zeros(one.shape, dtype=dtype) for name, one in values.items()}
    for number, at_q, at_k in attended.sequences():
        given = dout[at_q].to(dtype)
        leaves = [one.clone().requires_grad_() for one in (q[at_q], k[at_k], v[at_k])]
        ks, vs = (one.repeat_interleave(group, dim=1) for one in leaves[1:])
        rows = slice(0, leaves[0].shape[0])
        scores, seen = attended.scores(leaves[0], ks * attended.scale, number, rows.stop, rows)
        scores.retain_grad() if scores.requires_grad else None
        sink = attended.extra.get("sink")
        terms = scores
        if sink is not None:
            terms = torch.cat([scores, sink.to(dtype)[:, None, None].expand(*scores.shape[:2], 1)], dim=-1)
        some = (terms > -torch.inf).any(-1, keepdim=True)
        p = torch.softmax(torch.where(some, terms, 0.0), dim=-1)[..., : ks.shape[0]] * (seen.any(-1)[..., None] & some)
        kept = attended.kept(number, rows.stop, ks.shape[0], rows)
        dropped = p if kept is None else p * kept * attended.keep_scale
        result = torch.einsum("hqk,khd->qhd", dropped, vs)
        found = torch.autograd.grad((result * given).sum(), [*leaves, scores], allow_unused=True)
        found = [
            torch.zeros_like(one) if grad is None else grad for grad, one in zip(found, [*leaves, scores], strict=True)
        ]
        out[at_q] = result.detach()
        lse[at_q[0], :, at_q[1]] = torch.logsumexp(terms.detach(), -1)
        places = {"dq": at_q, "dk": at_k, "dv": at_k}
        for (name, at), one in zip(places.items(), found, strict=False):
            values[name][at] += one
        # What kernels round: P, dS, and O in delta.
        weight = found[3].abs() + p.detach() * (result.detach() * given).abs().sum(-1).mT[..., None]
        scale = attended.scale
        magnitudes["dq"][at_q] += torch.einsum("hqk,khd->qhd", weight, ks.detach().abs()) * scale
        magnitudes["dk"][at_k] += (
            _by_kv_head(torch.einsum("hqk,qhd->khd", weight, leaves[0].detach().abs()), group) * scale
        )
        if "dbias" in values:
            _add_scores(values["dbias"], found[3], number)
            _add_scores(magnitudes["dbias"], weight, number)
        magnitudes["dv"][at_k] += _by_kv_head(torch.einsum("hqk,qhd->khd", dropped.detach(), given.abs()), group)
    return Gradients(out=out, lse=lse, values=values, magnitudes=magnitudes)


def given_shape(expanded: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor before it was expanded: 1 where elements are one in memory."""
    sides = zip(expanded.shape, expanded.stride(), strict=True)
    return tuple(1 if stride == 0 else size for size, stride in sides)


def _add_scores(total: torch.Tensor, scores: torch.Tensor, number: int) -> None:
    """Add what one sequence has for each score, [num_heads, rows, keys], where sequences or heads may share."""
    if total.shape[1] == 1:
        scores = scores.sum(0, keepdim=True)
    total[number if total.shape[0] > 1 else 0, :, : scores.shape[1], : scores.shape[2]] += scores


def _by_kv_head(values: torch.Tensor, group: int) -> torch.Tensor:
    """Return sums over the query heads that share a key head, of values [keys, num_heads_q, head_dim]."""
    return values.unflatten(1, (-1, group)).sum(2)


def faults(outputs: Mapping[str, torch.Tensor], case: Case) -> list[str]:
    """Return what does not pass the gate of runtime/gate.py, over a whole tensor and by rows; empty if all is right.

    Where every row's weight is on one key, dS is a difference of equal numbers: the gradient is less than what a
    rounding moves it by, and plain torch makes it 0 by luck. There the rows decide.
    """
    unit = UNIT_ROUNDOFF[case.request.q.dtype]
    found = []
    for name in GRADIENTS:
        if name not in outputs:
            continue
        expected = case.reference.values[name]
        error = (outputs[name].detach().cpu().double() - expected).abs().nan_to_num(nan=torch.inf).amax(-1)
        plain = (case.plain.values[name].double() - expected).abs().amax(-1)
        rounding = unit * case.reference.magnitudes[name].amax(-1)
        allowed = FACTOR * torch.maximum(plain, rounding) + ATOL
        if not error.numel():
            continue
        cancels = expected.abs().max() <= rounding.max()
        if not cancels and error.max() > TENSOR_FACTOR * plain.max() + ATOL:
            found.append(f"{name}: error {error.max():.3g}, plain torch has {plain.max():.3g}")
        if (error > allowed).any():
            found.append(
                f"{name}: {int((error > allowed).sum())} of {error.numel()} rows, {(error / allowed).max():.3g} times"
            )
    return [f"{case.problem}: {one}" for one in found]
