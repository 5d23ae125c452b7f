"""Legality on one GPU: each rule is a function that returns a reason, or None when the variant is legal.

Planner, tuner and table loader call the same functions. What no GPU allows is refused when a problem or schedule
is constructed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kernelwright.gen.devices import Device
from kernelwright.gen.errors import InfeasibleSpec, SpecError
from kernelwright.gen.spec import Variant

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
    """The Q tile and every stage of K and V share one block's shared memory."""
    need, have = variant.smem_bytes, device.max_smem_bytes
    if need > have:
        return (
            f"needs {need:,} bytes of shared memory per block; sm{device.sm} has {have:,}. "
            "Lower num_stages, block_m or block_n, or set q_in_regs"
        )
    return None


def least_registers(variant: Variant) -> int:
    """Return the registers of a thread that a variant cannot do without: a lower bound of what ptxas takes."""
    return sum(_tile_registers(variant)) + _OTHER_REGISTERS


def _tile_registers(variant: Variant) -> tuple[int, int, int]:
    """Return the registers of a thread that scores, output and Q take."""
    schedule = variant.schedule
    m_tiles = schedule.block_m // (16 * schedule.num_warps)
    q = m_tiles * variant.problem.head_dim // 4 if schedule.q_in_regs else 0
    return m_tiles * schedule.block_n // 2, m_tiles * variant.slice_columns // 2, q


def registers_fit(variant: Variant, device: Device) -> str | None:
    """Accumulators of scores and output, and Q where it stays, leave room for the rest of the kernel.

    A lower bound: what passes may still spill, which the compiler's report shows.
    """
    schedule = variant.schedule
    need, (scores, output, q) = least_registers(variant), _tile_registers(variant)
    have = min(MAX_REGISTERS, device.regs_per_sm // schedule.threads)
    if need > have:
        return (
            f"needs at least {need} registers a thread (scores {scores}, output {output}, Q {q}); "
            f"{have} are to be had. Raise num_warps or num_slices, or lower block_m or block_n"
        )
    return None


def stages_are_used(variant: Variant, device: Device) -> str | None:
    """Copies land within the computation of a few tiles; a longer ring holds tiles that wait."""
    if variant.schedule.num_stages > MAX_USEFUL_STAGES:
        return f"num_stages {variant.schedule.num_stages}: more than {MAX_USEFUL_STAGES} only cost shared memory"
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
