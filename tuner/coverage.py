"""The fewest kernels that are nearly as fast as the best on every shape: a set cover with a bound on the loss."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

MAX_KERNELS = 8
"""For one operation, architecture, dtype, head dimension and mask: what a module is allowed to grow by."""
MAX_WORST = 0.05
MAX_GEOMEAN = 0.015

_EXACT_SETS = 200_000  # of one size, that are looked at one by one; more are searched greedily

Method = Literal["exact", "greedy with swaps"]
Losses = Mapping[str, Mapping[str, float]]
"""By kernel and shape: how much slower than the best kernel of that shape, 0 for the best itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """A set of kernels for all shapes.

    Args:
        kernels: by name, sorted.
        choice: the kernel of each shape.
        worst: the largest loss against the best kernel of a shape.
        geomean: the loss in the geometric mean over the shapes.
        method: `exact`: no smaller set keeps the bounds and no other of this size is better.
        meets: whether both bounds are kept; if not, this is the best set of the largest size.
    """

    kernels: tuple[str, ...]
    choice: Mapping[str, str]
    worst: float
    geomean: float
    method: Method
    meets: bool


def losses(times: Mapping[str, Mapping[str, float]], default: str | None, tied: Collection[str]) -> Losses:
    """Return each kernel's loss on each shape.

    Args:
        times: by kernel and shape; every kernel on every shape.
        default: a kernel that is as good as the best on the shapes `tied`.
        tied: see there.
    """
    shapes = list(next(iter(times.values())))
    best = {shape: min(one[shape] for one in times.values()) for shape in shapes}
    return {
        name: {shape: 0.0 if name == default and shape in tied else row[shape] / best[shape] - 1 for shape in shapes}
        for name, row in times.items()
    }


def cover(
    found: Losses,
    *,
    default: str | None = None,
    max_kernels: int = MAX_KERNELS,
    max_worst: float = MAX_WORST,
    max_geomean: float = MAX_GEOMEAN,
) -> Cover:
    """Return the smallest set that keeps the bounds; of several the fastest, where equal one with the default.

    Sizes are tried in ascending order, each by looking at every set while there are no more than 200,000, else by
    adding the best kernel and swapping one for another as long as that helps.
    """
    names = _undominated(found, default)
    shapes = list(next(iter(found.values())))
    method: Method = "exact"
    last: tuple[str, ...] = ()
    for size in range(1, min(max_kernels, len(names)) + 1):
        if math.comb(len(names), size) <= _EXACT_SETS:
            sets: Iterable[tuple[str, ...]] = combinations(names, size)
        else:
            method, sets = "greedy with swaps", [_greedy(found, names, shapes, size, max_worst)]
        last = min(sets, key=lambda one: _rank(found, one, shapes, max_worst, max_geomean, default))
        if _keeps(found, last, shapes, max_worst, max_geomean):
            return _cover(found, last, shapes, method, default, meets=True)
    return _cover(found, last, shapes, method, default, meets=False)


def _undominated(found: Losses, default: str | None) -> list[str]:
    """Leave out what another kernel is at least as fast as on every shape; the default stays."""
    kept: list[str] = []
    for name in sorted(found, key=lambda one: (one != default, sum(found[one].values()), one)):
        row = found[name]
        if not any(all(found[other][shape] <= loss for shape, loss in row.items()) for other in kept):
            kept.append(name)
    return sorted(kept)


def _ends(found: Losses, names: Sequence[str], shapes: Sequence[str]) -> tuple[float, float]:
    """Return the worst loss of a set, and its loss in the geometric mean."""
    each = [min(found[name][shape] for name in names) for shape in shapes]
    return max(each), math.exp(sum(map(math.log1p, each)) / len(each)) - 1


def _keeps(found: Losses, names: Sequence[str], shapes: Sequence[str], max_worst: float, max_geomean: float) -> bool:
    worst, geomean = _ends(found, names, shapes)
    return worst <= max_worst and geomean <= max_geomean


def _rank(
    found: Losses,
    names: tuple[str, ...],
    shapes: Sequence[str],
    max_worst: float,
    max_geomean: float,
    default: str | None,
) -> tuple[bool, float, bool, tuple[str, ...]]:
    worst, geomean = _ends(found, names, shapes)
    kept = worst <= max_worst and geomean <= max_geomean
    return not kept, round(geomean if kept else max(worst, geomean), 6), default not in names, names


def _greedy(found: Losses, names: Sequence[str], shapes: Sequence[str], size: int, max_worst: float) -> tuple[str, ...]:
    def cost(one: Sequence[str]) -> tuple[float, float]:
        worst, geomean = _ends(found, one, shapes)
        return max(0.0, worst - max_worst), geomean

    chosen: list[str] = []
    while len(chosen) < size:
        chosen.append(min((one for one in names if one not in chosen), key=lambda one: (cost([*chosen, one]), one)))
    while True:
        swaps = ([*chosen[:at], one, *chosen[at + 1 :]] for at in range(size) for one in names if one not in chosen)
        better = min(swaps, key=cost, default=chosen)
        if cost(better) >= cost(chosen):
            return tuple(sorted(chosen))
        chosen = better


def _cover(
    found: Losses, names: tuple[str, ...], shapes: Sequence[str], method: Method, default: str | None, *, meets: bool
) -> Cover:
    worst, geomean = _ends(found, names, shapes)
    choice = {
        shape: min(names, key=lambda name, shape=shape: (found[name][shape], name != default, name))  # type: ignore[misc]
        for shape in shapes
    }
    used = tuple(name for name in names if name in choice.values())
    return Cover(kernels=used, choice=choice, worst=worst, geomean=geomean, method=method, meets=meets)
