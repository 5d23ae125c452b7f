"""What a study's results say, as plain values: progress, heat map, importance, failures, share of the ceiling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernelwright.gen.devices import Device
from kernelwright.gen.spec import Variant
from kernelwright.tuner.results import Label, Outcome, ranked
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.space import Value, described
from kernelwright.tuner.step_work import PRODUCTS
from kernelwright.tuner.walks import bytes_once


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """How much each field of the schedule decides, in shares that add up to 1, and by which measure."""

    shares: Mapping[str, float]
    method: str


def best_so_far(outcomes: Sequence[Outcome]) -> list[float]:
    """Return the best score up to each point, in the order of the points; infinite before the first success."""
    best, found = math.inf, []
    for outcome in outcomes:
        best = min(best, outcome.score)
        found.append(best)
    return found


TILE = ("block_m", "block_n")
"""Fields of a schedule that every operation which is tuned has."""


def heat_map(outcomes: Sequence[Outcome]) -> dict[tuple[int, int], Outcome]:
    """Return the best point of each tile size, by the fields TILE."""
    found: dict[tuple[int, int], Outcome] = {}
    for outcome in ranked(list(outcomes)):
        schedule = described(outcome.variant.schedule)
        found.setdefault((schedule[TILE[0]], schedule[TILE[1]]), outcome)
    return found


def importance(outcomes: Sequence[Outcome]) -> Importance | None:
    """Return what decides a point's score; None where fewer than four points tell.

    By Optuna where it is installed, else by our own measure: of each field, the variance between its values' means of
    the logarithm of the score, as a share of the sum.
    """
    good = [one for one in outcomes if one.status == "ok"]
    names = described(good[0].variant.schedule) if good else {}
    fields = [name for name in names if len({_value(one, name) for one in good}) > 1]
    if len(good) < 4 or not fields:
        return None
    for method, measure in (("PED-ANOVA (Optuna)", _by_optuna), ("variance between values (ours)", _by_variance)):
        try:
            shares = measure(good, fields)
        except ImportError:
            continue
        total = sum(shares.values())
        if total > 0:
            return Importance(shares={name: shares.get(name, 0.0) / total for name in fields}, method=method)
    return None


def _by_variance(good: Sequence[Outcome], fields: Sequence[str]) -> dict[str, float]:
    found = {}
    for name in fields:
        by_value: dict[int, list[float]] = {}
        for one in good:
            by_value.setdefault(_value(one, name), []).append(math.log(one.score))
        mean = statistics.fmean(math.log(one.score) for one in good)
        found[name] = sum(len(each) * (statistics.fmean(each) - mean) ** 2 for each in by_value.values())
    return found


def _value(outcome: Outcome, name: str) -> Value:
    return described(outcome.variant.schedule)[name]


def _by_optuna(good: Sequence[Outcome], fields: Sequence[str]) -> dict[str, float]:
    import optuna

    evaluator: Any = getattr(optuna.importance, "PedAnovaImportanceEvaluator", None)
    if evaluator is None:
        raise ImportError("this version of Optuna has no PED-ANOVA")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    choices = {name: sorted({_value(one, name) for one in good}) for name in fields}
    distributions = {name: optuna.distributions.CategoricalDistribution(values) for name, values in choices.items()}
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="minimize")
    for one in good:
        params = {name: _value(one, name) for name in fields}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=one.score))
    found = optuna.importance.get_param_importances(study, evaluator=evaluator(), params=list(fields))
    return {name: max(0.0, float(found.get(name, 0.0))) for name in fields}


def flops_of(variant: Variant, shape: Shape) -> float:
    """Return the multiply-adds, counted as two, of every product over the keys that are seen."""
    problem = variant.problem
    pairs = shape.seqlen_q * shape.seqlen_k
    if problem.is_causal:
        shift = shape.seqlen_k - shape.seqlen_q
        pairs = sum(min(shape.seqlen_k, max(0, row + 1 + shift)) for row in range(shape.seqlen_q))
    of_keys, of_values = PRODUCTS[variant.operation]
    depth = of_keys * problem.head_dim + of_values * problem.head_dim_v
    return 2.0 * shape.batch * shape.num_heads_q * depth * pairs


def ceiling_cycles(variant: Variant, shape: Shape, device: Device) -> float:
    """Return the modelled ceiling: clocks that the tensor cores, or moving each byte once, take at the least."""
    tensor = flops_of(variant, shape) / (device.mma_flops * device.num_sms)
    memory = bytes_once(variant, shape) / (device.dram_gbs * 1e3 / device.boost_mhz)
    return max(tensor, memory)


def share_of_ceiling(outcome: Outcome, shape: Shape, device: Device, label: Label) -> float:
    """Return the part of the modelled ceiling's rate that a kernel reaches on a shape, from 0 to 1."""
    cycles = ceiling_cycles(outcome.variant, shape, device)
    least = cycles if label == "modelled" else cycles / device.boost_mhz
    return least / outcome.figures[shape.name]


def finalists(outcomes: Sequence[Outcome], default: Outcome | None, count: int = 8) -> list[Outcome]:
    """Return the best points, and the default if it is not one of them."""
    best = ranked(list(outcomes))[:count]
    return best if default is None or default in best else [*best, default]


def describe_point(outcome: Outcome) -> str:
    """Return a schedule in a line."""
    return ", ".join(f"{name} {str(value).lower()}" for name, value in described(outcome.variant.schedule).items())
