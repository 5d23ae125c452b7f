"""Search strategies over an enumerated pool: which points to try next, given what is known.

A strategy is a function of the pool, its seed and the history alone, so that a study goes on after `--resume` where
it stopped. No strategy proposes a point that was told or is pending; failures are told as infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kernelwright.tuner.forest import chances
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
        chosen: list[int] = []
        while len(chosen) < count:
            known = History(told=history.told, pending=history.pending | set(chosen))
            found = self._round(known, min(count - len(chosen), self._settings.round))
            if not found:
                break
            chosen += found
        return chosen

    def _round(self, history: History, count: int) -> list[int]:
        free = history.free(len(self._pool))
        num_known = len(history.told) + len(history.pending)
        random = np.random.default_rng([self._seed, num_known])
        at_random = min(count, self._settings.first - num_known)
        good = [value for value in history.told.values() if math.isfinite(value)]
        if at_random > 0 or len(good) < 2:
            candidates = np.flatnonzero(free)
            wanted = min(max(at_random, 1), len(candidates))
            return [int(one) for one in random.choice(candidates, size=wanted, replace=False)]
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
        best = sorted(history.told, key=lambda index: history.told[index])[: self._settings.incumbents]
        near = np.zeros(len(score), dtype=bool)
        for index in best:
            if math.isfinite(history.told[index]):
                near[self._pool.neighbours(index)] = True
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
