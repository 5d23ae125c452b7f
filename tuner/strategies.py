"""Search strategies over an enumerated pool: which points to try next, given what is known.

A strategy is a function of the pool, its seed and the history alone, so that a study goes on after `--resume` where
it stopped. No strategy proposes a point that was told or is pending; failures are told as infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kernelwright.tuner.forest import chances
from kernelwright.tuner.gaussian import Distances, Expectation, expectation
from kernelwright.tuner.points import Indices, PointPool
from kernelwright.tuner.strategy_names import StrategyName


@dataclass(slots=True)
class History:
    """What a search knows.

    Args:
        told: the value of each finished point by index, in the order of finishing; infinite for a failure.
        pending: points that somebody is trying.
    """

    told: dict[int, float] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)

    def free(self, size: int) -> npt.NDArray[np.bool_]:
        """Return for each point of a pool whether it may be proposed."""
        mask = np.ones(size, dtype=bool)
        mask[list(self.told)] = False
        mask[list(self.pending)] = False
        return mask


class Strategy(Protocol):
    """Decides what to try next."""

    def propose(self, history: History, count: int) -> list[int]:
        """Return up to `count` different free points; fewer only when no more are free."""
        ...


def make_strategy(name: StrategyName, pool: PointPool, seed: int, prior: Sequence[float] | None = None) -> Strategy:
    """Return a strategy over a pool.

    Args:
        name: which.
        pool: what may be tried.
        seed: of its random choices.
        prior: for `exhaustive`, a guess of each point's value: the lower, the earlier. By default random order.
    """
    if name == "gp":
        return GaussianStrategy(pool, seed)
    if name == "forest":
        return ForestStrategy(pool, seed)
    if name == "tpe":
        from kernelwright.tuner.tpe import TpeStrategy

        return TpeStrategy(pool, seed)
    return OrderedStrategy(pool, seed, prior if name == "exhaustive" else None)


class OrderedStrategy:
    """Points in an order that does not depend on results: by a prior, or at random."""

    def __init__(self, pool: PointPool, seed: int, prior: Sequence[float] | None = None) -> None:
        order = np.random.default_rng(seed).permutation(len(pool))
        if prior is not None:
            order = order[np.argsort(np.asarray(prior, dtype=float)[order], kind="stable")]
        self._order = order

    def propose(self, history: History, count: int) -> list[int]:
        free = history.free(len(self._order))
        return [int(index) for index in self._order[free[self._order]][:count]]


def in_rounds(one_round: Callable[[History, int], list[int]], history: History, count: int, size: int) -> list[int]:
    """Return `count` points by rounds of `size`, each of which sees those before as pending; fewer if none are left."""
    chosen: list[int] = []
    while len(chosen) < count:
        known = History(told=history.told, pending=history.pending | set(chosen))
        found = one_round(known, min(count - len(chosen), size))
        if not found:
            break
        chosen += found
    return chosen


def starting_points(
    history: History, free: npt.NDArray[np.bool_], first: int, count: int, random: np.random.Generator
) -> list[int] | None:
    """Return free points at random while fewer than `first` are known, or too few of them worked; then None."""
    at_random = min(count, first - len(history.told) - len(history.pending))
    if at_random <= 0 and sum(math.isfinite(value) for value in history.told.values()) >= 2:
        return None
    candidates = np.flatnonzero(free)
    wanted = min(max(at_random, 1), len(candidates))
    return [int(one) for one in random.choice(candidates, size=wanted, replace=False)]


def near_best(pool: PointPool, history: History, count: int) -> npt.NDArray[np.bool_]:
    """Return for each point whether it is a neighbour of one of the `count` best that worked."""
    near = np.zeros(len(pool), dtype=bool)
    for index in sorted(history.told, key=lambda index: history.told[index])[:count]:
        if math.isfinite(history.told[index]):
            near[pool.neighbours(index)] = True
    return near


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianSettings:
    """How the Gaussian process searches; `tuner replay` shows how it fares.

    Args:
        first: points at random before the process has a say.
        round: points between two looks at what is finished, where more are asked for at once.
        polish: of each round, for neighbours of the best point, so that all of them are tried.
        around: how many of the best points have all their neighbours among the candidates.
        drawn: further candidates, at random.
        sample: finished points that the process knows at most: the best quarter of them, others at random.
    """

    first: int = 10
    round: int = 8
    polish: int = 1
    around: int = 16
    drawn: int = 4000
    sample: int = 200


class GaussianStrategy:
    """The points that a Gaussian process expects to improve most on the best, and a polish of its neighbourhood.

    The process sees ranks, so that no slow point bends it: 1 for the best, squared towards 0 for the worst and for
    failures.
    """

    def __init__(self, pool: PointPool, seed: int, settings: GaussianSettings | None = None) -> None:
        self._pool, self._seed, self._settings = pool, seed, settings or GaussianSettings()
        self._distances = Distances(pool)

    def propose(self, history: History, count: int) -> list[int]:
        return in_rounds(self._round, history, count, self._settings.round)

    def _round(self, history: History, count: int) -> list[int]:
        free = history.free(len(self._pool))
        random = np.random.default_rng([self._seed, len(history.told) + len(history.pending)])
        if (start := starting_points(history, free, self._settings.first, count, random)) is not None:
            return start
        candidates = self._candidates(history, free, random)
        if not len(candidates):
            return []
        known, values = _training(history, self._settings.sample, random)
        pending = np.array(sorted(history.pending), dtype=np.intp)
        expected = expectation(self._distances, known, _ranked(values), pending, candidates)
        return self._pick(history, expected, candidates, count, random)

    def _candidates(self, history: History, free: npt.NDArray[np.bool_], random: np.random.Generator) -> Indices:
        """Return the free neighbours of the best points, and other free points at random."""
        wanted = near_best(self._pool, history, self._settings.around) & free
        others = np.flatnonzero(free & ~wanted)
        if len(others) > self._settings.drawn:
            others = random.choice(others, size=self._settings.drawn, replace=False)
        wanted[others] = True
        return np.flatnonzero(wanted)

    def _pick(
        self,
        history: History,
        expected: Expectation,
        candidates: Indices,
        count: int,
        random: np.random.Generator,
    ) -> list[int]:
        is_open = np.ones(len(candidates), dtype=bool)
        is_near = near_best(self._pool, history, 1)[candidates]
        polish = int(count * self._settings.polish / self._settings.round + random.random())  # asked one by one, some
        picked: list[int] = []
        while len(picked) < count and is_open.any():
            among = is_open & is_near if len(picked) < polish and (is_open & is_near).any() else is_open
            place = int(np.argmax(np.where(among, expected.improvement(), -np.inf)))
            is_open[place] = False
            picked.append(int(candidates[place]))
            expected.choose(place)
        return picked


def _ranked(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what a process is told of values, the lower the better: squared ranks, failures last, with mean 0."""
    num_finite = int(np.isfinite(values).sum())
    places = np.empty(len(values))
    places[np.argsort(values, kind="stable")] = np.arange(len(values)) + 0.5
    told = np.maximum(1 - places / num_finite, 0) ** 2
    deviation = float(told.std())
    return np.asarray((told - told.mean()) / (deviation if deviation > 0 else 1), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestSettings:
    """How the forest searches; `tuner replay` shows how it fares.

    Args:
        first: points at random before the forest has a say.
        best: share of the finished points that count as good.
        fewest_good: but no fewer than these.
        trees: in the forest.
        round: points between two forests, where more are asked for at once.
        local: of each round, for the most promising neighbours of the incumbents.
        incumbents: how many of the best points those are. A needle is often next to the tenth best, not to the best.
        shortlist: most promising points among which a round is picked.
        likeness: how much of a point's chance its nearest companion in the round takes away.
        sample: finished points that a forest is grown from at most: the best quarter of them, others at random.
    """

    first: int = 20
    best: float = 0.15
    fewest_good: int = 3
    trees: int = 40
    round: int = 8
    local: int = 4
    incumbents: int = 8
    shortlist: int = 400
    likeness: float = 0.3
    sample: int = 800


class ForestStrategy:
    """A random forest that says which points belong to the best, and a polish of the neighbourhood of the best.

    The classifier orders the whole pool by the chance to be among the best so far [idea: likelihood-free Bayesian
    optimisation, Song et al., ICML 2022]; failures are among the bad. A part of each round goes to the free neighbours
    of the incumbents, all of them in the end, since a forest stalls next to optima that its splits do not isolate.
    """

    def __init__(self, pool: PointPool, seed: int, settings: ForestSettings | None = None) -> None:
        self._pool, self._seed, self._settings = pool, seed, settings or ForestSettings()

    def propose(self, history: History, count: int) -> list[int]:
        return in_rounds(self._round, history, count, self._settings.round)

    def _round(self, history: History, count: int) -> list[int]:
        free = history.free(len(self._pool))
        random = np.random.default_rng([self._seed, len(history.told) + len(history.pending)])
        if (start := starting_points(history, free, self._settings.first, count, random)) is not None:
            return start
        score = self._scores(history, random)
        score[~free] = -np.inf
        return self._pick(history, score, count, random)

    def _scores(self, history: History, random: np.random.Generator) -> npt.NDArray[np.float64]:
        indices, values = _training(history, self._settings.sample, random)
        num_finite = int(np.isfinite(values).sum())
        num_good = min(max(self._settings.fewest_good, math.ceil(self._settings.best * num_finite)), num_finite)
        is_good = values <= np.sort(values)[num_good - 1]
        seed = int(random.integers(2**31))
        score = chances(indices, is_good, self._pool.codes, trees=self._settings.trees, seed=seed)
        return score + 1e-3 * random.random(len(score))  # ties at random

    def _pick(
        self, history: History, score: npt.NDArray[np.float64], count: int, random: np.random.Generator
    ) -> list[int]:
        """Return the most promising neighbours of the best points, then points of high score that are not alike."""
        local = int(count * self._settings.local / self._settings.round + random.random())  # asked one by one, some are
        near = near_best(self._pool, history, self._settings.incumbents)
        around = np.flatnonzero(near & np.isfinite(score))
        batch = [int(index) for index in around[np.argsort(-score[around], kind="stable")][:local]]
        score[batch] = -np.inf
        shortlist = np.argsort(-score, kind="stable")[: self._settings.shortlist]
        return batch + self._spread(shortlist[np.isfinite(score[shortlist])], score, batch, count - len(batch))

    def _spread(
        self, shortlist: Indices, score: npt.NDArray[np.float64], batch: Iterable[int], count: int
    ) -> list[int]:
        codes = self._pool.codes[shortlist]
        left = score[shortlist].copy()
        nearest = np.full(len(shortlist), np.inf)
        for index in batch:
            nearest = np.minimum(nearest, np.count_nonzero(codes != self._pool.codes[index], axis=1))
        picked: list[int] = []
        for _ in range(min(count, len(shortlist))):
            place = int(np.argmax(left * (1 - self._settings.likeness * np.exp(1 - np.maximum(nearest, 1)))))
            picked.append(int(shortlist[place]))
            nearest = np.minimum(nearest, np.count_nonzero(codes != codes[place], axis=1))
            left[place] = -np.inf
        return picked


def _training(history: History, limit: int, random: np.random.Generator) -> tuple[Indices, npt.NDArray[np.float64]]:
    indices = np.array(list(history.told), dtype=np.intp)
    values = np.array(list(history.told.values()), dtype=float)
    if len(indices) > limit:
        order = np.argsort(values, kind="stable")
        best, rest = order[: limit // 4], order[limit // 4 :]
        keep = np.concatenate([best, random.choice(rest, size=limit - len(best), replace=False)])
        return indices[keep], values[keep]
    return indices, values
