"""The steps, in their order: what tells most first, what takes all the time that is left last."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import cast

from device_steps.base import Step


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A step's place in a run.

    Args:
        name: its module in this package.
        share: of the run's time; what one leaves over, the next may use. The last step is given all that is left.
        needs_module: whether it runs kernels of ours.
        may_exceed: the share is no limit, since it is short and others need what it finds.
    """

    name: str
    share: float
    needs_module: bool = True
    may_exceed: bool = False


STEPS = (
    Entry(name="environment", share=0.05, needs_module=False, may_exceed=True),
    Entry(name="correctness", share=0.30),
    Entry(name="sanitizer", share=0.10),
    Entry(name="fidelity", share=0.10),
    Entry(name="speed", share=0.30),
    Entry(name="blocks", share=0.05),
    Entry(name="tune", share=0.10, needs_module=False),
)


def find_step(name: str) -> Step | None:
    """Return a step's module; None where this checkout has none."""
    if importlib.util.find_spec(f"device_steps.{name}") is None:
        return None
    return cast("Step", importlib.import_module(f"device_steps.{name}"))  # a module is no declared type
