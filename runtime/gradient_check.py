"""Gradients of attention: by float64, by plain torch at the kernel's dtype, and whether a kernel's are right.

What passes is what `gate` asks of a result, with a factor of its own over whole tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch

from .binding import Visibility
from .block_mask import BlockMask
from .gate import ATOL, FACTOR, UNIT_ROUNDOFF, Verdict
from .inputs import Request, check
from .problems import TORCH_DTYPES, Guarded, Problem, guarded, make_inputs
from .reference import Attended

GRADIENTS = ("dq", "dk", "dv", "dbias")
SUMS = {"dq_sum": "dq", "dbias": "dbias"}
"""Tensors of float32 that a kernel adds to, and the gradient that is in them then."""
TENSOR_FACTOR = 3.0  # as FlashAttention-2's own tests allow gradients over a whole tensor; rows keep the gate's 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gradients:
    """The gradients by name, and what a forward pass leaves.

    dbias, where there is a bias, has size 1 where one serves all sequences or heads. `magnitudes`: what a rounding of
    each row of a gradient is of. `moves`: what a gradient moves by where each element of O is moved by itself times a
    random number of variance 1; kernels take delta from O in 16 bits, plain torch does not.
    """

    out: torch.Tensor
    lse: torch.Tensor
    values: Mapping[str, torch.Tensor]
    magnitudes: Mapping[str, torch.Tensor]
    moves: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Written:
    """Memory that a backward kernel writes: NaN, or zeros where it adds, inside memory of NaN.

    Attributes:
        launched: by the binding's names, as a launch takes them.
        held: by gradient.
    """

    launched: Mapping[str, torch.Tensor]
    held: Mapping[str, Guarded]

    @property
    def gradients(self) -> dict[str, torch.Tensor]:
        """What was written, by gradient; sums in float32."""
        return {name: one.tensor for name, one in self.held.items()}


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

    def written(self, names: Collection[str]) -> Written:
        """Return memory for those of the gradients that are named in a kernel's binding."""
        request, device = self.request, self.request.q.device
        layout = "plain" if self.problem.layout == "expanded" else self.problem.layout
        held = {
            name: guarded(tuple(like.shape), like.dtype, device, layout)
            for name, like in (("dq", request.q), ("dk", request.k), ("dv", request.v))
            if name in names
        }
        launched = {name: one.tensor for name, one in held.items()}
        if "dq_sum" in names:
            flat = guarded((request.q.numel(),), torch.float32, device)
            held["dq"] = Guarded(tensor=flat.tensor.zero_().view(request.q.shape), buffer=flat.buffer)
            launched["dq_sum"] = held["dq"].tensor
        bias = request.lowered.tensors.get("bias")
        if "dbias" in names and bias is not None:
            held["dbias"] = guarded(given_shape(bias), torch.float32, device)
            launched["dbias"] = held["dbias"].tensor.zero_().expand(bias.shape)
        return Written(launched=launched, held=held)

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
    squares = {name: torch.zeros(one.shape, dtype=dtype) for name, one in values.items()}  # of moves
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
        # The errors of a row's delta and of its scores are one; those of different rows are independent.
        of_delta = (result.detach() * given).square().sum(-1).mT
        row_squares = p.detach().square() * of_delta[..., None]
        sums = torch.einsum("hqk,khd->qhd", p.detach(), ks.detach()) * scale
        squares["dq"][at_q] += sums.square() * of_delta.mT[..., None]
        moved = torch.einsum("hqk,qhd->khd", row_squares, leaves[0].detach().square())
        squares["dk"][at_k] += _by_kv_head(moved, group) * scale**2
        if "dbias" in values:
            _add_scores(values["dbias"], found[3], number)
            _add_scores(magnitudes["dbias"], weight, number)
            _add_scores(squares["dbias"], row_squares, number)
        magnitudes["dv"][at_k] += _by_kv_head(torch.einsum("hqk,qhd->khd", dropped.detach(), given.abs()), group)
    moves = {name: one.sqrt() for name, one in squares.items()}
    return Gradients(out=out, lse=lse, values=values, magnitudes=magnitudes, moves=moves)


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


def judge_gradients(outputs: Mapping[str, torch.Tensor], case: Case) -> Verdict:
    """Compare gradients, by name, as runtime/gate.py compares results: over a whole tensor and by rows.

    The verdict's numbers are those of the gradient that came nearest to its limit. Where a row's weight is on one key,
    dS is a difference of nearly equal numbers, one of which, delta, has the error of O in 16 bits: what that moves a
    gradient by is allowed where it is more than plain torch's error.
    """
    found = [_judge(name, outputs[name], case) for name in GRADIENTS if name in outputs and outputs[name].numel()]
    if not found:
        raise ValueError(f"{case.problem}: there is no gradient to judge")
    worst = max(found, key=lambda one: max(one.tensor_margin, one.row_margin))
    return replace(
        worst, passed=all(one.passed for one in found), fault="; ".join(one.fault for one in found if one.fault)
    )


def _judge(name: str, output: torch.Tensor, case: Case) -> Verdict:
    expected = case.reference.values[name]
    error = (output.detach().cpu().double() - expected).abs().nan_to_num(nan=torch.inf).amax(-1)
    plain = (case.plain.values[name].double() - expected).abs().amax(-1)
    unit = UNIT_ROUNDOFF[case.request.q.dtype]
    allowed = FACTOR * torch.maximum(plain, unit * case.reference.magnitudes[name].amax(-1)) + ATOL
    of_delta = unit * float(case.reference.moves[name].max())
    return row_verdict(name, error, allowed, TENSOR_FACTOR * max(float(plain.max()), of_delta) + ATOL)


def row_verdict(name: str, error: torch.Tensor, allowed: torch.Tensor, max_allowed: float = torch.inf) -> Verdict:
    """Return whether errors of rows, of three dimensions, are within what is allowed for each and for the largest."""
    margins = error / allowed
    at = first, second, third = tuple(int(one) for one in torch.unravel_index(margins.argmax(), margins.shape))
    max_error, row_margin = float(error.max()), float(margins.max())
    wrong = []
    if not max_error <= max_allowed:
        wrong.append(f"{name}: largest error {max_error:.3g}, allowed {max_allowed:.3g}")
    if not row_margin <= 1:
        wrong.append(
            f"{name}: row {at}: error {float(error[at]):.3g}, allowed {float(allowed[at]):.3g}; "
            f"{int((margins > 1).sum())} of {margins.numel()} rows fail"
        )
    return Verdict(
        passed=not wrong,
        max_error=max_error,
        max_allowed=max_allowed,
        fused_error=torch.inf,
        tensor_margin=max_error / max_allowed,
        row_margin=row_margin,
        worst_row=(first, second, third),
        worst_row_error=float(error[at]),
        worst_row_allowed=float(allowed[at]),
        lse_error=0.0,
        fault="; ".join(wrong),
    )
