"""The gate that decides whether a kernel's result is right.

Over the whole tensor, as FlashAttention's own tests: max |x - ref| <= 2 max |pt - ref| + 1e-5, where ref is float64
and pt the same mathematics in torch at the kernel's dtype. And no worse than twice the error of torch's own fused
attention, scaled_dot_product_attention on the CPU, with the same 1e-5.

Per row too, since a maximum over the tensor hides a lost key in a row of small values:

    max_d |x - ref| <= 2 max(max_d |pt - ref|, u max_d sum_j p_j |v_jd|) + 1e-5

u is the unit roundoff (2^-11 for fp16 with its 10 fraction bits, 2^-8 for bf16 with 7). A kernel rounds twice: P
before the product with V, which moves the result by at most u sum_j p_j |v_j|, and the result, by at most u |o|,
which is no more. So twice the second term is a bound that a right kernel keeps even where pt is right by luck, as in a
row that sees one key. 1e-5 covers fp32 sums and exp2.

lse is a float32: |lse - ref| <= 2e-5 + 2^-22 |ref|, and -inf where and only where a row sees no key. The second term
is four roundings of float32 at the size of lse: a score with a steep ALiBi slope far from the diagonal is in the
hundreds, where one rounding moves it by 1e-5.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from .reference import Attended, fused, pt, reference

FACTOR = 2.0
ATOL = 1e-5
LSE_ATOL = 2e-5
LSE_RTOL = 2.0**-22
UNIT_ROUNDOFF = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a result passed. Margins are error over allowance: 1 is the limit, smaller is better.

    Attributes:
        fused_error: the largest error of torch's fused attention on the same inputs; infinite where it has none such.
        worst_row: (batch, query, head) with the largest row margin.
        fault: what failed, in words; "" if nothing did.
    """

    passed: bool
    max_error: float
    max_allowed: float
    fused_error: float
    tensor_margin: float
    row_margin: float
    worst_row: tuple[int, int, int]
    worst_row_error: float
    worst_row_allowed: float
    lse_error: float
    fault: str

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)


def judge(out: torch.Tensor, lse: torch.Tensor | None, attended: Attended) -> Verdict:
    """Compare a result with the reference; the inputs must be finite and the result not empty."""
    ref = reference(attended)
    plain = pt(attended).to(torch.float64)
    error = _distance(out.detach().cpu().to(torch.float64), ref.out)
    row_error = error.amax(-1)
    row_plain = (plain - ref.out).abs().amax(-1)
    row_allowed = FACTOR * torch.maximum(row_plain, UNIT_ROUNDOFF[attended.q.dtype] * ref.magnitude) + ATOL
    by_torch = fused(attended)
    fused_error = torch.inf if by_torch is None else float((by_torch.to(torch.float64) - ref.out).abs().max())
    max_allowed = FACTOR * min(float(row_plain.max()), fused_error) + ATOL
    margins = row_error / row_allowed
    batch, query, head = (int(one) for one in torch.unravel_index(margins.argmax(), margins.shape))
    lse_error, lse_allowed = (0.0, LSE_ATOL) if lse is None else _worst_lse(lse, ref.lse)
    max_error = float(row_error.max())
    row_margin = float(margins.max())
    faults = []
    if not max_error <= max_allowed:
        faults.append(f"largest error {max_error:.3g}, allowed {max_allowed:.3g}")
    if not row_margin <= 1:
        faults.append(
            f"row batch {batch}, query {query}, head {head}: error {float(row_error[batch, query, head]):.3g}, "
            f"allowed {float(row_allowed[batch, query, head]):.3g}; "
            f"{int((margins > 1).sum())} of {margins.numel()} rows fail"
        )
    if not lse_error <= lse_allowed:
        faults.append(f"lse off by {lse_error:.3g}, allowed {lse_allowed:.3g}")
    return Verdict(
        passed=not faults,
        max_error=max_error,
        max_allowed=max_allowed,
        fused_error=fused_error,
        tensor_margin=max_error / max_allowed,
        row_margin=row_margin,
        worst_row=(batch, query, head),
        worst_row_error=float(row_error[batch, query, head]),
        worst_row_allowed=float(row_allowed[batch, query, head]),
        lse_error=lse_error,
        fault="; ".join(faults),
    )


def _worst_lse(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Return the error that is largest beside what is allowed, and what is allowed there."""
    error = _distance(found.detach().cpu().to(torch.float64), expected)
    allowed = LSE_ATOL + LSE_RTOL * expected.abs().nan_to_num(posinf=0.0)
    at = torch.unravel_index((error / allowed).argmax(), error.shape)
    return float(error[at]), float(allowed[at])


def _distance(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Absolute differences: 0 between equal infinities, infinite where only one is finite or a number."""
    distance = (found - expected).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    return torch.where(found == expected, 0.0, distance)
