"""Bit patterns that are the same for the same seed everywhere and forever: no library's random stream is asked.

Values are made from bits (sign, exponent, fraction), so no rounding enters either.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Kind = Literal["f16", "bf16", "f32"]
Shape = tuple[int, ...]

# fraction bits, exponent bias, all bits
FORMATS: dict[Kind, tuple[int, int, int]] = {"f16": (10, 15, 16), "bf16": (7, 127, 16), "f32": (23, 127, 32)}

F32_EDGES: list[int] = [
    0x00000000, 0x80000000, 0x3F800000, 0xBF800000,  # 0, -0, 1, -1
    0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC12345,  # inf, -inf, quiet, signalling and negative NaN
    0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000,  # subnormals, least normals
    0x7F7FFFFF, 0xFF7FFFFF, 0x7E800000, 0x7F000000,  # largest, 2^126, 2^127
    0x3F7FFFFF, 0x3F800001, 0x40000000, 0x3F000000, 0x42FC0000, 0xC2FC0000,  # beside 1, 2, 1/2, 126, -126
    0x43000000, 0xC3000000, 0xC3150000, 0xC3160000,  # 128, -128, -149, -150
    0x477FE000, 0x477FF000, 0x477FEFFF, 0x33000000, 0x33000001, 0x38800000, 0x387FFFFF,  # ends of fp16
    0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7F7FFF, 0x7F7F8000,  # ties and ends of bf16
]  # fmt: skip
HALF_EDGES: dict[Kind, list[int]] = {
    "f16": [0x0000, 0x8000, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF],
    "bf16": [0x0000, 0x8000, 0x3F80, 0xBF80, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0x0001, 0x8001, 0x007F, 0x0080, 0x7F7F],
}
SMALLEST: dict[Kind, list[int]] = {  # zeros of both signs, subnormals
    "f16": [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF],
    "bf16": [0x0000, 0x8000, 0x0001, 0x8001, 0x007F],
    "f32": [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF],
}


class Bits:
    """A stream of random bits: SplitMix64 (Steele, Lea and Flood 2014) over a counter that starts at the seed.

    Args:
        seed: equal seeds give equal streams.
        name: streams of different names are unrelated.
    """

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
        self._next = int.from_bytes(digest[:8], "little")

    def words(self, shape: Shape) -> Words:
        """Return uniform 32-bit words."""
        count = int(np.prod(shape))
        with np.errstate(over="ignore"):
            z = np.uint64(self._next) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            self._next = int(z[-1]) if count else self._next
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        return (z >> np.uint64(32)).astype(np.uint32).reshape(shape)

    def below(self, bound: int, shape: Shape) -> Words:
        """Return whole numbers from 0 to bound - 1; the bias is below bound / 2^32."""
        return ((self.words(shape).astype(np.uint64) * np.uint64(bound)) >> np.uint64(32)).astype(np.uint32)

    def floats(self, kind: Kind, shape: Shape, low: int, high: int) -> Words:
        """Return bit patterns of values of either sign, magnitude from 2^low to below 2^(high + 1)."""
        fraction, bias, width = FORMATS[kind]
        exponent = self.below(high - low + 1, shape) + np.uint32(low + bias)
        parts = self.words(shape)
        sign = (parts >> np.uint32(31)) << np.uint32(width - 1)
        value: Words = sign | exponent << np.uint32(fraction) | parts & np.uint32((1 << fraction) - 1)
        return value

    def integers(self, kind: Kind, shape: Shape, most: int) -> Words:
        """Return bit patterns of whole numbers from -most to most."""
        values = np.arange(-most, most + 1)
        return np.asarray(encode(values.astype(np.float64), kind))[self.below(2 * most + 1, shape)]

    def choice(self, patterns: list[int], shape: Shape) -> Words:
        """Return some of the patterns."""
        return np.array(patterns, np.uint32)[self.below(len(patterns), shape)]

    def one_in(self, odds: int, shape: Shape) -> npt.NDArray[np.bool_]:
        """Return True once in `odds` places, on average."""
        hit: npt.NDArray[np.bool_] = self.below(odds, shape) == 0
        return hit


def encode(values: npt.NDArray[np.float64], kind: Kind) -> Words:
    """Return the bit patterns of values that the format holds exactly."""
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16).astype(np.uint32)
    words = values.astype(np.float32).view(np.uint32)
    return words >> np.uint32(16) if kind == "bf16" else words


def decode(patterns: Words, kind: Kind) -> npt.NDArray[np.float64]:
    """Return the values of bit patterns."""
    if kind == "f16":
        return patterns.astype(np.uint16).view(np.float16).astype(np.float64)
    words = patterns.astype(np.uint32)
    words = words << np.uint32(16) if kind == "bf16" else words
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes quiet
        return words.view(np.float32).astype(np.float64)


def pack(halves: Words) -> Words:
    """Join pairs along the last axis into words, the first in the low half."""
    return halves[..., 0::2] | halves[..., 1::2] << np.uint32(16)


def unpack(words: Words) -> Words:
    """Undo `pack`."""
    return np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], -1).reshape(*words.shape[:-1], -1)


def half_values(kind: Kind, low: int, high: int, bits: Bits) -> Words:
    """Pairs of 16-bit values a lane, edge values first."""
    cases = 16
    values = bits.floats(kind, (cases, 32, 2), low, high)
    edges = np.array(HALF_EDGES[kind], np.uint32)
    flat = values.reshape(-1)
    flat[: edges.size], flat[32 : 32 + edges.size] = edges, edges[::-1]
    return pack(values)
