"""Legality on one GPU: each rule is a function that returns a reason, or None when the variant is legal.

Planner, tuner and table loader call the same functions. What no GPU allows is refused when a problem or schedule
is constructed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kernelwright.gen.devices import Device
from kernelwright.gen.errors import InfeasibleSpec, SpecError
from kernelwright.gen.spec import BackwardSchedule, ForwardSchedule, QueryGradientSchedule, Variant

Constraint = Callable[[Variant, Device], str | None]

MAX_REGISTERS = 255  # per thread, CUDA C++ Programming Guide, "Compute Capabilities"
_OTHER_REGISTERS = 24  # addresses, row statistics, one pair of operand fragments; below every compiled variant
MAX_USEFUL_STAGES = 4  # one tile in use and three in flight: our choice, no limit of the hardware


def arch_matches(variant: Variant, device: Device) -> str | None:
    """A variant is made for the architecture of the device it is judged on."""
    if variant.sm != device.sm:
        return f"is for sm{variant.sm}, {device.name} is sm{device.sm}"
    return None


def smem_fits(variant: Variant, device: Device) -> str | None:
    """The tiles that a kernel keeps (forward: Q and every stage of K and V) share one block's shared memory."""
    need, have = variant.smem_bytes, device.max_smem_bytes
    if need > have:
        in_regs: dict[type, str] = {ForwardSchedule: ", or set q_in_regs", BackwardSchedule: ", or set v_in_regs"}
        return (
            f"needs {need:,} bytes of shared memory per block; sm{device.sm} has {have:,}. "
            f"Lower num_stages, block_m or block_n{in_regs.get(type(variant.schedule), '')}"
        )
    return None


def least_registers(variant: Variant) -> int:
    """Return the registers of a thread that a variant cannot do without: a lower bound of what ptxas takes."""
    return sum(_held_registers(variant).values()) + _OTHER_REGISTERS


def registers_fit(variant: Variant, device: Device) -> str | None:
    """What a thread accumulates, and Q where it stays, leaves room for the rest of the kernel.

    A lower bound: what passes may still spill, which the compiler's report shows.
    """
    held = _held_registers(variant)
    need = least_registers(variant)
    have = min(MAX_REGISTERS, device.regs_per_sm // variant.schedule.threads)
    if need > have:
        parts = ", ".join(f"{name} {count}" for name, count in held.items())
        slices = " or num_slices" if isinstance(variant.schedule, ForwardSchedule) else ""
        return (
            f"needs at least {need} registers a thread ({parts}); {have} are to be had. "
            f"Raise num_warps{slices}, or lower block_m or block_n"
        )
    return None


def _held_registers(variant: Variant) -> dict[str, int]:
    """Return what a thread holds at the fullest point of the main loop, in registers."""
    problem = variant.problem
    match variant.schedule:
        case ForwardSchedule() as schedule:
            m_tiles = schedule.block_m // (16 * schedule.num_warps)
            scores, output = m_tiles * schedule.block_n // 2, m_tiles * variant.slice_columns // 2
            q = m_tiles * problem.head_dim // 4 if schedule.q_in_regs else 0
            return {"scores": scores, "output": output, "Q": q}
        case BackwardSchedule() as schedule:
            scores = schedule.block_m * schedule.block_n // schedule.threads
            kv_rows, q_rows = schedule.block_n // schedule.warps_kv // 16, schedule.block_m // schedule.warps_q // 16
            kv_parts, q_parts = schedule.num_warps // schedule.warps_kv, schedule.num_warps // schedule.warps_q
            dq = 4 * q_rows * _column_tiles(problem.head_dim, q_parts)
            return {
                "dK": 4 * kv_rows * _column_tiles(problem.head_dim, kv_parts),
                "dV": 4 * kv_rows * _column_tiles(problem.head_dim_v, kv_parts),
                # dQ of a tile is made when P and dS have gone to shared memory.
                "scores and dP, or dQ": max((3 if problem.has_softcap else 2) * scores, dq),
                # Of each warp 8 columns of a row of keys lie in a register of four lanes.
                "V": schedule.block_n // (schedule.num_warps // schedule.warps_scores) * problem.head_dim_v // 64
                if schedule.v_in_regs
                else 0,
            }
        case QueryGradientSchedule() as schedule:
            scores = schedule.block_m * schedule.block_n // schedule.threads
            dq = schedule.block_m * problem.head_dim // schedule.threads
            return {"dQ": dq, "scores and dP": (3 if problem.has_softcap else 2) * scores}
        case _:
            return {}


def _column_tiles(columns: int, warps: int) -> int:
    """Return the tiles of 8 columns of each of some warps: pairs, of which the last warp may have fewer."""
    return columns // 8 if warps == 1 else 2 * -(-columns // (16 * warps))


def stages_are_used(variant: Variant, device: Device) -> str | None:
    """Copies land within the computation of a few tiles; a longer ring holds tiles that wait."""
    num_stages = getattr(variant.schedule, "num_stages", 1)
    if num_stages > MAX_USEFUL_STAGES:
        return f"num_stages {num_stages}: more than {MAX_USEFUL_STAGES} only cost shared memory"
    return None


CONSTRAINTS: dict[str, Constraint] = {
    rule.__name__: rule for rule in (arch_matches, smem_fits, registers_fit, stages_are_used)
}


def constraint(name: str) -> Constraint:
    """Return a rule by name.

    Raises:
        SpecError: if there is none of that name.
    """
    if name not in CONSTRAINTS:
        raise SpecError(f"constraint {name!r}: unknown; known: {', '.join(CONSTRAINTS)}")
    return CONSTRAINTS[name]


def reasons_against(variant: Variant, device: Device, rules: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Return (rule, reason) for every rule that refuses the variant on the device; none means legal."""
    names = list(CONSTRAINTS) if rules is None else list(rules)
    found = [(name, constraint(name)(variant, device)) for name in names]
    return [(name, reason) for name, reason in found if reason is not None]


def require_legal(variant: Variant, device: Device) -> None:
    """Refuse a variant that its device cannot run.

    Raises:
        InfeasibleSpec: with the first reason.
    """
    for _, reason in reasons_against(variant, device):
        raise InfeasibleSpec(f"{variant.name} {reason}.")
