"""A pool of points as any search sees it: tuples of parameter values, which of them are close, and their encoding.

Nothing here knows kernels: the same code serves the variants of `pool.py` and recorded tuning spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Value = bool | int | float | str
Point = tuple[Any, ...]  # Any: each place has values of its own type

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointPool:
    """The points that may be tried. A point is known by its index.

    Args:
        names: of the parameters.
        choices: values of each parameter: numbers ascending, others as they came.
        points: what may be tried, each once.
        codes: for each point the positions of its values in `choices`, `[points, parameters]`.
    """

    names: tuple[str, ...]
    choices: tuple[tuple[Value, ...], ...]
    points: tuple[Point, ...]
    codes: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.points)

    def index(self) -> dict[Point, int]:
        """Return the index of every point."""
        return {point: index for index, point in enumerate(self.points)}

    def distances(self, index: int) -> npt.NDArray[np.intp]:
        """Return in how many parameters every point differs from one (its Hamming distance)."""
        return np.asarray(np.count_nonzero(self.codes != self.codes[index], axis=1), dtype=np.intp)

    def neighbours(self, index: int) -> Indices:
        """Return the points that differ from one in a single parameter."""
        return np.flatnonzero(self.distances(index) == 1)


def make_points(choices: Mapping[str, Sequence[Value]], points: Sequence[Point]) -> PointPool:
    """Return the pool of `points`, whose values are in the order of `choices`.

    Raises:
        ValueError: if a point is there twice or has a value that `choices` lacks.
    """
    if len(set(points)) != len(points):
        raise ValueError("a point is in the pool twice")
    ordered = tuple(_ordered(values) for values in choices.values())
    places = [{value: place for place, value in enumerate(values)} for values in ordered]
    try:
        codes = [[place[value] for place, value in zip(places, point, strict=True)] for point in points]
    except KeyError as error:
        raise ValueError(f"a point has the value {error}, which no parameter's list has") from error
    table = np.array(codes, dtype=np.int16).reshape(len(points), len(ordered))
    return PointPool(
        names=tuple(choices),
        choices=ordered,
        points=tuple(points),
        codes=table,
    )


def _ordered(values: Sequence[Value]) -> tuple[Value, ...]:
    return tuple(sorted(values)) if all(isinstance(value, (int, float)) for value in values) else tuple(values)
