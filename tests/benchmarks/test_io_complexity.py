"""The IO complexity result: counts equal closed forms, slopes are the theorem's, every figure has its label."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import io_complexity
import numpy as np
import pytest
from io_complexity_forms import TABLE_21, flash1_backward_bytes, flash1_bytes, standard_bytes, table_21_bytes
from io_complexity_report import draw, markdown, memory_rows

from kernelwright.gen.constraints import reasons_against
from kernelwright.gen.devices import reference_device
from kernelwright.gen.spec import OPERATIONS

MIB = 2**20
HEADS, SEQLEN, HEAD_DIM = 1024, 1024, 64  # figure 2 of the paper


def made_up(plan: io_complexity.Plan) -> dict[str, Any]:
    """The result if every count were its closed form."""
    return io_complexity.summarise(plan, forms_of(plan))


def forms_of(plan: io_complexity.Plan) -> dict[io_complexity.Case, dict[str, int]]:
    """The closed form of every case."""
    forward = dict.fromkeys(plan.cases, io_complexity.kernel_bytes)
    backward = dict.fromkeys(plan.backward, io_complexity.backward_counts)
    return {
        case: form(case.variant, case.seqlen, heads=case.batch * case.num_heads)
        for case, form in {**forward, **backward}.items()
    }


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plan = io_complexity.make_plan(quick=True)
    return io_complexity.summarise(plan, io_complexity.measure(plan, tmp_path_factory.mktemp("io_complexity")))


@pytest.mark.nvcc
def test_counted_bytes_equal_the_closed_form_to_the_byte(counted):
    assert len(counted["grid"]) >= 20
    assert [row for row in counted["grid"] if not row["equal"]] == []


@pytest.mark.nvcc
def test_bytes_additions_and_operations_of_the_backward_kernels_equal_the_closed_form(counted):
    rows = counted["backward"]
    assert {row["operation"] for row in rows} == set(OPERATIONS) - {"flash_fwd"}
    assert [row for row in rows if not row["equal"]] == []
    assert all((row["counted"]["atomic"] > 0) == (row["operation"] == "flash_bwd") for row in rows)


@pytest.mark.nvcc
def test_counted_slopes_are_those_of_the_theorem(counted):
    assert [one["expected"]["ours"] for one in counted["sweeps"]] == [2, 2, -1]
    for one in counted["sweeps"]:
        assert one["fitted"]["ours_k_v"] == pytest.approx(one["expected"]["ours"], abs=1e-6), one["name"]
        assert one["fitted"]["ours"] == pytest.approx(one["expected"]["ours"], abs=0.25), one["name"]


@pytest.mark.nvcc
def test_the_key_tile_changes_no_byte(counted):
    at_64 = [one for one in counted["blocks"] if one["block_m"] == 64]
    assert len({one["block_n"] for one in at_64}) > 1 and len({one["counted"] for one in at_64}) == 1


@pytest.mark.nvcc
def test_extra_memory_is_the_lse_and_linear_in_n(counted):
    for row in counted["grid"]:
        assert row["extra_memory"]["counted"] == row["extra_memory"]["lse"]
    assert any(row["is_counted"] for row in memory_rows(counted["grid"]))


@pytest.mark.nvcc
def test_memory_that_is_not_the_lse_would_be_found(tmp_path, monkeypatch):
    variant = io_complexity.even(64, 32)
    (kernel,) = io_complexity.build_kernels([variant], tmp_path)
    declared = io_complexity.Memory
    outside = np.zeros(1, dtype=np.float32)

    def hide(*, array: np.ndarray, access: Any) -> Any:
        return declared(array=outside if array.dtype == np.float32 else array, access=access)

    monkeypatch.setattr(io_complexity, "Memory", hide)
    with pytest.raises(io_complexity.EmulatorError):
        io_complexity.count(kernel, io_complexity.Case(variant=variant, seqlen=100))


def test_the_whole_plan_is_legal_and_approaches_the_theorem():
    plan = io_complexity.make_plan(quick=False)
    device = reference_device(io_complexity.SM)
    cases = [*plan.cases, *plan.backward]
    assert [reasons_against(case.variant, device) for case in cases if reasons_against(case.variant, device)] == []
    for one in made_up(plan)["sweeps"]:
        assert one["fitted"]["ours"] == pytest.approx(one["expected"]["ours"], abs=0.06), one["name"]
        assert one["fitted"]["standard"] == pytest.approx(one["expected"]["standard"], abs=0.06), one["name"]


def test_closed_forms_give_what_the_paper_prints():
    for seqlen, torch_mib, flash_mib in TABLE_21:
        torch_bytes, flash_bytes = table_21_bytes(seqlen)
        assert torch_mib is None or torch_bytes == torch_mib * MIB
        assert flash_bytes // MIB == flash_mib
    both = flash1_bytes(SEQLEN, HEAD_DIM, 384) + flash1_backward_bytes(SEQLEN, HEAD_DIM, 384)
    assert both * HEADS / 1e9 == pytest.approx(4.4, rel=0.08)  # printed; 384 is M / 4 d of 192 KiB
    assert standard_bytes(SEQLEN, HEAD_DIM) * HEADS / 1e9 == pytest.approx(9.13, abs=0.01)


def test_a_count_that_differs_is_told_and_fails(tmp_path, monkeypatch, capsys):
    def wrong(plan: io_complexity.Plan, _: Path) -> dict[io_complexity.Case, dict[str, int]]:
        forms = forms_of(plan)
        first = plan.cases[0]
        return forms | {first: forms[first] | {"load": forms[first]["load"] + 2}}

    monkeypatch.setattr(io_complexity, "measure", wrong)
    assert io_complexity.main(["--quick", "--out", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    assert "counted" in said.err and "the closed form is" in said.err
    assert sum(not row["equal"] for row in json.loads(said.out)["grid"]) == 1
    assert "**no**" in (tmp_path / "README.md").read_text()


def test_without_matplotlib_there_is_markdown_and_a_word_about_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = made_up(io_complexity.make_plan(quick=True))
    assert io_complexity.write(result, tmp_path) == []
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_the_text_says_what_was_counted_and_what_cannot_be():
    text = markdown(made_up(io_complexity.make_plan(quick=True)), [])
    for words in ("(counted)", "(closed form)", "(printed)", "Runtime curves", "No figure here is a time"):
        assert words in text


def test_the_committed_result_is_of_this_plan(repository):
    """Counts change with the kernels, their closed form with what they do: then make the result again."""
    plan = io_complexity.make_plan(quick=False)
    folder = repository / "benchmarks" / "results" / "io_complexity"
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert (folder / "README.md").read_text() == markdown(made_up(plan), pictures)


def test_plots_are_the_same_for_the_same_counts(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib: not installed (the extra plots)")
    result = made_up(io_complexity.make_plan(quick=True))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert draw(result, tmp_path / name) == ["io_complexity.png"]
    one, two = ((tmp_path / name / "io_complexity.png").read_bytes() for name in ("one", "two"))
    assert one[:4] == b"\x89PNG" and one == two


def test_cases_are_counted_once():
    plan = io_complexity.make_plan(quick=False)
    assert len(plan.cases) == len({dataclasses.astuple(case) for case in plan.cases})
