"""The Gaussian process behind the strategy `gp`: what is to be expected of points that nobody tried. numpy alone.

Points correlate by how many parameters they differ in, and how far (Rasmussen and Williams, Gaussian Processes for
Machine Learning, 2006: equations 2.23 to 2.24 and 5.8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernelwright.tuner.points import Indices, PointPool

Floats = npt.NDArray[np.float64]

_STEPWISE = 0.4
"""Share of two values' distance that is as large as they are far apart in a list of numbers; the rest is as large for
any two values."""
_RATES = (0.5, 1.0, 2.0, 4.0)
"""How fast correlation falls: `exp(-rate)` is that of points which differ as much as can be in every parameter."""
_NOISE = 0.1
"""Variance of a point by itself, as a share of what it has in common with others: rough surfaces, repeated
measurements."""


class Distances:
    """Distances of a pool's points: from 0 for the same to 1 for those that differ as much as can be everywhere."""

    def __init__(self, pool: PointPool) -> None:
        sizes = [len(values) for values in pool.choices]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        num_varying = max(sum(size > 1 for size in sizes), 1)
        table = np.zeros((starts[-1], starts[-1]), dtype=np.float32)
        for values, start, stop in zip(pool.choices, starts[:-1], starts[1:], strict=True):
            places = np.arange(stop - start)
            steps = np.abs(places[:, None] - places) / max(len(places) - 1, 1)
            is_number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
            stepwise = _STEPWISE if is_number else 0.0
            apart = (places[:, None] != places) * (1 - stepwise) + stepwise * steps
            table[start:stop, start:stop] = apart / num_varying
        self._columns = pool.codes.astype(np.intp) + starts[:-1]
        self._table = table

    def between(self, some: Indices, others: Indices) -> npt.NDArray[np.float32]:
        """Return the distances `[some, others]`."""
        from_some = np.zeros((len(some), len(self._table)), dtype=np.float32)
        for columns in self._columns[some].T:
            from_some += self._table[columns]
        is_at = np.zeros((len(others), len(self._table)), dtype=np.float32)
        np.put_along_axis(is_at, self._columns[others], 1.0, axis=1)
        return np.asarray(from_some @ is_at.T, dtype=np.float32)


@dataclass(slots=True)
class Expectation:
    """What a process expects of candidates, as it is corrected for those that are chosen.

    Args:
        mean: of each candidate's value.
        variance: of it, as a share of `scale`.
        scale: variance of the process.
        best: the highest value known.
    """

    mean: Floats
    variance: Floats
    scale: float
    best: float
    _candidates: Indices
    _distances: Distances
    _rate: float
    _weights: list[npt.NDArray[np.float32]]  # of what is known, [some points, candidates] each

    def improvement(self) -> Floats:
        """Return the expected improvement on the best [Jones et al., Journal of Global Optimization 13, 1998]."""
        deviation = np.sqrt(np.maximum(self.variance, 1e-9) * self.scale)
        z = (self.mean - self.best) / deviation
        density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return np.asarray(deviation * (z * _below(z) + density))

    def choose(self, place: int) -> None:
        """Take a candidate's expected value for known, so that its like become less worth trying.

        The means stay as they are then [the believer of Ginsbourger et al., Kriging is well-suited to parallelize
        optimization, 2010].
        """
        one = self._candidates[place : place + 1]
        row = np.exp(-self._rate * self._distances.between(one, self._candidates)[0])
        for weights in self._weights:
            row -= weights[:, place] @ weights
        row /= math.sqrt(max(float(row[place]), 1e-9) + _NOISE)
        self.variance = self.variance - row.astype(np.float64) ** 2
        self._weights.append(row[None])


def expectation(
    distances: Distances, known: Indices, values: Floats, pending: Indices, candidates: Indices
) -> Expectation:
    """Return what is to be expected of candidates.

    The rate of correlation is the likeliest of a few.

    Args:
        distances: of the pool.
        known: points with a value.
        values: theirs, the higher the better, with mean 0.
        pending: points that somebody is trying, as if chosen: their expected values are taken for known.
        candidates: points without.
    """
    both = np.concatenate([known, pending])
    apart = distances.between(both, both).astype(np.float64)
    count = len(known)
    fits = [(rate, *_fit(apart[:count, :count], values, rate)) for rate in _RATES]
    rate, _, whitened = max(fits, key=lambda fit: fit[1])
    root = _root(apart, rate).astype(np.float32)  # that of the known points is its upper left part
    weights = np.linalg.solve(root, np.exp(-rate * distances.between(both, candidates)))
    return Expectation(
        mean=(whitened.astype(np.float32) @ weights[:count]).astype(np.float64),
        variance=1 - np.einsum("kc,kc->c", weights, weights).astype(np.float64),
        scale=max(float(whitened @ whitened) / count, 1e-12),
        best=float(values.max()),
        _candidates=candidates,
        _distances=distances,
        _rate=rate,
        _weights=[weights],
    )


def _fit(apart: Floats, values: Floats, rate: float) -> tuple[float, Floats]:
    """Return the logarithm of the likelihood, at the likeliest scale, and the values freed of what they share."""
    root = _root(apart, rate)
    whitened: Floats = np.linalg.solve(root, values).astype(np.float64)
    scale = max(float(whitened @ whitened) / len(values), 1e-12)
    return -0.5 * len(values) * math.log(scale) - float(np.log(np.diag(root)).sum()), whitened


def _root(apart: Floats, rate: float) -> Floats:
    return np.asarray(np.linalg.cholesky(np.exp(-rate * apart) + _NOISE * np.eye(len(apart))), dtype=np.float64)


def _below(z: Floats) -> Floats:
    """Return the standard normal distribution's share below z."""
    scaled = (-z / math.sqrt(2)).tolist()
    return 0.5 * np.fromiter(map(math.erfc, scaled), dtype=np.float64, count=len(z))
