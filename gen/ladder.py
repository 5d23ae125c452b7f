"""The hand ladder: the schedule a problem gets before anything has been tuned.

Start tiles after FlashAttention-2's (flash_fwd_launch_template.h), moved to where nvcc 13.0 does not spill. A list a
problem: rows with bounds on run-time sizes come before the row without.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

Bounds = dict[str, tuple[int | None, int | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A variant and the run-time sizes it is for: inclusive bounds by size name, None for no bound."""

    variant: Variant
    when: Bounds


def _schedule(block_m: int, block_n: int, num_warps: int, num_stages: int) -> ForwardSchedule:
    return ForwardSchedule(
        block_m=block_m, block_n=block_n, num_warps=num_warps, num_stages=num_stages, q_in_regs=False
    )


def default_schedule(problem: ForwardProblem) -> ForwardSchedule:
    """Return the schedule that stands for a problem on sm80, sm86 and sm89 until a tuned one does.

    Each warp owns 32 query rows as long as the registers allow it, because every warp reads the whole K and V tile
    from shared memory. All fit the 101,376 bytes of sm86 and sm89.
    """
    head_dim = problem.head_dim
    if head_dim <= 64:
        return _schedule(128, 64, 4, 2)
    if head_dim <= 96:
        return _schedule(128, 48, 4, 1)
    if head_dim <= 128:
        return _schedule(128, 32, 4, 1)
    if head_dim <= 192:
        return _schedule(128, 64, 8, 1)
    return _schedule(64, 64, 4, 1)


def ladder(sm: int, problem: ForwardProblem) -> list[Rung]:
    """Return the default rungs for a problem on an architecture; the last has no bounds."""
    return [Rung(variant=Variant(sm=sm, problem=problem, schedule=default_schedule(problem)), when={})]
