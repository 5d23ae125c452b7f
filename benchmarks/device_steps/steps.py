"""The steps, in their order: what tells most first, what takes all the time that is left last."""

from __future__ import annotations

import importlib
import importlib.util
from typing import cast

from device_steps.base import Step

STEPS = ("environment", "correctness", "sanitizer", "fidelity", "speed", "blocks", "tune")


def find_step(name: str) -> Step | None:
    """Return a step's module; None where this checkout has none."""
    if importlib.util.find_spec(f"device_steps.{name}") is None:
        return None
    return cast("Step", importlib.import_module(f"device_steps.{name}"))  # a module is no declared type
