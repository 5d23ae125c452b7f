"""Where the PTX ISA puts elements: swizzled shared memory and matrix fragments; a model apart from the emulator's.

Source: PTX ISA 9.0, "Shared Memory Matrix Layout" and "Swizzling modes", "Matrix Fragments for mma.m16n8k8", "...
m16n8k32" and "Register Fragments for wgmma.mma_async.m64nNk16".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_steps.golden_compare import Check, Difference, Doubles, excess_of, found_difference, sum_allowance
from device_steps.golden_inputs import Words, decode, encode

Indices = npt.NDArray[np.int64]
Operands = tuple[Doubles, Doubles, Doubles]  # A [cases, m, k], B [cases, k, n], C [cases, m, n]


def swizzled(address: Indices, span: int) -> Indices:
    """Return where a byte lies whose place would be `address` unswizzled, both from a multiple of 1024.

    Args:
        address: bytes.
        span: 128, 64 or 32 bytes: 16-byte chunks within it are permuted by the number of the 128-byte line; 0 is none.
    """
    return address ^ (address >> 7 & max(span // 16 - 1, 0)) << 4


def lanes(threads: int) -> tuple[Indices, Indices]:
    """Return group and thread in group of each lane, [threads, 1]."""
    lane = np.arange(threads)[:, None] % 32
    return lane // 4, lane % 4


@dataclass(frozen=True, kw_only=True)
class Product:
    """D = A B + C in fp32 of one case, by registers.

    Args:
        operands: reads the matrices from what is given.
        rows, columns: of D, by [thread, register].
        depth: of the sum.
        epsilon: of one accumulation, as a part of the largest term.
        source: of epsilon.
    """

    operands: Callable[[Words], Operands]
    rows: Indices
    columns: Indices
    depth: int
    epsilon: float = 2.0**-23
    source: str = ""

    def model(self, given: Words) -> Words:
        """Return the correctly rounded result, which is the only one where sums are exact."""
        a, b, c = self.operands(given)
        with np.errstate(all="ignore"):
            rounded = (a @ b + c).astype(np.float32).astype(np.float64)
        return encode(rounded[:, self.rows, self.columns], "f32")

    def check(self) -> Check:
        """Allow what any order and alignment of the terms can change."""

        def compare(given: Words, got: Words, recorded: Words) -> Difference:
            allowed = sum_allowance(*self.operands(given), depth=self.depth, epsilon=self.epsilon)
            excess = excess_of(decode(got, "f32"), decode(recorded, "f32"), allowed[:, self.rows, self.columns])
            return found_difference(got, recorded, excess)

        bits = -int(np.log2(self.epsilon))
        text = f"{2 * (self.depth + 2)} x 2^-{bits} of |c| + sum |a b|{self.source}; nothing for small whole numbers"
        return Check(kind="mma bound", text=text, compare=compare)
