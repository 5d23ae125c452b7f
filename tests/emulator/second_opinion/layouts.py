"""Which element of a matrix each lane's registers hold: the PTX ISA's formulas, as data.

Source: PTX ISA 9.0, "Matrix Fragments for mma.m8n8k16", "... m16n8k4", "... m16n8k8", "... m16n8k16 with floating point
type", "... m16n8k16 with integer type", "... m16n8k32"; for 8x8 matrices "ldmatrix", "stmatrix" and "movmatrix".
There groupID is %laneid >> 2, threadID_in_group is %laneid % 4, and i counts a fragment's elements, lowest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .formats import Doubles

Indices = npt.NDArray[np.int64]
LANE = np.arange(32)
GROUP, THREAD = LANE >> 2, LANE % 4
Place = Callable[[int], tuple[Indices, Indices]]  # i -> row and column by lane


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Rows and columns by [lane, element] of a matrix of `shape`."""

    shape: tuple[int, int]
    rows: Indices
    columns: Indices

    @classmethod
    def of(cls, shape: tuple[int, int], count: int, place: Place) -> Fragment:
        found = [np.broadcast_arrays(*place(i), LANE)[:2] for i in range(count)]
        return cls(shape=shape, rows=np.stack([r for r, _ in found], 1), columns=np.stack([c for _, c in found], 1))

    @property
    def count(self) -> int:
        """Elements of a lane."""
        return self.rows.shape[1]

    def matrices(self, elements: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return [warps, rows, columns] from [warps, lane, element]."""
        out = np.zeros((elements.shape[0], *self.shape), elements.dtype)
        out[:, self.rows, self.columns] = elements
        return out

    def elements(self, matrices: Doubles) -> Doubles:
        """Undo `matrices`."""
        return matrices[:, self.rows, self.columns]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The fragments of one shape for elements of one size."""

    a: Fragment
    b: Fragment
    c: Fragment

    @property
    def depth(self) -> int:
        return self.a.shape[1]


def _of(shape: tuple[int, int, int], counts: tuple[int, int, int], a: Place, b: Place, c: Place) -> Layout:
    m, n, k = shape
    return Layout(
        a=Fragment.of((m, k), counts[0], a), b=Fragment.of((k, n), counts[1], b), c=Fragment.of((m, n), counts[2], c)
    )


def _c16(i: int) -> tuple[Indices, Indices]:
    """row = groupID for c0 and c1, groupID + 8 for c2 and c3; col = threadID_in_group * 2 + (i & 1)."""
    return (GROUP if i < 2 else GROUP + 8), THREAD * 2 + (i & 1)


# By shape and bits of an element of A and B.
LAYOUTS: dict[tuple[str, int], Layout] = {
    ("m16n8k4", 32): _of(
        (16, 8, 4),
        (2, 1, 4),
        lambda i: (GROUP if i == 0 else GROUP + 8, THREAD),
        lambda i: (THREAD, GROUP),
        _c16,
    ),
    ("m16n8k8", 32): _of(
        (16, 8, 8),
        (4, 2, 4),
        lambda i: (GROUP if i in (0, 2) else GROUP + 8, THREAD if i in (0, 1) else THREAD + 4),
        lambda i: (THREAD if i == 0 else THREAD + 4, GROUP),
        _c16,
    ),
    ("m16n8k8", 16): _of(
        (16, 8, 8),
        (4, 2, 4),
        lambda i: (GROUP if i in (0, 1) else GROUP + 8, THREAD * 2 + (i & 1)),
        lambda i: (THREAD * 2 + i, GROUP),
        _c16,
    ),
    ("m16n8k16", 16): _of(
        (16, 8, 16),
        (8, 4, 4),
        lambda i: (
            GROUP if 0 <= i < 2 or 4 <= i < 6 else GROUP + 8,
            THREAD * 2 + (i & 1) if i < 4 else THREAD * 2 + (i & 1) + 8,
        ),
        lambda i: (THREAD * 2 + (i & 1) if i < 2 else THREAD * 2 + (i & 1) + 8, GROUP),
        _c16,
    ),
    ("m8n8k16", 8): _of(
        (8, 8, 16),
        (4, 4, 2),
        lambda i: (GROUP, THREAD * 4 + i),
        lambda i: (THREAD * 4 + i, GROUP),
        lambda i: (GROUP, THREAD * 2 + i),
    ),
    ("m16n8k16", 8): _of(
        (16, 8, 16),
        (8, 4, 4),
        lambda i: (GROUP if i < 4 else GROUP + 8, THREAD * 4 + (i & 3)),
        lambda i: (THREAD * 4 + i, GROUP),
        _c16,
    ),
    ("m16n8k32", 8): _of(
        (16, 8, 32),
        (16, 8, 4),
        lambda i: (
            GROUP if 0 <= i < 4 or 8 <= i < 12 else GROUP + 8,
            THREAD * 4 + (i & 3) if i < 8 else THREAD * 4 + (i & 3) + 16,
        ),
        lambda i: (THREAD * 4 + (i & 3) if i < 4 else THREAD * 4 + (i & 3) + 16, GROUP),
        _c16,
    ),
}

# ldmatrix, stmatrix, movmatrix: a lane's two 16-bit elements of an 8x8 matrix.
EIGHT = Fragment.of((8, 8), 2, lambda i: (GROUP, THREAD * 2 + i))
EIGHT_TRANSPOSED = Fragment.of((8, 8), 2, lambda i: (THREAD * 2 + i, GROUP))
