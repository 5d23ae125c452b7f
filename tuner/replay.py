"""Searches replayed on a recorded space: the recorded figures stand in for compiler, check and clock.

The counting rule: an evaluation is a point of the recorded (legal) pool that was asked for the first time; recorded
failures count. The optimum is the least mean of the recorded repeats. A search sees the means as they are, or, with
noise, the median of a few raw repeats drawn for each point; it is judged by the means in either case.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from kernelwright.tuner.recording import Recording, load_recording
from kernelwright.tuner.strategies import History, Strategy, make_strategy
from kernelwright.tuner.strategy_names import StrategyName

NEAR = 0.05
"""How close to the optimum a search must come."""

BATCH = 8
"""Points asked for at a time, as by a machine that compiles that many side by side."""

NOT_REACHED = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One search: indices of the points in the order of evaluation."""

    points: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Repeated searches of one strategy.

    Args:
        strategy, repeats, budget: what was done.
        evaluations_to_5pct: of each repeat, the first evaluation within 5 % of the optimum; infinite if none was.
        regrets: of each repeat, the best found over the optimum, less 1.
        at: median of the best found over the optimum after some numbers of evaluations.
    """

    strategy: str
    repeats: int
    budget: int
    evaluations_to_5pct: tuple[float, ...]
    regrets: tuple[float, ...]
    at: dict[int, float]

    @property
    def median_evaluations_to_5pct(self) -> float:
        return statistics.median(self.evaluations_to_5pct)

    @property
    def success_by_200(self) -> float:
        return sum(count <= 200 for count in self.evaluations_to_5pct) / self.repeats

    def plain(self) -> dict[str, object]:
        """Return it for JSON; what was not reached is null."""
        quartiles = [float(np.percentile(self.evaluations_to_5pct, share, method="nearest")) for share in (25, 75, 90)]
        return {
            "strategy": self.strategy,
            "repeats": self.repeats,
            "budget": self.budget,
            "median_evaluations_to_5pct": _finite(self.median_evaluations_to_5pct),
            "p25_evaluations_to_5pct": _finite(quartiles[0]),
            "p75_evaluations_to_5pct": _finite(quartiles[1]),
            "p90_evaluations_to_5pct": _finite(quartiles[2]),
            "success_by_200": self.success_by_200,
            "mean_regret": statistics.fmean(self.regrets),
            "median_regret": statistics.median(self.regrets),
            "p90_regret": float(np.percentile(self.regrets, 90)),
            "best_over_optimum_at": {str(count): ratio for count, ratio in self.at.items()},
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def replay_once(
    recording: Recording,
    strategy: Strategy,
    budget: int,
    *,
    batch: int = BATCH,
    noise: np.random.Generator | None = None,
) -> Trace:
    """Search a recorded space once.

    Args:
        recording: the space.
        strategy: made over the recording's pool.
        budget: evaluations.
        batch: points asked for at a time.
        noise: draws 3 raw repeats for each point, whose median the search is told; None tells the mean.
    """
    history = History()
    while len(history.told) < min(budget, len(recording.pool)):
        chosen = strategy.propose(history, min(batch, budget - len(history.told)))
        assert chosen and not history.told.keys() & set(chosen) and len(set(chosen)) == len(chosen)
        for index in chosen:
            history.told[index] = _figure(recording, index, noise)
    return Trace(points=tuple(history.told))


def _figure(recording: Recording, index: int, noise: np.random.Generator | None) -> float:
    samples = recording.samples[index]
    if noise is None or not samples:
        return recording.figures[index]
    return float(np.median(noise.choice(samples, size=3)))


def summarise(strategy: str, recording: Recording, traces: Sequence[Sequence[int]], budget: int) -> Summary:
    """Return what repeated searches found, each given as the points in the order of evaluation."""
    figures = np.array(recording.figures)
    reached, regrets, ratios = [], [], []
    for points in traces:
        best = np.minimum.accumulate(figures[list(points)]) / recording.optimum
        near = np.flatnonzero(best <= 1 + NEAR)
        reached.append(float(near[0] + 1) if len(near) else NOT_REACHED)
        regrets.append(float(best[-1]) - 1)
        ratios.append(best)
    marks = [mark for mark in (25, 50, 100, 200) if mark <= budget]
    return Summary(
        strategy=strategy,
        repeats=len(traces),
        budget=budget,
        evaluations_to_5pct=tuple(reached),
        regrets=tuple(regrets),
        at={mark: float(np.median([best[min(mark, len(best)) - 1] for best in ratios])) for mark in marks},
    )


def replay(
    path: Path,
    recording: Recording,
    strategy: StrategyName,
    *,
    repeats: int,
    budget: int,
    seed: int,
    jobs: int,
    noisy: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> list[Trace]:
    """Search a recorded space `repeats` times with different seeds, `jobs` at a time; `done` is told the count.

    The result depends on `seed` alone, not on `jobs`.
    """
    seeds = [seed * 1_000_003 + repeat for repeat in range(repeats)]
    if jobs == 1 or repeats == 1:
        traces = []
        for count, one in enumerate(seeds, 1):
            traces.append(_one(recording, strategy, one, budget, noisy))
            done(count)
        return traces
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_load, initargs=(path,)) as pool:
        futures = [pool.submit(_one_of_loaded, strategy, one, budget, noisy) for one in seeds]
        try:
            traces = []
            for count, future in enumerate(futures, 1):
                traces.append(future.result())
                done(count)
            return traces
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one(recording: Recording, strategy: StrategyName, seed: int, budget: int, noisy: bool) -> Trace:
    logging.getLogger("optuna").setLevel(logging.WARNING)  # TPE's study in memory is nobody's business
    noise = np.random.default_rng([seed, 1]) if noisy else None
    return replay_once(recording, make_strategy(strategy, recording.pool, seed), budget, noise=noise)


_loaded: list[Recording] = []  # of a worker process


def _load(path: Path) -> None:
    _loaded[:] = [load_recording(path)]


def _one_of_loaded(strategy: StrategyName, seed: int, budget: int, noisy: bool) -> Trace:
    return _one(_loaded[0], strategy, seed, budget, noisy)
