"""The second opinion's own arithmetic, against NumPy where NumPy has the format, and against tables."""

from __future__ import annotations

import numpy as np
import pytest

from second_opinion import formats as ff
from second_opinion.formats import BF16, E4M3, E5M2, F16, F32, F64, TF32

RNG = np.random.default_rng(0)


def test_every_half_is_numpys():
    patterns = np.arange(65536).astype(np.uint16)
    theirs = patterns.view(np.float16).astype(float)
    assert np.array_equal(ff.table("f16"), theirs, equal_nan=True)
    assert np.array_equal(np.signbit(ff.table("f16"))[~np.isnan(theirs)], np.signbit(theirs)[~np.isnan(theirs)])


@np.errstate(all="ignore")
def test_single_precision_rounds_as_the_host_does():
    bits = RNG.integers(0, 2**32, (2, 4000), np.uint64).astype(np.uint32)
    bits[:, 2000:] = bits[:, 2000:] & np.uint32(0x83FFFFFF) | np.uint32(0x3C000000)
    a, b = bits.view(np.float32)
    for ours, theirs in ((ff.total, a + b), (ff.product, a * b)):
        got = [ff.pattern(ours(ff.number(x, F32), ff.number(y, F32)), F32) for x, y in zip(*bits.tolist(), strict=True)]
        keep = ~np.isnan(theirs)
        assert np.array_equal(np.array(got, np.uint32)[keep], theirs.view(np.uint32)[keep])


@np.errstate(all="ignore")
def test_halves_round_as_numpy_does():
    single = np.concatenate([RNG.standard_normal(4000) * 10.0 ** RNG.integers(-9, 6, 4000), [65519.99, 65520, 2**-25]])
    bits = single.astype(np.float32).view(np.uint32)
    got = [ff.pattern(ff.number(one, F32), F16) for one in bits.tolist()]
    assert np.array_equal(np.array(got, np.uint16), single.astype(np.float32).astype(np.float16).view(np.uint16))


@pytest.mark.parametrize(
    ("fmt", "bits", "value"),
    [
        (E4M3, 0x7E, 448), (E4M3, 0x08, 2**-6), (E4M3, 0x01, 2**-9), (E4M3, 0xFE, -448), (E4M3, 0x38, 1),
        (E5M2, 0x7B, 57344), (E5M2, 0x01, 2**-16), (E5M2, 0x7C, np.inf), (BF16, 0x3F80, 1), (BF16, 0x0001, 2**-133),
        (TF32, 0x3F802000, 1 + 2**-10), (F64, 0x3FF0000000000001, 1 + 2**-52),
    ],
)  # fmt: skip
def test_a_few_known_patterns(fmt, bits, value):
    assert ff.as_float(ff.number(bits, fmt)) == value
    assert ff.pattern(ff.number(bits, fmt), fmt) == bits


def test_fp8_has_its_not_a_numbers():
    assert np.flatnonzero(np.isnan(ff.table("e4m3"))).tolist() == [0x7F, 0xFF]
    assert np.flatnonzero(np.isnan(ff.table("e5m2"))).tolist() == [0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]
    assert np.flatnonzero(np.isinf(ff.table("e4m3"))).tolist() == []


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("rn", [0x3C00, 0x3C02, 0x3C01, 0xBC00, 0xBC01]),
        ("rna", [0x3C01, 0x3C02, 0x3C01, 0xBC01, 0xBC01]),
        ("rz", [0x3C00, 0x3C01, 0x3C00, 0xBC00, 0xBC00]),
        ("rm", [0x3C00, 0x3C01, 0x3C00, 0xBC01, 0xBC01]),
        ("rp", [0x3C01, 0x3C02, 0x3C01, 0xBC00, 0xBC00]),
    ],
)
def test_roundings_of_ties_and_others(rounding, expected):
    step = 2**-10
    given = np.array([1 + step / 2, 1 + 3 * step / 2, 1 + 0.6 * step, -1 - step / 2, -1 - 0.6 * step], np.float32)
    assert [ff.pattern(ff.number(one, F32), F16, rounding) for one in given.view(np.uint32).tolist()] == expected


def test_what_is_too_large_goes_where_the_rounding_says():
    huge = ff.number(int(np.float32(1e30).view(np.uint32)), F32)
    assert [ff.pattern(huge, F16, one) for one in ("rn", "rz", "rm", "rp")] == [0x7C00, 0x7BFF, 0x7BFF, 0x7C00]
    assert [ff.pattern(ff.negated(huge), F16, one) for one in ("rz", "rm", "rp")] == [0xFBFF, 0xFC00, 0xFBFF]
    assert ff.pattern(huge, E4M3, satfinite=True) == 0x7E
    assert ff.pattern(ff.number(0x7F800000, F32), E5M2, satfinite=True) == 0x7B
