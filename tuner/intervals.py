"""How sure a median is, from its raw samples: order statistics, so that nothing is assumed about the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kernelwright.tuner.results import TIE, Outcome

Interval = tuple[float, float]
LEVEL = 0.95


def median_interval(samples: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return bounds between which the median lies with at least this confidence; None if there are too few samples.

    Source: the distribution-free interval of order statistics; its confidence is a sum of binomial terms.
    """
    ordered, count = sorted(samples), len(samples)
    tail, rank = 0.0, 0  # the interval from the (rank + 1)-th smallest to the (rank + 1)-th largest
    while True:
        tail += math.comb(count, rank) / 2**count
        if 2 * tail > 1 - level:
            break
        rank += 1
    return (ordered[rank - 1], ordered[count - rank]) if rank else None


def are_apart(first: Interval | None, second: Interval | None) -> bool | None:
    """Whether two medians differ for certain, at the level of their intervals; None where that is not known."""
    if first is None or second is None:
        return None
    return first[1] < second[0] or second[1] < first[0]


def is_tied(first: Outcome, second: Outcome, shapes: Sequence[str]) -> bool:
    """Whether neither of two kernels is faster on these shapes by more than the noise.

    Within `TIE` of each other in the geometric mean, or, where both have samples, with intervals that meet on every
    shape.
    """
    ratio = geometric_mean(first.figures, shapes) / geometric_mean(second.figures, shapes)
    if abs(ratio - 1) <= TIE:
        return True
    apart = [are_apart(interval_of(first, shape), interval_of(second, shape)) for shape in shapes]
    return all(one is False for one in apart)


def interval_of(outcome: Outcome, shape: str) -> Interval | None:
    """Return the interval of a kernel's time on a shape; None for modelled figures and too few samples."""
    samples = outcome.samples.get(shape)
    return median_interval(samples) if samples else None


def geometric_mean(figures: Mapping[str, float], shapes: Sequence[str]) -> float:
    """Return the geometric mean of the figures of some shapes."""
    return math.exp(sum(math.log(figures[shape]) for shape in shapes) / len(shapes))
