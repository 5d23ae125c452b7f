"""The hand ladder: the schedule a problem gets before anything has been tuned.

Start tiles after FlashAttention-2's (flash_fwd_launch_template.h), moved to where nvcc 13.0 does not spill. A list a
problem: rows with bounds on run-time sizes come before the row without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernelwright.gen.errors import SpecError
from kernelwright.gen.spec import (
    MAX_SLICE,
    OPERATION,
    OPERATIONS,
    BackwardSchedule,
    ConvertSchedule,
    DeltaSchedule,
    ForwardProblem,
    ForwardSchedule,
    QueryGradientSchedule,
    Schedule,
    Variant,
)

Bounds = dict[str, tuple[int | None, int | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A variant and the run-time sizes it is for: inclusive bounds by size name, None for no bound."""

    variant: Variant
    when: Bounds


def _schedule(block_m: int, block_n: int, num_warps: int, num_stages: int, num_slices: int = 1) -> ForwardSchedule:
    return ForwardSchedule(
        block_m=block_m,
        block_n=block_n,
        num_warps=num_warps,
        num_stages=num_stages,
        q_in_regs=False,
        num_slices=num_slices,
    )


def default_schedule(problem: ForwardProblem) -> ForwardSchedule:
    """Return the schedule that stands for a problem on sm80, sm86 and sm89 until a tuned one does.

    Each warp owns 32 query rows as long as the registers allow it, because every warp reads the whole K and V tile
    from shared memory. Features that hold addresses or counters for each row take registers, so they get a smaller
    tile. Tiles of a block-sparse kernel divide blocks of 128. All fit the 101,376 bytes of sm86 and sm89.
    """
    num_row_features = sum((problem.has_alibi, problem.has_bias, problem.has_dropout))
    is_crowded = num_row_features > 0
    is_full = problem.is_local and (num_row_features > 1 or problem.has_bias)
    is_fullest = is_full and num_row_features == 3
    num_slices = _num_slices(problem.head_dim_v, is_full=is_full, is_fullest=is_fullest)
    width = max(problem.head_dim, problem.head_dim_v // num_slices)  # the second is held in registers
    if width <= 64:
        return _schedule(128, 32 if is_crowded else 64, 4, 2)
    if width <= 96:
        return _schedule(64, 64, 4, 1) if is_crowded else _schedule(128, 32 if problem.is_block_sparse else 48, 4, 1)
    if width <= 128:
        return _schedule(64, 64, 4, 1, num_slices) if is_crowded else _schedule(128, 32, 4, 1)
    if width <= 192:
        is_tight = problem.is_local or problem.is_block_sparse
        block_n = 16 if is_fullest else 64 if not is_crowded else 32 if is_tight else 48
        return _schedule(128, block_n, 8, 1, num_slices)
    if width <= 256:
        block_n = 16 if is_full else 32 if is_crowded or problem.is_local else 64
        return _schedule(64, block_n, 4, 1, num_slices)
    return _schedule(64, 32 if width <= 384 else 16, 4, 1, num_slices)


def _num_slices(head_dim_v: int, *, is_full: bool, is_fullest: bool) -> int:
    """Thread blocks that share a tile's columns: as few as their registers allow, in multiples of 8 columns each."""
    if head_dim_v <= MAX_SLICE:
        return 2 if is_fullest and head_dim_v > 192 and head_dim_v % 16 == 0 else 1
    return 4 if is_full and head_dim_v % 32 == 0 else 2


def ladder(sm: int, problem: ForwardProblem, operation: str = OPERATION) -> list[Rung]:
    """Return the default rungs of an operation for a problem on an architecture; the last has no bounds.

    Kernels of single rows depend on the dtype and one head dimension of the problem alone, so problems share them.

    Raises:
        SpecError: if there is no such operation, or none of its kernels computes the problem.
    """
    if operation not in OPERATIONS:
        raise SpecError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
    of_rows = {"flash_bwd_delta": problem.head_dim_v, "flash_bwd_convert": problem.head_dim}
    if operation in of_rows:
        problem = ForwardProblem(dtype=problem.dtype, head_dim=of_rows[operation])
    schedules: dict[str, Callable[[], Schedule]] = {
        OPERATION: lambda: default_schedule(problem),
        "flash_bwd": lambda: default_backward_schedule(sm, problem),
        "flash_bwd_dq": lambda: default_query_gradient_schedule(problem),
        "flash_bwd_delta": lambda: DeltaSchedule(block_m=64, num_warps=4),
        "flash_bwd_convert": lambda: ConvertSchedule(block_m=64, num_warps=4),
    }
    return [Rung(variant=Variant(sm=sm, problem=problem, schedule=schedules[operation]()), when={})]


def default_backward_schedule(sm: int, problem: ForwardProblem) -> BackwardSchedule:
    """Return the schedule of dK and dV that stands for a problem until a tuned one does.

    Start tiles after FlashAttention-2's (flash_bwd_launch_template.h), moved to where nvcc 13.0 does not spill: as many
    keys as dK and dV leave registers for, since each block of keys adds to all of dQ. On sm86 and sm89, where they fit
    101,376 bytes, V in registers makes room for a second stage or for more keys; what acts on the scores takes the
    registers for that.
    """
    width, is_crowded, is_bare = max(problem.head_dim, problem.head_dim_v), _is_crowded(problem), _is_bare(problem)
    is_small = sm != 80  # in shared memory
    if width <= 64:
        if is_small and is_bare:
            return _backward(64, 128, 8, 2, (2, 4, 4), v_in_regs=True)
        return _backward(64, 64 if is_crowded else 128, 8, 2, (4, 4, 4))
    if width <= 96:
        if is_small and is_bare:
            return _backward(64, 128, 8, 1, (2, 4, 4), v_in_regs=True)
        return _backward(64, 64, 8, 2, (4, 2, 4))
    if width <= 128:
        if is_bare and not is_small and width > 112:  # at 112 it would spill 4 bytes
            return _backward(64, 128, 8, 1, (4, 4, 4))
        is_held = is_small and set(problem.features) <= {"causal", "local", "varlen", "sparse"}
        is_deep = is_held or not (is_small or is_crowded)
        return _backward(64, 64, 8, 2 if is_deep else 1, (4, 2, 2), v_in_regs=is_held)
    if not is_small and not is_crowded:
        return _backward(64, 64, 8, 1, (4, 4, 4)) if width <= 192 else _backward(32, 64, 8, 2, (2, 4, 2))
    if width <= 192:
        is_deep = is_small and is_bare
        return _backward(32, 64, 8, 2 if is_deep else 1, (2, 4, 2), v_in_regs=is_deep)
    if is_bare and width > 248:  # of narrower ones the last warps' shares of the columns differ, which takes registers
        return _backward(32, 64, 8, 1, (2, 4, 2), v_in_regs=True)
    return _backward(64, 32, 8, 1, (4, 2, 4), v_in_regs=is_small)


def _is_bare(problem: ForwardProblem) -> bool:
    """Whether nothing but the ends of sequences and the diagonal acts on the scores."""
    return set(problem.features) <= {"causal", "varlen"}


def _is_crowded(problem: ForwardProblem) -> bool:
    """Whether what acts on the scores takes more registers than the usual tile of a backward kernel leaves."""
    return problem.has_bias or sum((problem.has_softcap, problem.has_alibi, problem.has_dropout)) > 1


def _backward(
    block_m: int,
    block_n: int,
    num_warps: int,
    num_stages: int,
    warps: tuple[int, int, int],
    *,
    v_in_regs: bool = False,
) -> BackwardSchedule:
    return BackwardSchedule(
        block_m=block_m,
        block_n=block_n,
        num_warps=num_warps,
        num_stages=num_stages,
        warps_scores=warps[0],
        warps_kv=warps[1],
        warps_q=warps[2],
        v_in_regs=v_in_regs,
    )


def default_query_gradient_schedule(problem: ForwardProblem) -> QueryGradientSchedule:
    """Return the schedule of dQ by itself that stands for a problem on sm80, sm86 and sm89."""
    width = max(problem.head_dim, problem.head_dim_v)
    if _is_crowded(problem) or ((problem.has_dropout or problem.has_alibi) and width > 192):
        block_n, num_stages = (32, 2) if width <= 128 else (16, 1)
    else:
        block_n, num_stages = (64, 2) if width <= 64 else (64, 1) if width <= 128 else (32, 1)
    return QueryGradientSchedule(block_m=64, block_n=block_n, num_warps=4, num_stages=num_stages)
