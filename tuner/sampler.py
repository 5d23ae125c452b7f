"""An Optuna sampler over an enumerated pool: never an illegal point, never one twice.

Told with FAIL, invalid points are invisible to Optuna's samplers, which then keep proposing them; and no sampler of
Optuna prevents repetitions. So the pool decides what may be tried and TPE decides what to try first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from kernelwright.tuner.space import FIELDS, Point

_STARTUP_TRIALS = 16  # at random before TPE has a say
_PROPOSALS = 24  # of TPE for one point; if all are illegal or tried, the free point nearest to the last is taken

TAKEN = (TrialState.COMPLETE, TrialState.RUNNING)
"""Trials whose point is not tried again; one that was interrupted is FAIL and free again."""


def distributions(choices: Mapping[str, Sequence[int | bool]]) -> dict[str, Any]:  # Any: optuna is untyped to mypy
    """Return the study's parameters: categorical, since TPE does much worse on encoded tile sizes."""
    return {name: optuna.distributions.CategoricalDistribution(list(values)) for name, values in choices.items()}


def point_of_params(params: Mapping[str, Any]) -> Point | None:
    """Return the point of a trial; None if it was lost before it had all its parameters."""
    return tuple(params[name] for name in FIELDS) if set(FIELDS) <= set(params) else None


class PoolSampler(optuna.samplers.BaseSampler):  # type: ignore[misc]  # optuna is untyped to mypy
    """Chooses untried points of a pool; ask only while there are any.

    Args:
        pool: points that may be tried.
        choices: values of each parameter, as in the study.
        first: the point to try before any other, or None.
        seed: of every random choice; the same study and seed give the same next point.
        guided: let TPE order the points; else the order is random, which does where all will be tried.
    """

    def __init__(
        self,
        pool: Sequence[Point],
        choices: Mapping[str, Sequence[int | bool]],
        *,
        first: Point | None,
        seed: int,
        guided: bool,
    ) -> None:
        self._pool, self._first, self._seed, self._guided = list(pool), first, seed, guided
        self._distributions = distributions(choices)
        self._open = {name: one for name, one in self._distributions.items() if not one.single()}

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return self._distributions

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        taken = study.get_trials(deepcopy=False, states=TAKEN)
        tried = {point_of_params(one.params) for one in taken}
        free = [point for point in self._pool if point not in tried]
        if not free:
            raise LookupError("every point of the pool has been tried")
        if self._first in free:
            point = self._first
        elif self._guided and len(taken) >= _STARTUP_TRIALS and self._open:
            point = self._propose(study, trial, free, len(taken))
        else:
            point = random.Random(f"{self._seed}/{len(taken)}").choice(free)
        return dict(zip(FIELDS, point, strict=True))

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError(f"{param_name} is no field of the space")

    def _propose(self, study: Any, trial: Any, free: list[Point], num_taken: int) -> Point:
        """Return the first of TPE's proposals that is free, or the free point nearest to its last."""
        # Made anew for every point, so that a resumed study goes on as an uninterrupted one would have.
        tpe = optuna.samplers.TPESampler(
            seed=self._seed * 100_003 + num_taken, n_startup_trials=0, multivariate=True, constant_liar=False
        )
        wanted: Point = free[0]
        for _ in range(_PROPOSALS):
            params = tpe.sample_relative(study, trial, self._open)
            wanted = tuple(params.get(name, self._distributions[name].choices[0]) for name in FIELDS)
            if wanted in set(free):
                return wanted
        return min(free, key=lambda point: sum(a != b for a, b in zip(point, wanted, strict=True)))
