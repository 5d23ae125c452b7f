"""What an iteration of a kernel's main loop executes, by resource: of each operation that is tuned.

Forward and `flash_bwd_dq` take a tile of keys in each iteration, `flash_bwd` a tile of queries. Counts of mma and of
the special-function unit are exact; the others follow the templates, rounded to what a compiler makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelwright.gen.spec import BackwardSchedule, ForwardSchedule, QueryGradientSchedule, Variant

PRODUCTS = {"flash_fwd": (1, 1), "flash_bwd": (3, 2), "flash_bwd_dq": (2, 1)}
"""Products of an operation that are as deep or wide as head_dim, and as head_dim_v."""

SECTOR_BYTES = 32
_ROWS_OF_A_FRAGMENT = 8  # that a warp's atomics touch, a sector of each
_DQ_TILES = 40  # of 4 registers each, that dQ may take beside dK, dV and V (templates/flash_bwd_mma.cu.jinja)

# What features add to each score (templates/lib/attention.cuh.jinja): FMAs, operations at half rate, loads.
_SOFTCAP_MUFU = 2  # exp2 and a reciprocal
_SOFTCAP_FP32 = 4.0  # the argument's scaling, + 1, 1 - 2 x, times the cap
_SOFTCAP_SLOPE_FP32 = 6.0  # of a gradient: tanh again, 1 - tanh^2, times that
_ALIBI_FP32, _ALIBI_HALF = 1.0, 3.0  # FMA; difference, absolute value, conversion
_BIAS_FP32, _BIAS_HALF = 1.0, 3.0  # FMA; conversion, bound of the column, address
_PHILOX_HALF = 42.0  # 7 rounds of 2 wide multiplications, 2 three-way xors and 2 additions to the key
_PHILOX_SCORES = 16  # that the bytes of one call decide; 8 of them are used where a tile begins in the middle of a cell
_DROPOUT_HALF = 3.0  # a byte taken out, a comparison, a selection


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """One iteration of one thread block.

    Attributes:
        mma_flops, mufu: exactly, as the emulator counts.
        fp32, half_rate: operations of lanes, at full rate, and at the rate of min, max, conversions and integers.
        read_bytes: of shared memory by ldmatrix.
        stored_bytes: to shared memory by its threads, for other warps to read.
        copied_elements: of 16 bits, into shared memory by asynchronous copies.
        bias_loads: of warps.
        atomics: of warps, each on a sector of 8 rows.
        barriers: phases that a warp waits for the others in.
        hidden: iterations that the next tile's copies have time for.
    """

    mma_flops: int
    mufu: int
    fp32: float
    half_rate: float
    read_bytes: float
    stored_bytes: int
    copied_elements: int
    bias_loads: float
    atomics: float
    barriers: int
    hidden: float

    @property
    def atomic_bytes(self) -> float:
        """Of sectors that atomics touch."""
        return self.atomics * _ROWS_OF_A_FRAGMENT * SECTOR_BYTES


def step_work(variant: Variant) -> StepWork:
    """Return what an iteration executes.

    Raises:
        ValueError: if the operation has no main loop.
    """
    match variant.schedule:
        case ForwardSchedule() as schedule:
            return _forward(variant, schedule)
        case BackwardSchedule() as schedule:
            return _backward(variant, schedule)
        case QueryGradientSchedule() as schedule:
            return _query_gradient(variant, schedule)
        case _:
            raise ValueError(f"{variant.operation} has no main loop to model")


def _forward(variant: Variant, schedule: ForwardSchedule) -> StepWork:
    problem, columns = variant.problem, variant.slice_columns
    block_m, block_n = schedule.block_m, schedule.block_n
    scores = block_m * block_n
    kv_elements = block_n * (problem.head_dim + columns)
    q_elements = 0 if schedule.q_in_regs else block_m * problem.head_dim
    return StepWork(
        mma_flops=2 * scores * (problem.head_dim + columns),
        # The rescaling factor of a row is computed by each of its 4 lanes.
        mufu=scores * (1 + _SOFTCAP_MUFU * problem.has_softcap) + 4 * block_m,
        # Scale and sum of scores, rescaling of O; maximum, conversion to P, address arithmetic.
        fp32=2.0 * scores + block_m * columns + 8 * block_m + scores * _feature_fp32(variant),
        half_rate=1.75 * scores + 4 * block_m + scores * _feature_half(variant, draws=1),
        read_bytes=2 * (schedule.num_warps * kv_elements + q_elements),
        stored_bytes=0,
        copied_elements=kv_elements,
        bias_loads=scores / 32 if problem.has_bias else 0.0,
        atomics=0.0,
        barriers=2 if schedule.num_stages == 1 else 1,
        # A single stage loads K under P V and V under Q K^T, half a step each; a ring of s under s - 1 steps.
        hidden=schedule.num_stages - 1 if schedule.num_stages > 1 else 0.5,
    )


def _backward(variant: Variant, schedule: BackwardSchedule) -> StepWork:
    """S and dP, P and dS through shared memory to dV, dK and dQ, dQ by atomics."""
    problem = variant.problem
    block_m, block_n = schedule.block_m, schedule.block_n
    width = problem.head_dim + problem.head_dim_v
    scores = block_m * block_n
    columns, parts, q_parts = (
        schedule.num_warps // along for along in (schedule.warps_scores, schedule.warps_kv, schedule.warps_q)
    )
    of_keys = problem.head_dim if schedule.v_in_regs else width
    read_elements = (
        columns * block_m * width
        + schedule.warps_scores * block_n * of_keys  # Q K^T and dO V^T
        + 2 * parts * scores  # P and dS, by keys
        + schedule.warps_kv * block_m * width  # dO and Q
        + q_parts * dq_passes(variant, schedule) * scores  # dS, by queries
        + schedule.warps_q * block_n * problem.head_dim
    )
    dq = block_m * problem.head_dim
    return StepWork(
        mma_flops=2 * scores * (3 * problem.head_dim + 2 * problem.head_dim_v),
        mufu=_gradient_mufu(variant, scores),
        fp32=_gradient_fp32(variant, scores) + dq,  # dQ is scaled
        half_rate=_gradient_half(variant, scores, roundings=2),
        read_bytes=2.0 * read_elements,
        stored_bytes=2 * 2 * scores,
        copied_elements=block_m * width,
        bias_loads=scores / 32 if problem.has_bias else 0.0,
        atomics=dq / 32,
        barriers=3 if schedule.num_stages == 1 else 2,
        hidden=schedule.num_stages - 1,  # one stage is loaded when nobody reads it
    )


def dq_passes(variant: Variant, schedule: BackwardSchedule) -> int:
    """Return in how many passes dQ of a tile is made, as the template decides."""
    problem = variant.problem

    def tiles(columns: int, warps: int) -> int:
        return columns // 8 if warps == 1 else -(-columns // (16 * warps)) * 2

    kv_parts = schedule.num_warps // schedule.warps_kv
    held = schedule.block_n // schedule.warps_kv // 16
    held *= tiles(problem.head_dim, kv_parts) + tiles(problem.head_dim_v, kv_parts)
    if schedule.v_in_regs:
        score_columns = schedule.num_warps // schedule.warps_scores
        held += schedule.block_n // score_columns // 8 * problem.head_dim_v // 32
    q_tiles = schedule.block_m // schedule.warps_q // 16
    most = max(2, (_DQ_TILES - held) // q_tiles // 2 * 2)
    return -(-tiles(problem.head_dim, schedule.num_warps // schedule.warps_q) // most)


def _query_gradient(variant: Variant, schedule: QueryGradientSchedule) -> StepWork:
    """S and dP of a warp's own rows, dS in registers to dQ."""
    problem = variant.problem
    block_m, block_n = schedule.block_m, schedule.block_n
    width = problem.head_dim + problem.head_dim_v
    scores = block_m * block_n
    return StepWork(
        mma_flops=2 * scores * (2 * problem.head_dim + problem.head_dim_v),
        mufu=_gradient_mufu(variant, scores),
        fp32=_gradient_fp32(variant, scores),
        half_rate=_gradient_half(variant, scores, roundings=1),
        read_bytes=2.0 * (block_m * width + schedule.num_warps * block_n * (width + problem.head_dim)),
        stored_bytes=0,
        copied_elements=block_n * width,
        bias_loads=scores / 32 if problem.has_bias else 0.0,
        atomics=0.0,
        barriers=2 if schedule.num_stages == 1 else 1,
        hidden=schedule.num_stages - 1,
    )


