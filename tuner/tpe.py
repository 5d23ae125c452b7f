"""Optuna's TPE as a strategy over a pool: it proposes, the pool decides.

TPE works in a study of its own in memory, where points that the pool lacks, and failures, are told with a violated
constraint. Told as failed trials they would be invisible to it, and it would go on proposing them.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import optuna
from optuna.trial import create_trial

from kernelwright.tuner.points import Point, PointPool
from kernelwright.tuner.strategies import History

_STARTUP = 16  # points at random before TPE has a say
_PROPOSALS = 24  # of TPE for one point; if all are illegal or tried, the free point nearest to the last is taken
_CONSTRAINT = "runs"


class TpeStrategy:
    """Multivariate TPE over categorical parameters; it does much worse on encoded tile sizes."""

    def __init__(self, pool: PointPool, seed: int) -> None:
        self._pool, self._seed, self._index = pool, seed, pool.index()
        self._distributions = {
            name: optuna.distributions.CategoricalDistribution(list(values))
            for name, values in zip(pool.names, pool.choices, strict=True)
            if len(values) > 1
        }
        self._tells_constraints = "constraints" in inspect.signature(create_trial).parameters  # from Optuna 5
        self._study: Any = None  # Any: optuna is untyped to mypy
        self._known: set[int] = set()

    def propose(self, history: History, count: int) -> list[int]:
        free = history.free(len(self._pool))
        chosen: list[int] = []
        for _ in range(min(count, int(free.sum()))):
            num_known = len(history.told) + len(history.pending) + len(chosen)
            random = np.random.default_rng([self._seed, num_known])
            if num_known < _STARTUP or not self._distributions:
                index = int(random.choice(np.flatnonzero(free)))
            else:
                self._learn(history)
                index = self._guided(free, int(random.integers(2**31)))
            free[index] = False
            chosen.append(index)
        return chosen

    def _learn(self, history: History) -> None:
        """Tell the study what it does not know yet; begin a new one for a history that is not the last one's future."""
        if self._study is None or not self._known <= history.told.keys():
            self._study, self._known = optuna.create_study(), set()
        for index, value in history.told.items():
            if index not in self._known:
                self._known.add(index)
                self._tell(self._pool.points[index], value)

    def _tell(self, point: Point, value: float) -> None:
        params = {n: v for n, v in zip(self._pool.names, point, strict=True) if n in self._distributions}
        fails = not math.isfinite(value)
        if fails and not self._tells_constraints and point not in self._index:
            return  # there is no way to say that it is no choice at all
        extra: dict[str, Any] = {"constraints": {_CONSTRAINT: float(fails)}} if self._tells_constraints else {}
        trial = create_trial(value=1e12 if fails else value, params=params, distributions=self._distributions, **extra)
        self._study.add_trial(trial)

    def _guided(self, free: Any, seed: int) -> int:
        """Return the first of TPE's proposals that is free, or the free point nearest to its last."""
        tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=False)
        wanted: Point = self._pool.points[0]
        for _ in range(_PROPOSALS):
            params = tpe.sample_relative(self._study, None, self._distributions)
            wanted = tuple(
                params.get(name, values[0]) for name, values in zip(self._pool.names, self._pool.choices, strict=True)
            )
            index = self._index.get(wanted)
            if index is None:
                self._tell(wanted, math.inf)
            elif free[index]:
                return index
        codes = np.array([v.index(x) for v, x in zip(self._pool.choices, wanted, strict=True)], dtype=np.int16)
        distances = np.count_nonzero(self._pool.codes != codes, axis=1)
        return int(np.argmin(np.where(free, distances, len(codes) + 1)))
