"""An Optuna sampler over an enumerated pool: never an illegal point, never one twice.

Told with FAIL, invalid points are invisible to Optuna's samplers, which then keep proposing them; and no sampler of
Optuna prevents repetitions. So the pool decides what may be tried and a strategy decides what to try first. Trials
stay in Optuna's study, for its storages and dashboard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from kernelwright.tuner.points import Point, PointPool
from kernelwright.tuner.strategies import History, Strategy

FAILED_VALUE = 1e12
"""Told for a failed point: worse than any cycles or microseconds, and finite, so that every storage keeps it."""

TAKEN = (TrialState.COMPLETE, TrialState.RUNNING)
"""Trials whose point is not tried again; one that was interrupted is FAIL and free again."""


def distributions(choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:  # Any: optuna is untyped to mypy
    """Return the study's parameters, categorical: which values are close is the pool's business."""
    return {name: optuna.distributions.CategoricalDistribution(list(values)) for name, values in choices.items()}


class PoolSampler(optuna.samplers.BaseSampler):  # type: ignore[misc]  # optuna is untyped to mypy
    """Chooses untried points of a pool; ask only while there are any.

    Args:
        pool: points that may be tried.
        choices: values of each parameter, as in the study.
        strategy: decides the order.
        first: points to try before any other, in this order: the default, and what won elsewhere.
    """

    def __init__(
        self, pool: PointPool, choices: Mapping[str, Sequence[Any]], strategy: Strategy, first: Sequence[Point] = ()
    ) -> None:
        self._pool, self._strategy, self._index = pool, strategy, pool.index()
        self._distributions = distributions(choices)
        self._first = [self._index[point] for point in dict.fromkeys(first)]
        self._finished: dict[int, tuple[int, float] | None] = {}  # by a trial's number: its point and value
        self._planned: list[int] = []

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return self._distributions

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        if not self._planned:
            self.plan(study, 1)
        if not self._planned:
            raise LookupError("every point of the pool has been tried")
        return dict(zip(self._pool.names, self._pool.points[self._planned.pop(0)], strict=True))

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError(f"{param_name} is no parameter of the pool")

    def plan(self, study: Any, count: int) -> int:
        """Decide the points of the next `count` asks together, so that they are a batch of different ones.

        Return how many there are; fewer only when no more are free.
        """
        history = self.history(study)
        free = history.free(len(self._pool))
        self._planned = [index for index in self._first if free[index]][:count]
        known = History(told=history.told, pending=history.pending | set(self._planned))
        self._planned += self._strategy.propose(known, count - len(self._planned))
        return len(self._planned)

    def history(self, study: Any) -> History:
        """Return what the study's trials say, in the order of the trials."""
        history = History()
        for trial in study.get_trials(deepcopy=False, states=TAKEN):
            if trial.state == TrialState.COMPLETE:
                if trial.number not in self._finished:
                    self._finished[trial.number] = self._told(trial)
                if (told := self._finished[trial.number]) is not None:
                    history.told[told[0]] = told[1]
            elif (index := self._point(trial)) is not None:
                history.pending.add(index)
        return history

    def num_free(self, study: Any) -> int:
        """Return how many points nobody has tried or asked for."""
        return int(self.history(study).free(len(self._pool)).sum())

    def _told(self, trial: Any) -> tuple[int, float] | None:
        index = self._point(trial)
        return None if index is None else (index, math.inf if trial.value >= FAILED_VALUE else trial.value)

    def _point(self, trial: Any) -> int | None:
        """Return a trial's point; None if it was lost before it had all its parameters."""
        return self._index.get(tuple(trial.params.get(name) for name in self._pool.names))