def _gradient_mufu(variant: Variant, scores: int) -> int:
    """exp2 of each score; with a cap its tanh, for the score and for its slope."""
    return scores * (1 + 2 * _SOFTCAP_MUFU * variant.problem.has_softcap)


def _gradient_fp32(variant: Variant, scores: int) -> float:
    """The exponent, P (dP - delta), and what features add."""
    slope = _SOFTCAP_SLOPE_FP32 * variant.problem.has_softcap
    return scores * (3.0 + slope + _feature_fp32(variant))


def _gradient_half(variant: Variant, scores: int, *, roundings: int) -> float:
    """Conversions of P and dS in pairs, address arithmetic, and what features add: dropout takes from both."""
    return scores * (0.25 + 0.5 * roundings + _feature_half(variant, draws=2))


def _feature_fp32(variant: Variant) -> float:
    """Return the full-rate operations that features add to a score."""
    problem = variant.problem
    return (
        problem.changes_scores  # scaled before anything is added
        + _SOFTCAP_FP32 * problem.has_softcap
        + _ALIBI_FP32 * problem.has_alibi
        + _BIAS_FP32 * problem.has_bias
    )


def _feature_half(variant: Variant, *, draws: int) -> float:
    """Return the half-rate operations that features add to a score; random bytes are made for each of `draws`."""
    problem, schedule = variant.problem, variant.schedule
    columns = getattr(schedule, "block_n", 0)  # that a warp has in a row
    if isinstance(schedule, BackwardSchedule):
        columns //= schedule.num_warps // schedule.warps_scores
    drawn = _PHILOX_SCORES if columns % 32 == 0 else _PHILOX_SCORES // 2
    dropout = draws * (_PHILOX_HALF / drawn + _DROPOUT_HALF) if problem.has_dropout else 0.0
    return _ALIBI_HALF * problem.has_alibi + _BIAS_HALF * problem.has_bias + dropout
