"""The ledger without Optuna: every point of the pool is tried, the default first. The store keeps what came of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kernelwright.gen.spec import Variant
from kernelwright.tuner.pool import Pool
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.space import Point


class PlainLedger:
    """Points in an order that the seed decides."""

    def __init__(self, order: Sequence[Variant]) -> None:
        self._free, self._asked = list(order), list[Variant]()
        self._outcomes: list[Outcome] = []

    @property
    def num_tried(self) -> int:
        return len(self._outcomes)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def outcomes(self) -> list[Outcome]:
        """Return every finished point, in the order of the trials."""
        return list(self._outcomes)

    def ask(self, count: int) -> list[Variant]:
        """Return up to `count` points to try next."""
        taken, self._free = self._free[:count], self._free[count:]
        self._asked += taken
        return taken

    def tell(self, outcome: Outcome) -> None:
        """Take what came of a point that was asked for."""
        self._asked.remove(outcome.variant)
        self._outcomes.append(outcome)

    def adopt(self, outcome: Outcome) -> None:
        """Take what came of a point in an earlier run."""
        if outcome.variant in self._free:
            self._free.remove(outcome.variant)
        self._outcomes.append(outcome)

    def abandon(self) -> int:
        """Give back the points that were asked for and not told; return how many."""
        count = len(self._asked)
        self._free, self._asked = [*self._asked, *self._free], []
        return count


def plain_order(
    pool: Pool, seed: int, first: Sequence[Point] = (), prior: Sequence[float] | None = None
) -> list[Variant]:
    """Return the points of a pool: the default, then `first`, then by `prior`, or in random order without one."""
    points = list(pool.legal)
    random.Random(seed).shuffle(points)
    if prior is not None:
        expected = dict(zip(pool.legal, prior, strict=True))
        points.sort(key=lambda point: expected[point])
    early = {point: place for place, point in reversed(list(enumerate((pool.default, *first))))}
    points.sort(key=lambda point: early.get(point, len(early)))
    return [pool.legal[point] for point in points]
