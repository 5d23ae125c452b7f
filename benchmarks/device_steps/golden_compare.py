"""How far two answers to one instruction may be apart: not at all, by its documented error, or by a bound for mma."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from device_steps.golden_inputs import Kind, Words, decode, unpack

Doubles = npt.NDArray[np.float64]
EPSILON: dict[Kind, float] = {"f16": 2**-10, "bf16": 2**-7, "f32": 2**-23}  # one unit in the last place of 1
LEAST: dict[Kind, float] = {"f16": 2**-24, "bf16": 2**-133, "f32": 2**-149}  # the smallest subnormal


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two answers compared.

    Attributes:
        values: how many were compared.
        differing: how many have other bits.
        outside: how many are further apart than allowed.
        worst: largest distance, as a part of what is allowed; infinite where nothing is.
        at: (case, lane, value) of the worst.
    """

    values: int
    differing: int
    outside: int
    worst: float
    at: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What is allowed, in words, and the comparison: (given, got, recorded) -> Difference."""

    kind: Literal["bits", "bits, any NaN for a NaN", "tolerance", "mma bound"]
    text: str
    compare: Callable[[Words, Words, Words], Difference]


def _values(words: Words, kind: Kind) -> Doubles:
    return decode(words if kind == "f32" else unpack(words), kind)


def found_difference(got: Words, recorded: Words, excess: Doubles) -> Difference:
    """`excess` is the distance over what is allowed, by value; more than 1 is outside."""
    at = np.unravel_index(int(np.argmax(excess)), excess.shape) if excess.size else (0, 0, 0)
    case, lane, value = (int(one) for one in at)
    return Difference(
        values=excess.size,
        differing=int(np.count_nonzero(got != recorded)),
        outside=int(np.count_nonzero(excess > 1)),
        worst=float(excess[case, lane, value]) if excess.size else 0.0,
        at=(case, lane, value),
    )


def _compare_bits(given: Words, got: Words, recorded: Words) -> Difference:
    return found_difference(got, recorded, np.where(got != recorded, np.inf, 0.0))


def _compare_any_nan(given: Words, got: Words, recorded: Words) -> Difference:
    both_nan = np.isnan(_values(got, "f32")) & np.isnan(_values(recorded, "f32"))
    return found_difference(got, recorded, np.where((got != recorded) & ~both_nan, np.inf, 0.0))


EXACT = Check(kind="bits", text="equal bits", compare=_compare_bits)
ANY_NAN = Check(kind="bits, any NaN for a NaN", text="equal bits, any NaN for a NaN (fp32)", compare=_compare_any_nan)


def excess_of(got: Doubles, recorded: Doubles, allowed: Doubles) -> Doubles:
    """Return distance over allowance: 0 for equal values and two NaN, infinite where only one value is finite."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        same = (got == recorded) | (np.isnan(got) & np.isnan(recorded))
        distance = np.abs(got - recorded)
        ratio = np.where(distance == 0, 0.0, distance / allowed)
    odd = ~np.isfinite(got) | ~np.isfinite(recorded)
    return np.where(same, 0.0, np.where(odd, np.inf, np.nan_to_num(ratio, nan=np.inf, posinf=np.inf)))


def tolerance(kind: Kind, *, relative: float = 0.0, absolute: float = 0.0, source: str) -> Check:
    """Allow the documented error of the hardware and one unit in the last place for the emulator's.

    Args:
        kind: of the result; 16-bit ones are pairs.
        relative: documented, as a part of the result.
        absolute: documented.
        source: of both.
    """

    def compare(given: Words, got: Words, recorded: Words) -> Difference:
        x, y = _values(got, kind), _values(recorded, kind)
        with np.errstate(invalid="ignore"):
            size = np.nan_to_num(np.maximum(np.abs(x), np.abs(y)), posinf=0.0)
        allowed = size * (relative + EPSILON[kind]) + absolute + LEAST[kind]
        return found_difference(got, recorded, excess_of(x, y, allowed))

    text = f"relative {relative:.3g}, absolute {absolute:.3g} ({source}), and one unit in the last place for ours"
    return Check(kind="tolerance", text=text, compare=compare)


# Fragments: which row and column of A [16, K], B [K, 8] and C [16, 8] a lane's n-th element is.
# Source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "... m16n8k8".
_GROUP, _THREAD = np.arange(32) // 4, np.arange(32) % 4


def _gather(elements: Doubles, which: Literal["a", "b", "c"], depth: int) -> Doubles:
    """Return the matrices of [cases, 32, elements]."""
    cases = elements.shape[0]
    out = np.zeros((cases, *{"a": (16, depth), "b": (depth, 8), "c": (16, 8)}[which]))
    for n in range(elements.shape[2]):
        pair = 2 * _THREAD + n % 2
        if which == "a":
            out[:, _GROUP + 8 * (n // 2 % 2), pair + 8 * (n // 4)] = elements[:, :, n]
        elif which == "b":
            out[:, pair + 8 * (n // 2), _GROUP] = elements[:, :, n]
        else:
            out[:, _GROUP + 8 * (n // 2), pair] = elements[:, :, n]
    return out


def sum_allowance(
    a: Doubles, b: Doubles, c: Doubles, *, depth: int, accumulator: Kind = "f32", epsilon: float = EPSILON["f32"]
) -> Doubles:
    """Return how far apart two sums A B + C may be; `mma_check` says why."""
    most_exact = 2 / epsilon if accumulator == "f32" else 2.0**11
    with np.errstate(invalid="ignore", over="ignore"):
        terms = np.abs(a) @ np.abs(b) + np.abs(c)
        whole = [np.all(one == np.rint(one), axis=(1, 2), keepdims=True) for one in (a, b, c)]
    is_exact = whole[0] & whole[1] & whole[2] & (terms < most_exact)
    allowed = terms * 2 * (depth + 2) * epsilon + LEAST[accumulator] * depth
    if accumulator == "f16":
        allowed = allowed + terms * 2 * EPSILON["f16"]
    return np.where(is_exact, 0.0, np.nan_to_num(allowed, posinf=0.0))


def mma_check(depth: int, kind: Kind, accumulator: Kind) -> Check:
    """Allow what any order and any alignment of the terms can change.

    Tensor cores add the exact products and C aligned to the largest, and cut off what falls below: each of K + 1
    terms loses less than one unit in the 23rd bit of the largest, and fp32 additions one after another round as
    often. Both stay within 2 (K + 2) 2^-23 of |c| + sum |a_i b_i|. A 16-bit accumulator is rounded once more, at
    most at each half of K. Where all terms are small whole numbers every order is exact, and nothing is allowed.
    Source: Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores" (2021).
    """
    num_a, num_b = depth // 4, depth // 8

    def compare(given: Words, got: Words, recorded: Words) -> Difference:
        a = _gather(_values(given[..., :num_a], kind), "a", depth)
        b = _gather(_values(given[..., num_a : num_a + num_b], kind), "b", depth)
        c = _gather(_values(given[..., num_a + num_b :], accumulator), "c", depth)
        x, y = (_gather(_values(one, accumulator), "c", depth) for one in (got, recorded))
        allowed = sum_allowance(a, b, c, depth=depth, accumulator=accumulator)
        return found_difference(got, recorded, excess_of(x, y, allowed))

    f32 = f"{2 * (depth + 2)} x 2^-23"
    text = f"{f32 if accumulator == 'f32' else f32 + ' + 2^-9'} of |c| + sum |a b|; nothing for small whole numbers"
    return Check(kind="mma bound", text=text, compare=compare)
