"""The build plan: which variants a build holds, which it refuses and why, and what it will cost.

Made before a single file is written. Costs are modelled from recorded compiles; see `predict_cost`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelwright.gen.constraints import reasons_against
from kernelwright.gen.devices import reference_device
from kernelwright.gen.ladder import Bounds, ladder
from kernelwright.gen.profile import Profile
from kernelwright.gen.spec import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What compiling a variant to PTX and cubin takes: CPU seconds, peak memory and size of both files."""

    cpu_seconds: float
    peak_mib: float
    size_kib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedKernel:
    """A variant to build, the run-time sizes its table row is for, and its modelled cost."""

    variant: Variant
    when: Bounds
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A variant that the profile asks for and the architecture does not allow."""

    variant: Variant
    constraint: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """Everything a build would do, in order."""

    profile: str
    sms: tuple[int, ...]
    kernels: tuple[PlannedKernel, ...]
    refusals: tuple[Refusal, ...]

    @property
    def cost(self) -> Cost:
        """The sum over kernels; memory is the largest of one compile."""
        costs = [kernel.cost for kernel in self.kernels]
        return Cost(
            cpu_seconds=sum(cost.cpu_seconds for cost in costs),
            peak_mib=max((cost.peak_mib for cost in costs), default=0.0),
            size_kib=sum(cost.size_kib for cost in costs),
        )


def mma_per_step(variant: Variant) -> int:
    """Count the tensor-core instructions of one key tile in one warp: Q K^T and P V."""
    schedule, problem = variant.forward, variant.problem
    m_tiles = schedule.block_m // (16 * schedule.num_warps)
    depth_steps = -(-problem.head_dim // 16)
    qk = m_tiles * schedule.block_n // 8 * depth_steps
    pv = m_tiles * variant.slice_columns // 8 * (schedule.block_n // 16)
    return qk + pv


def cost_terms(variant: Variant) -> dict[str, float]:
    """Return what a kernel's body holds, by the names of COSTS: mma instructions of a key tile, the scores of one that
    a lane holds, and the work of each feature on each of these."""
    schedule, problem = variant.forward, variant.problem
    scores = schedule.block_m // (16 * schedule.num_warps) * schedule.block_n // 2
    terms: dict[str, float] = {"kernel": 1, "mma": mma_per_step(variant), "scores": scores}
    terms |= {name: scores * (name in problem.features) for name in ("softcap", "alibi", "bias", "dropout", "sparse")}
    return {**terms, "local": problem.is_local, "walk": problem.is_block_sparse}


COSTS: dict[str, dict[str, float]] = {
    "cpu_seconds": {
        **{"kernel": 0.57, "mma": 0.0022, "scores": -0.0007, "local": 0.03, "walk": 0.065},
        **{"softcap": 0.0017, "alibi": 0.0025, "bias": 0.0038, "dropout": 0.0028, "sparse": 0.0005},
    },
    "peak_mib": {"kernel": 93},
    "size_kib": {
        **{"kernel": 95, "mma": 0.86, "scores": -0.1, "local": 4, "walk": 9},
        **{"softcap": 0.92, "alibi": 0.53, "bias": 0.45, "dropout": 0.57, "sparse": 0.29},
    },
}
"""What each term costs. Fitted to 248 kernels for sm80 with and without features, nvcc 13.0: 6 % mean error in CPU
seconds, 1 % in memory, 4 % in size (`python benchmarks/build_cost.py OUT...` compares and fits again)."""


def predict_cost(variant: Variant) -> Cost:
    """Model the cost of compiling a variant from what its body holds, which is emitted twice."""
    terms = cost_terms(variant)
    return Cost(
        **{quantity: sum(terms[name] * cost for name, cost in costs.items()) for quantity, costs in COSTS.items()}
    )


def make_plan(profile: Profile, sms: list[int]) -> BuildPlan:
    """Plan a build of a profile for some architectures.

    Raises:
        SpecError: if an architecture is unknown.
    """
    kernels: list[PlannedKernel] = []
    refusals: list[Refusal] = []
    for sm in dict.fromkeys(sms):
        device = reference_device(sm)
        for problem in profile.problems:
            for rung in ladder(sm, problem):
                against = reasons_against(rung.variant, device)
                refusals += [Refusal(variant=rung.variant, constraint=rule, reason=why) for rule, why in against]
                if not against:
                    cost = predict_cost(rung.variant)
                    kernels.append(PlannedKernel(variant=rung.variant, when=rung.when, cost=cost))
    return BuildPlan(
        profile=profile.name, sms=tuple(dict.fromkeys(sms)), kernels=tuple(kernels), refusals=tuple(refusals)
    )
