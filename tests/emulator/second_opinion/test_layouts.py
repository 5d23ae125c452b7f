"""The fragment tables themselves: a partition of each matrix, and the elements that figures of the PTX ISA show."""

from __future__ import annotations

import numpy as np
import pytest

from second_opinion.layouts import EIGHT, EIGHT_TRANSPOSED, LAYOUTS


def fragments():
    for (shape, bits), layout in LAYOUTS.items():
        for name in "abc":
            yield pytest.param(getattr(layout, name), id=f"{shape}-{bits}-{name}")
    yield pytest.param(EIGHT, id="8x8")
    yield pytest.param(EIGHT_TRANSPOSED, id="8x8-trans")


@pytest.mark.parametrize("fragment", list(fragments()))
def test_each_element_of_a_matrix_is_in_one_register(fragment):
    times = np.zeros(fragment.shape, int)
    np.add.at(times, (fragment.rows, fragment.columns), 1)
    assert np.all(times == 1)
    assert times.size == 32 * fragment.count


@pytest.mark.parametrize(
    ("shape", "bits", "which", "lane", "element", "place"),
    [
        ("m16n8k16", 16, "a", 5, 2, (9, 2)),
        ("m16n8k16", 16, "a", 31, 7, (15, 15)),
        ("m16n8k16", 16, "a", 4, 4, (1, 8)),
        ("m16n8k16", 16, "b", 5, 3, (11, 1)),
        ("m16n8k16", 16, "c", 5, 3, (9, 3)),
        ("m16n8k8", 16, "a", 6, 3, (9, 5)),
        ("m16n8k8", 32, "a", 6, 1, (9, 2)),
        ("m16n8k8", 32, "a", 6, 2, (1, 6)),
        ("m16n8k8", 32, "b", 6, 1, (6, 1)),
        ("m16n8k4", 32, "a", 31, 1, (15, 3)),
        ("m16n8k32", 8, "a", 1, 13, (8, 21)),
        ("m16n8k32", 8, "b", 1, 6, (22, 0)),
        ("m16n8k16", 8, "a", 9, 6, (10, 6)),
        ("m8n8k16", 8, "b", 9, 2, (6, 2)),
        ("m8n8k16", 8, "c", 9, 1, (2, 3)),
    ],
)
def test_elements_are_where_the_formulas_put_them(shape, bits, which, lane, element, place):
    fragment = getattr(LAYOUTS[shape, bits], which)
    assert (fragment.rows[lane, element], fragment.columns[lane, element]) == place


def test_the_table_of_a_and_of_c_reads_like_the_figures():
    """Lane and element of the first rows: T0:{a0,a1} T1:{a0,a1} ..., as the figures of m16n8k16 print them."""
    layout = LAYOUTS["m16n8k16", 16]
    table = np.empty(layout.a.shape, object)
    for lane in range(32):
        for element in range(layout.a.count):
            table[layout.a.rows[lane, element], layout.a.columns[lane, element]] = f"T{lane}:a{element}"
    assert table[0, :4].tolist() == ["T0:a0", "T0:a1", "T1:a0", "T1:a1"]
    assert table[1, 6:10].tolist() == ["T7:a0", "T7:a1", "T4:a4", "T4:a5"]
    assert table[8, :2].tolist() == ["T0:a2", "T0:a3"]
    assert table[15, 14:].tolist() == ["T31:a6", "T31:a7"]
