"""The search strategies by name, and which suits a pool. Imports nothing heavy: commands and plain studies use it."""

from __future__ import annotations

import importlib.util
from typing import Literal, get_args

from kernelwright.tuner.errors import UsageError

StrategyName = Literal["exhaustive", "gp", "forest", "tpe", "random"]
SMALL_POOL = 150
"""Points that are all tried, the most promising first: guessing saves too little."""

STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)


def parse_strategy(text: str) -> StrategyName:
    """Return the strategy of that name, if what it needs is installed.

    Raises:
        UsageError: if there is none, or its package is not installed.
    """
    for name in STRATEGIES:
        if name == text:
            if name == "forest" and not has_forest():
                raise UsageError(
                    "--strategy forest needs scikit-learn: pip install 'kernelwright[search]', or choose gp"
                )
            return name
    raise UsageError(f"--strategy {text!r}: unknown; allowed: {', '.join(STRATEGIES)}")


def default_strategy(size: int, trials: int) -> StrategyName:
    """Return what suits a pool: whole if it is small or the trials suffice, else the Gaussian process."""
    if size <= max(SMALL_POOL, trials):
        return "exhaustive"
    return "gp"


def has_forest() -> bool:
    return importlib.util.find_spec("sklearn") is not None
