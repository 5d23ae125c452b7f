"""The comparison of the model with published figures: right arithmetic, honest labels, a document that is current."""

import json
import subprocess
import sys
from pathlib import Path

import model_validation as validation
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "benchmarks" / "results" / "model_validation.md"


@pytest.fixture(scope="module")
def found():
    return validation.validate()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([106, 100, 86, 101, 99, 103, 97, 113, 112, 110], [7, 27, 2, 50, 28, 29, 20, 12, 6, 17], -29 / 165),
        ([1, 1, 2], [1, 2, 3], 3**0.5 / 2),  # ties share a rank
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_the_rank_correlation_is_spearmans(first, second, expected):
    assert validation.spearman(first, second) == (expected if expected is None else pytest.approx(expected))


def test_every_row_has_both_figures_and_the_errors_are_theirs(found):
    rows = [row for rows in found["curves"] for row in rows]
    assert len(rows) == 82
    for row in rows:
        assert row["error"] == pytest.approx(row["modelled_tflops"] / row["published_tflops"] - 1, abs=2e-3)
        assert row["source"] and 0 < row["modelled_tflops"] < 1000
    first = [row for one in found["ladders"] for row in one["rows"] if not row["order"]]
    assert {row["modelled_relative"] for row in first} == {1.0} and len(first) == len(found["ladders"])


def test_the_model_keeps_to_what_its_own_notes_claim(found):
    """Not how good it is, but that a change that makes it worse is noticed."""
    summary = found["summary"]
    assert summary["orders_wrong_and_resolved"] == 0
    assert summary["curve_spearman"] >= 0.95 and summary["curve_mean_abs_error"] <= 0.10


def test_the_document_says_what_is_published_and_what_is_modelled_and_is_current(found):
    text = validation.text(found)
    assert "Nothing here was measured by us" in text and "| published | modelled |" in text
    assert DOCUMENT.read_text() == text, f"write it again: python benchmarks/model_validation.py --out {DOCUMENT}"


def test_the_command_prints_plain_data(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "model_validation.py"),
        "--json",
        "--out",
        str(tmp_path / "x.md"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["schema"] == 1 and (tmp_path / "x.md").read_text().startswith("# The model against")
