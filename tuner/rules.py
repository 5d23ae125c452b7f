"""From a kernel for each shape to rules over run-time sizes: boxes that are disjoint and leave nothing out.

A rule bounds sizes that the binding knows (`gen/table.py`); products such as batch times heads are none, so they are
split as batch and as heads. Between two neighbouring sizes the border is their geometric mean.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from kernelwright.gen.ladder import Bounds
from kernelwright.tuner.coverage import Losses
from kernelwright.tuner.results import TIE
from kernelwright.tuner.shapes import Shape

AXES = ("seqlen_q", "seqlen_k", "batch", "num_heads_q", "num_heads_kv")
"""Sizes that a rule may bound; of borders that part the shapes equally well the first is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A kernel for a box of sizes: inclusive bounds, None for no bound; a size that is not there is any."""

    when: Bounds
    kernel: str
    shapes: tuple[str, ...]


def make_rules(shapes: Sequence[Shape], choice: Mapping[str, str], found: Losses) -> list[Rule]:
    """Return rules in ascending order of their bounds that together take every size.

    Args:
        shapes: distinct.
        choice: the kernel of each shape, by name.
        found: losses of the kernels; a box in which one kernel loses no more than `TIE` anywhere is not parted.
    """
    rules = _part(list(shapes), choice, found, {})
    return sorted(rules, key=lambda rule: [rule.when.get(axis, (None, None))[0] or 0 for axis in AXES])


def _part(shapes: list[Shape], choice: Mapping[str, str], found: Losses, when: Bounds) -> list[Rule]:
    names = tuple(shape.name for shape in shapes)
    chosen = Counter(choice[name] for name in names)
    for kernel in sorted(chosen, key=lambda one: (-chosen[one], one)):
        if len(chosen) == 1 or all(choice[name] == kernel or found[kernel][name] <= TIE for name in names):
            return [Rule(when=when, kernel=kernel, shapes=names)]
    axis, border = min(_borders(shapes), key=lambda one: (_disorder(shapes, choice, *one), AXES.index(one[0]), one[1]))
    low, high = when.get(axis, (None, None))
    below = [shape for shape in shapes if asdict(shape)[axis] <= border]
    above = [shape for shape in shapes if asdict(shape)[axis] > border]
    return [
        *_part(below, choice, found, {**when, axis: (low, border)}),
        *_part(above, choice, found, {**when, axis: (border + 1, high)}),
    ]


def _borders(shapes: Sequence[Shape]) -> list[tuple[str, int]]:
    found = []
    for axis in AXES:
        values = sorted({asdict(shape)[axis] for shape in shapes})
        found += [(axis, math.isqrt(one * other)) for one, other in itertools.pairwise(values)]
    return found


def _disorder(shapes: Sequence[Shape], choice: Mapping[str, str], axis: str, border: int) -> float:
    """Return how mixed the kernels are on both sides: the entropy, weighted by the number of shapes."""
    sides: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for shape in shapes:
        sides[asdict(shape)[axis] > border][choice[shape.name]] += 1
    return -sum(count * math.log2(count / side.total()) for side in sides for count in side.values())
