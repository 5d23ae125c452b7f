"""The block-sparse result: counts equal closed forms and grow with the blocks kept."""

from __future__ import annotations

import json
import sys

import block_sparse
import pytest


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return block_sparse.measure(block_sparse.make_plan(quick=True), tmp_path_factory.mktemp("block_sparse"))


@pytest.mark.nvcc
def test_counts_equal_the_closed_forms_and_operations_are_proportional_to_the_blocks_kept(rows):
    assert [row for row in rows if not row["equal"]] == []
    for row in block_sparse.shares(rows):
        assert row["flops_share"] == pytest.approx(row["kept"], abs=1e-12)
        # What moves whatever is kept is at most Q, out and lse.
        assert row["kept"] * (1 - row["once_share"]) <= row["bytes_share"] <= row["kept"] + row["once_share"]
        assert row["lists_share"] < 0.1


@pytest.mark.nvcc
def test_a_count_that_differs_is_seen(rows):
    case = block_sparse.make_plan(quick=True)[0]
    assert block_sparse.closed_form(case) == rows[0]["counted"]
    assert block_sparse.closed_form(block_sparse.make_plan(quick=True)[1]) != rows[0]["counted"]


@pytest.mark.nvcc
def test_without_matplotlib_the_table_is_written_and_said_so(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert block_sparse.write(rows, tmp_path) == []
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["README.md"]
    text = (tmp_path / "README.md").read_text()
    assert "3 of 3 rows equal" in text and "`counted`" in text


def test_densities_go_from_a_twentieth_to_all_of_two_head_dimensions():
    plan = block_sparse.make_plan(quick=False)
    assert {one.variant.problem.head_dim for one in plan} == {64, 128}
    assert min(one.density for one in plan) == 0.05 and max(one.density for one in plan) == 1
    assert json.dumps([one.variant.name for one in plan])
