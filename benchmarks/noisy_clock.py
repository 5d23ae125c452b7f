"""A clock that lies as clocks do, over a recorded space: for races replayed without a GPU."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from kernelwright.tuner.racing import MeasureError

VARIATION = 0.04
FAST_FIRST = (0.04, 0.12)
DRIFT = 0.05
HOLDS = 0.5


@dataclass(slots=True)
class NoisyClock:
    """Times candidates, by index, of which the true figures are known.

    Each sample varies by 4 % (normal), the first of each burst is 4 to 12 % too fast, and the clock drifts slowly by
    5 % either way, once over `period` samples. After the first sample the boost that made it fast holds for one more
    with probability `holds`, and so on, as where a GPU's boost clock decays over a burst. What was spent is counted.
    """

    figures: Sequence[float]
    seed: int
    period: float
    holds: float = HOLDS
    num_samples: int = 0
    spent: float = 0.0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def measure(self, candidate: int, repeats: int) -> list[float]:
        """Time one candidate some times in a row.

        Raises:
            MeasureError: if it was recorded as a failure.
        """
        figure = self.figures[candidate]
        if not math.isfinite(figure):
            self.num_samples += 1
            raise MeasureError("recorded as a failure")
        samples = []
        boost = 1 - self._random.uniform(*FAST_FIRST)
        for number in range(repeats):
            value = figure * (1 + DRIFT * math.sin(2 * math.pi * (self.num_samples / self.period + self.seed * 0.37)))
            value *= max(0.5, self._random.gauss(1, VARIATION))
            if number and self._random.random() >= self.holds:
                boost = 1.0
            value *= boost
            samples.append(value)
            self.num_samples += 1
            self.spent += value
        return samples
