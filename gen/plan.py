"""The build plan: which variants a build holds, which it refuses and why, and what it will cost.

Made before a single file is written. Costs are modelled from recorded compiles; see `predict_cost`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelwright.gen.constraints import reasons_against
from kernelwright.gen.devices import reference_device
from kernelwright.gen.ladder import Bounds, ladder
from kernelwright.gen.profile import Profile
from kernelwright.gen.spec import (
    BACKWARD_OPERATIONS,
    OPERATION,
    BackwardSchedule,
    ForwardSchedule,
    QueryGradientSchedule,
    Variant,
)


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
    """Return what a kernel's body holds, by the names of COSTS: mma instructions of a tile, the scores of one that a
    lane holds, and the work of each feature on each of these."""
    problem, schedule = variant.problem, variant.schedule
    match schedule:
        case ForwardSchedule():
            mma, scores = mma_per_step(variant), schedule.block_m // (16 * schedule.num_warps) * schedule.block_n // 2
        case BackwardSchedule() | QueryGradientSchedule():
            scores = schedule.block_m * schedule.block_n // schedule.threads
            mma = _backward_mma_per_step(variant, schedule)
        case _:  # of rows: elements that a lane holds of one
            mma, scores = 0, -(-problem.head_dim // 32)
    terms: dict[str, float] = {"kernel": 1, "mma": mma, "scores": scores}
    terms |= {name: scores * (name in problem.features) for name in ("softcap", "alibi", "bias", "dropout", "sparse")}
    return {**terms, "local": problem.is_local, "walk": problem.is_block_sparse}


def _backward_mma_per_step(variant: Variant, schedule: BackwardSchedule | QueryGradientSchedule) -> int:
    """Count the tensor-core instructions of one warp on one tile: Q K^T, dO V^T, dQ, and maybe dK and dV."""
    problem = variant.problem
    m_tiles, n_tiles = schedule.block_m // 16, schedule.block_n // 8
    products = n_tiles * -(-problem.head_dim // 16) + n_tiles * -(-problem.head_dim_v // 16)
    products += problem.head_dim // 8 * (schedule.block_n // 16)
    if isinstance(schedule, BackwardSchedule):
        products += (problem.head_dim + problem.head_dim_v) // 8 * (schedule.block_n // 16)
    return m_tiles * products // schedule.num_warps


_FORWARD_COSTS: dict[str, dict[str, float]] = {
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
COSTS: dict[str, dict[str, dict[str, float]]] = {
    "flash_fwd": _FORWARD_COSTS,
    "flash_bwd": {
        "cpu_seconds": {
            **{"kernel": 0.70, "mma": 0.0016, "scores": 0.0024, "local": 0.088},
            **{"softcap": 0.0056, "alibi": 0.0035, "bias": 0.0043, "dropout": 0.0043},
        },
        "peak_mib": {"kernel": 95},
        "size_kib": {
            **{"kernel": 112, "mma": 0.75, "scores": 0.31, "local": 3.8},
            **{"softcap": 1.83, "alibi": 0.45, "bias": 0.08, "dropout": 1.01},
        },
    },
    "flash_bwd_dq": {
        "cpu_seconds": {
            **{"kernel": 0.61, "mma": 0.0015, "scores": -0.002, "local": 0.038},
            **{"softcap": 0.0032, "alibi": 0.0045, "bias": 0.0027, "dropout": 0.0018},
        },
        "peak_mib": {"kernel": 93},
        "size_kib": {
            **{"kernel": 72, "mma": 0.83, "scores": -0.34, "local": 3.7},
            **{"softcap": 1.9, "alibi": 0.66, "bias": 0.55, "dropout": 0.79},
        },
    },
    "flash_bwd_delta": {"cpu_seconds": {"kernel": 0.38}, "peak_mib": {"kernel": 91}, "size_kib": {"kernel": 14}},
    "flash_bwd_convert": {"cpu_seconds": {"kernel": 0.39}, "peak_mib": {"kernel": 91}, "size_kib": {"kernel": 10.3}},
}
"""What each term costs, by operation. Fitted for nvcc 13.0 (`python benchmarks/build_cost.py OUT...` compares and fits
again): flash_fwd to 248 kernels for sm80 with and without features, 6 % mean error in CPU seconds, 1 % in memory, 4 %
in size; the others to 100 kernels for sm80 and sm86, at most 7 %, 2 % and 4 %, none over 1.7 CPU seconds."""


def predict_cost(variant: Variant) -> Cost:
    """Model the cost of compiling a variant from what its body holds, which is emitted twice."""
    terms = cost_terms(variant)
    return Cost(
        **{
            quantity: sum(terms[name] * cost for name, cost in costs.items())
            for quantity, costs in COSTS[variant.operation].items()
        }
    )


def make_plan(profile: Profile, sms: list[int]) -> BuildPlan:
    """Plan a build of a profile for some architectures.

    Raises:
        SpecError: if an architecture is unknown.
    """
    kernels: list[PlannedKernel] = []
    refusals: list[Refusal] = []
    planned: set[tuple[str, str]] = set()
    for sm in dict.fromkeys(sms):
        device = reference_device(sm)
        for problem in profile.problems:
            operations = [OPERATION, *(BACKWARD_OPERATIONS if problem in profile.trained else ())]
            for rung in [rung for operation in operations for rung in ladder(sm, problem, operation)]:
                if (rung.variant.name, str(rung.when)) in planned:
                    continue  # of rows, which problems share
                planned.add((rung.variant.name, str(rung.when)))
                against = reasons_against(rung.variant, device)
                refusals += [Refusal(variant=rung.variant, constraint=rule, reason=why) for rule, why in against]
                if not against:
                    cost = predict_cost(rung.variant)
                    kernels.append(PlannedKernel(variant=rung.variant, when=rung.when, cost=cost))
    return BuildPlan(
        profile=profile.name, sms=tuple(dict.fromkeys(sms)), kernels=tuple(kernels), refusals=tuple(refusals)
    )
