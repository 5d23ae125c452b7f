"""The families of kernels that a run knows. A new one is a line here and a module with its three functions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family.

    Args:
        name: the operation in tables.
        repeatable: outputs that are the same to the bit in every run.
        module: has `check`, `repeat` and `launch`, which run isolated; see `one_kernel.py`.
    """

    name: str
    repeatable: tuple[str, ...]
    module: str


_KERNELS = "device_steps.one_kernel"
FAMILIES = (
    Family(name="flash_fwd", repeatable=("out", "lse"), module=_KERNELS),
    Family(name="flash_bwd", repeatable=("dk", "dv"), module=_KERNELS),  # dq is added in no fixed order
    Family(name="flash_bwd_dq", repeatable=("dq",), module=_KERNELS),
    Family(name="flash_bwd_delta", repeatable=("delta",), module=_KERNELS),
    Family(name="flash_bwd_convert", repeatable=("dq",), module=_KERNELS),
)


def family_of(operation: str) -> Family | None:
    """Return the family of an operation; None where nobody has said how it is checked."""
    return next((one for one in FAMILIES if one.name == operation), None)
