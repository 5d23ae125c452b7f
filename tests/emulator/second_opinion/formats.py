"""Floating-point formats and exact arithmetic on their bits, in whole numbers: no rounding of the host's enters.

Source: PTX ISA 9.0, "Fundamental Types" and "Alternate Floating-Point Data Formats"; IEEE 754 for the rest. Every value
is a whole number times a power of two, results are rounded once, by comparing what is cut off with a half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Format:
    """Sign, exponent and fraction, from the highest bit down.

    Args:
        is_finite: there is no infinity, and only the largest pattern is NaN (e4m3).
        pad: zero bits below the fraction (TF32 lies in a 32-bit register).
        nan: the canonical NaN.
    """

    name: str
    exponent_bits: int
    fraction_bits: int
    nan: int
    is_finite: bool = False
    pad: int = 0

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.fraction_bits + self.pad

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def least(self) -> int:
        """Exponent of the smallest subnormal."""
        return 1 - self.bias - self.fraction_bits

    @property
    def infinity(self) -> int:
        """Magnitude bits, unpadded, of infinity or of what lies beyond the largest number."""
        all_ones = ((1 << self.exponent_bits) - 1) << self.fraction_bits
        return all_ones | ((1 << self.fraction_bits) - 1) if self.is_finite else all_ones


F64 = Format(name="f64", exponent_bits=11, fraction_bits=52, nan=0x7FFFFFFFFFFFFFFF)
F32 = Format(name="f32", exponent_bits=8, fraction_bits=23, nan=0x7FFFFFFF)
TF32 = Format(name="tf32", exponent_bits=8, fraction_bits=10, nan=0x7FFFFFFF, pad=13)
F16 = Format(name="f16", exponent_bits=5, fraction_bits=10, nan=0x7FFF)
BF16 = Format(name="bf16", exponent_bits=8, fraction_bits=7, nan=0x7FFF)
E4M3 = Format(name="e4m3", exponent_bits=4, fraction_bits=3, nan=0x7F, is_finite=True)
E5M2 = Format(name="e5m2", exponent_bits=5, fraction_bits=2, nan=0x7F)
FORMATS = {one.name: one for one in (F64, F32, TF32, F16, BF16, E4M3, E5M2)}


class Number(NamedTuple):
    """(-1)^is_negative * whole * 2^power; `whole` is -1 for infinity and -2 for NaN."""

    is_negative: bool
    whole: int
    power: int


INF, NAN = -1, -2
A_NAN = Number(False, NAN, 0)


def number(bits: int, fmt: Format) -> Number:
    """Return the value of a bit pattern."""
    bits >>= fmt.pad
    is_negative = bool(bits >> (fmt.bits - fmt.pad - 1))
    magnitude = bits & ((1 << (fmt.bits - fmt.pad - 1)) - 1)
    fraction, exponent = magnitude & ((1 << fmt.fraction_bits) - 1), magnitude >> fmt.fraction_bits
    if magnitude >= fmt.infinity:
        return Number(is_negative, NAN if fmt.is_finite or fraction else INF, 0)
    if exponent == 0:
        return Number(is_negative, fraction, fmt.least)
    return Number(is_negative, fraction | 1 << fmt.fraction_bits, fmt.least + exponent - 1)


def pattern(value: Number, fmt: Format, rounding: str = "rn", *, satfinite: bool = False) -> int:
    """Round to a format: `rn` to even, `rna` away from zero on a tie, `rz`, `rm` down, `rp` up.

    Args:
        satfinite: what is too large, infinity too, becomes the largest number.
    """
    sign = int(value.is_negative) << (fmt.bits - 1)
    top = fmt.infinity - 1
    if value.whole == NAN:
        return fmt.nan
    if value.whole == INF:
        magnitude = top if satfinite else fmt.infinity
    elif value.whole == 0:
        magnitude = 0
    else:
        leading = value.whole.bit_length() - 1 + value.power
        quantum = max(leading - fmt.fraction_bits, fmt.least)
        cut = quantum - value.power
        if cut <= 0:
            kept = value.whole << -cut
        else:
            kept = value.whole >> cut
            rest, half = value.whole & ((1 << cut) - 1), 1 << (cut - 1)
            up = {
                "rn": rest > half or (rest == half and kept & 1 == 1),
                "rna": rest >= half,
                "rz": False,
                "rm": rest > 0 and value.is_negative,
                "rp": rest > 0 and not value.is_negative,
            }[rounding]
            kept += up
        magnitude = ((quantum - fmt.least) << fmt.fraction_bits) + kept
        if magnitude > top:
            toward_zero = rounding == "rz" or rounding == ("rp" if value.is_negative else "rm")
            magnitude = top if satfinite or toward_zero else fmt.infinity
    return sign | magnitude << fmt.pad


def negated(a: Number) -> Number:
    return a._replace(is_negative=not a.is_negative)


def product(a: Number, b: Number) -> Number:
    is_negative = a.is_negative != b.is_negative
    if NAN in (a.whole, b.whole):
        return A_NAN
    if INF in (a.whole, b.whole):
        return A_NAN if 0 in (a.whole, b.whole) else Number(is_negative, INF, 0)
    return Number(is_negative, a.whole * b.whole, a.power + b.power)


def total(a: Number, b: Number, rounding: str = "rn") -> Number:
    """a + b; an exact zero of unlike signs is positive, or negative when rounding down."""
    if NAN in (a.whole, b.whole):
        return A_NAN
    if a.whole == INF or b.whole == INF:
        if a.whole == b.whole and a.is_negative != b.is_negative:
            return A_NAN
        return a if a.whole == INF else b
    power = min(a.power, b.power)
    wide = [(-1 if one.is_negative else 1) * (one.whole << (one.power - power)) for one in (a, b)]
    whole = sum(wide)
    if whole == 0:
        is_negative = a.is_negative if a.is_negative == b.is_negative else rounding == "rm"
        return Number(is_negative, 0, 0)
    return Number(whole < 0, abs(whole), power)


def larger(a: Number, b: Number, *, pick_less: bool = False, keep_nan: bool = False) -> Number:
    """The larger, or the lesser, of two; a number beats NaN unless NaN is kept; +0 is above -0."""
    if NAN in (a.whole, b.whole):
        return A_NAN if keep_nan or a.whole == b.whole else (b if a.whole == NAN else a)
    return b if (order(a) < order(b)) != pick_less else a


def order(a: Number) -> tuple[int, float, int]:
    """A key that sorts numbers, infinities included, with -0 before +0."""
    size = 1 << 4000 if a.whole == INF else a.whole << (a.power + 1100)
    return (-size if a.is_negative else size, -1 if a.is_negative else 1, 0)


def flushed(a: Number, fmt: Format) -> Number:
    """A subnormal number as a zero of its sign."""
    small = a.whole > 0 and a.whole.bit_length() + a.power < fmt.least + fmt.fraction_bits + 1
    return a._replace(whole=0) if small else a


def clamped(a: Number) -> Number:
    """`.sat`: to [0, 1], NaN to +0, -0 to +0."""
    if a.whole == NAN or a.is_negative or a.whole == 0:
        return Number(False, 0, 0)
    return larger(a, Number(False, 1, 0), pick_less=True)


@cache
def table(name: str) -> Doubles:
    """Return the value of every pattern of a format of 16 bits or fewer."""
    fmt = FORMATS[name]
    return np.array([as_float(number(bits, fmt)) for bits in range(1 << fmt.bits)])


def as_float(a: Number) -> float:
    if a.whole == NAN:
        return float("nan")
    size = float("inf") if a.whole == INF else float(np.ldexp(float(a.whole), a.power))
    return -size if a.is_negative else size


def values(patterns: npt.NDArray[np.unsignedinteger], name: str) -> Doubles:
    """Return the values of bit patterns as float64, which holds every format here exactly."""
    fmt = FORMATS[name]
    if fmt.bits <= 16:
        return table(name)[patterns]
    with np.errstate(invalid="ignore"):
        return (
            (patterns.astype(np.uint32) & np.uint32(0xFFFFFFFF << fmt.pad & 0xFFFFFFFF)).view(np.float32).astype(float)
        )


def parts(words: Words, bits: int) -> Words:
    """Split words along the last axis into pieces of 16 or 8 bits, the lowest first."""
    if bits == 32:
        return words
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    split = words[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return split.reshape(*words.shape[:-1], -1)


def joined(pieces: npt.NDArray[np.unsignedinteger], bits: int) -> Words:
    """Undo `parts`."""
    if bits == 32:
        return pieces.astype(np.uint32)
    per_word = 32 // bits
    grouped = pieces.astype(np.uint32).reshape(*pieces.shape[:-1], -1, per_word)
    return np.asarray(np.bitwise_or.reduce(grouped << np.arange(0, 32, bits, dtype=np.uint32), -1), np.uint32)


def each(function: Callable[..., int], *arrays: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.uint64]:
    """Apply a function of whole numbers to arrays, element by element."""
    flat = [one.reshape(-1).tolist() for one in arrays]
    out = [function(*one) for one in zip(*flat, strict=True)]
    return np.array(out, np.uint64).reshape(arrays[0].shape)
