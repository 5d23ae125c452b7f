"""The families of kernels that a run knows. A new one is a line here and a module with its three functions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family.

    Args:
        name: the operation in tables.
        repeatable: outputs that are the same to the bit in every run.
        module: has `check`, `repeat` and `launch`, which run isolated; see `forward.py`.
    """

    name: str
    repeatable: tuple[str, ...]
    module: str


FAMILIES = (Family(name="flash_fwd", repeatable=("out", "lse"), module="device_steps.forward"),)


def family_of(operation: str) -> Family | None:
    """Return the family of an operation; None where nobody has said how it is checked."""
    return next((one for one in FAMILIES if one.name == operation), None)
