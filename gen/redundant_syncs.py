"""Synchronisations that a kernel holds and its race check can do without, with the reason for each.

`gen verify --mutate` takes every synchronisation out in turn and fails when a missing wait or barrier goes unnoticed,
unless it is listed here. An entry is an argument that the kernel stays right without it, not a licence to be blind.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelwright.gen.spec import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class RedundantSync:
    """One synchronisation: the `index`-th of its kind in the PTX, from the end if negative."""

    kind: str  # as in emulator/mutate.py
    index: int
    reason: str


_WHOLE_WARP = (
    "ldmatrix is one instruction of the whole warp, whose reads are done when it is over. "
    "The PTX memory model does not promise that, so it stays"
)


def redundant_syncs(variant: Variant) -> tuple[RedundantSync, ...]:
    """Return what is redundant in the kernel of a variant (templates/flash_fwd_mma.cu.jinja)."""
    schedule = variant.schedule
    if not schedule.q_in_regs:
        orders = f"it orders a warp's last ldmatrix of its Q rows before its stores of O to them; {_WHOLE_WARP}"
        return (RedundantSync(kind="warp_sync", index=-2, reason=orders),)
    if schedule.num_warps == 1:
        to_copies = (
            f"it orders the only warp's ldmatrix of Q before its copies of K and V to the same bytes; {_WHOLE_WARP}"
        )
        to_stores = (
            f"it orders the only warp's last ldmatrix of V before its stores of O to the same bytes; {_WHOLE_WARP}"
        )
        return (
            RedundantSync(kind="barrier", index=1, reason=to_copies),
            RedundantSync(kind="barrier", index=-1, reason=to_stores),
        )
    return ()
