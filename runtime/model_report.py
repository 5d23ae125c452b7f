"""What a check of a whole model found: errors of its tensors, what became of its calls, what it took; and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .gate import FACTOR
from .gradient_check import TENSOR_FACTOR

OUTPUT_FACTOR, GRADIENT_FACTOR = FACTOR, TENSOR_FACTOR
"""How many times torch's own error ours may be: as kernels are judged."""

_SHOWN = 8  # tensors that the text names


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Largest errors of one tensor against float64.

    Attributes:
        name: of a parameter, an input or an output by its path; of a call its number and which tensor.
        kind: `call`, `output` or `gradient`.
        ours, torch: with this module's kernels, and with torch's attention.
        largest: element of the tensor, in magnitude.
        limit: of `ours`.
    """

    name: str
    kind: str
    ours: float
    torch: float
    largest: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.ours <= self.limit  # False for NaN

    @property
    def ratio(self) -> float:
        """Of the error to what it may be; NaN counts as worst."""
        if self.ours != self.ours:
            return float("inf")
        return self.ours / self.limit if self.limit else 0.0 if self.ours == 0 else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run of the model took.

    Attributes:
        seconds: wall time of forward and backward, the median of `repeats` runs.
        peak_bytes: most memory at once above what was held before, on a GPU; None on the CPU.
        label: `measured`, or why the time says nothing.
    """

    seconds: float
    peak_bytes: int | None
    label: str
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCheck:
    """What `check_model` found; `str()` is a report, `to_dict()` plain data.

    Attributes:
        num_calls, num_swapped: calls of attention in one run, and those that kernels answered.
        fallbacks: why torch answered the others, and how many of them.
        compared: calls, outputs and gradients.
        before, after: runs with torch's attention, and with kernels.
        output_factor, gradient_factor: times torch's own error that ours may be.
    """

    model: str
    device: str
    dtype: str
    num_calls: int
    num_swapped: int
    fallbacks: Mapping[str, int]
    compared: Sequence[Compared]
    before: Cost
    after: Cost
    output_factor: float = OUTPUT_FACTOR
    gradient_factor: float = GRADIENT_FACTOR

    @property
    def passed(self) -> bool:
        """Whether kernels ran at all, and every output and gradient is near enough to float64."""
        return self.num_swapped > 0 and all(one.passed for one in self.compared)

    def to_dict(self) -> dict[str, object]:
        """Return plain data, which `json` takes."""
        found: dict[str, object] = {"passed": self.passed, **asdict(self)}
        return {**found, "compared": [{**asdict(one), "passed": one.passed} for one in self.compared]}

    def __str__(self) -> str:
        calls = f"{self.num_calls} calls of attention: {self.num_swapped} by kernels"
        lines = [
            f"{self.model} on {self.device}, {self.dtype}",
            f"{calls}, {self.num_calls - self.num_swapped} by torch",
        ]
        lines += [f"  {count} x {reason.splitlines()[0]}" for reason, count in self.fallbacks.items()]
        if not self.num_calls:
            lines.append("  (none was seen: a compiled model hides them, as do layers that call other functions)")
        lines += ["", "largest error against float64       ours     torch     limit"]
        for kind in ("call", "output", "gradient"):
            found = sorted((one for one in self.compared if one.kind == kind), key=lambda one: -one.ratio)
            for one in found[:_SHOWN]:
                verdict = "" if one.passed else "  FAILS"
                name = f"{kind} {one.name}"
                lines.append(f"{name:<30}{one.ours:>10.2e}{one.torch:>10.2e}{one.limit:>10.2e}{verdict}")
            if len(found) > _SHOWN:
                lines.append(f"  and {len(found) - _SHOWN} {kind}s nearer to it")
        lines += ["", f"with torch    {_cost(self.before)}", f"with kernels  {_cost(self.after)}", ""]
        gate = (
            f"outputs within {self.output_factor:g}x, gradients within {self.gradient_factor:g}x of torch's own error"
        )
        return "\n".join([*lines, f"{'passed' if self.passed else 'FAILED'}: {gate}"])

    __repr__ = __str__


def _cost(cost: Cost) -> str:
    memory = "memory not measured" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:,.1f} MiB at most"
    return f"{cost.seconds * 1e3:,.1f} ms, {memory} ({cost.label})"
