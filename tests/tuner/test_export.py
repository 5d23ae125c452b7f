"""Tables: label and evidence in every row, merged by subject, published in one step."""

import json
from dataclasses import replace

import pytest
import tuner_fakes as fakes
from tuner_fakes import FakeScorer, fake_kernel, make_request, make_work, run

from kernelwright.gen.errors import BuildError
from kernelwright.gen.spec import ForwardProblem
from kernelwright.runtime.table import read_table
from kernelwright.tuner.export import publish, tuned_rows, write_table
from kernelwright.tuner.report import ranking, ranking_text, standing_text
from kernelwright.tuner.target import Gpu


def tuned(tmp_path, space=fakes.SPACE, **more):
    result = run(make_request(tmp_path / "study", space=space), **more)
    (row,) = tuned_rows(result.choice, result.outcomes, result.facts, space.shapes)
    return result, row


def module(tmp_path):
    folder = tmp_path / "flash_sm80"
    folder.mkdir()
    (folder / "build_info.json").write_text('{"kernelwright": "0"}')
    return folder


def test_a_row_says_modelled_and_names_its_figures_so(tmp_path):
    result, row = tuned(tmp_path)
    assert row["label"] == "modelled" and "time_us" not in json.dumps(row)
    evidence = row["evidence"]
    assert set(evidence["model_cycles"]) == {shape.name for shape in fakes.SHAPES}
    assert (evidence["trials"], evidence["points"], evidence["date"]) == (16, 16, "2026-11-20")
    assert (evidence["seed"], evidence["device"], evidence["toolkit"]) == (0, "a100", "13.0.88")
    assert evidence["source_digest"] == "a" * 64 and evidence["study"] == "small-sm80"
    assert row["runner_up"]["model_cycles"] >= evidence["score"] and isinstance(row["runner_up"]["tied"], bool)
    assert (
        evidence["default"]["model_cycles"] >= evidence["score"] == pytest.approx(result.choice.winner.score, abs=1e-3)
    )


def test_a_measured_row_is_for_its_gpu_alone_and_has_other_field_names(tmp_path):
    request = replace(make_request(tmp_path), gpu=Gpu(name="NVIDIA A100-SXM4-80GB", sm=80, driver="CUDA 13.0"))
    result = run(request, make_work(scorer=FakeScorer(label="measured")), label="measured")
    (row,) = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    assert (row["label"], row["device"]) == ("measured", "NVIDIA A100-SXM4-80GB")
    assert row["evidence"]["driver"] == "CUDA 13.0"
    assert "time_us" in row["evidence"] and "model_cycles" not in json.dumps(row)


def test_a_winner_that_only_ties_leaves_the_default_and_says_so(tmp_path):
    request = make_request(tmp_path)
    default = request.pool.legal[request.pool.default]

    class Flat(FakeScorer):
        def score(self, compiled):
            return {shape.name: 100.0 if compiled.variant == default else 99.0 for shape in fakes.SHAPES}

    result = run(request, make_work(scorer=Flat()))
    (row,) = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    assert row["kernel"] == default.name and row["evidence"]["standing"] == "tied with default"


def test_a_table_folder_is_one_the_run_time_reads(tmp_path):
    result, row = tuned(tmp_path)
    winner = result.choice.winner
    write_table(
        tmp_path / "table", "small", [row], [fake_kernel(winner.variant)], {winner.variant.name: winner.verified}
    )
    table = read_table(tmp_path / "table", origin="test")
    assert [one.label for one in table.rows] == ["modelled"]
    assert table.kernels[winner.variant.name].verified[0]["by"] == "emulator"
    assert table.kernels[winner.variant.name].files["cubin"].read() == b"cubin"


def test_tuning_another_space_keeps_rows_and_the_same_space_replaces_its_own(tmp_path):
    target = module(tmp_path)

    def publish_one(name, space, content):
        result, row = tuned(tmp_path / name, space)
        kernel = fake_kernel(result.choice.winner.variant, content)
        return read_table(publish(target, tmp_path / "made", [row], [kernel], {}), origin="test")

    full = replace(fakes.SPACE, name="full", problem=ForwardProblem(dtype="bf16", head_dim=64, is_causal=False))
    publish_one("first", fakes.SPACE, b"one")
    both = publish_one("second", full, b"two")
    assert len(both.rows) == 2 and len(both.kernels) == 2
    assert {one.files["cubin"].read() for one in both.kernels.values()} == {b"one", b"two"}
    again = publish_one("third", fakes.SPACE, b"three")
    assert len(again.rows) == 2
    assert {one.files["cubin"].read() for one in again.kernels.values()} == {b"two", b"three"}
    assert {row.label for row in again.rows} == {"modelled"}
    current = (target / "tuned" / "current").read_text().strip()
    assert again.folder == target / "tuned" / current


def test_a_damaged_tuned_table_is_left_out_with_a_warning(tmp_path, caplog):
    target = module(tmp_path)
    (target / "tuned" / "old").mkdir(parents=True)
    (target / "tuned" / "old" / "table.json").write_text("{")
    (target / "tuned" / "current").write_text("old\n")
    result, row = tuned(tmp_path)
    publish(target, tmp_path / "made", [row], [fake_kernel(result.choice.winner.variant)], {})
    assert "earlier tuned rows are left out" in caplog.text


def test_publishing_into_what_is_no_module_is_refused(tmp_path):
    result, row = tuned(tmp_path)
    with pytest.raises(BuildError, match="no dispatch module"):
        publish(tmp_path, tmp_path / "made", [row], [fake_kernel(result.choice.winner.variant)], {})


def test_every_printed_row_and_heading_says_modelled(tmp_path):
    result, _ = tuned(tmp_path)
    assert {row["label"] for row in ranking(result.outcomes, "modelled")} == {"modelled"}
    text = ranking_text(result.outcomes, result.choice, "modelled").splitlines()
    assert text[0].startswith("modelled model_cycles, geometric mean over 2 shapes, relative to the best")
    rows = [line for line in text[2:] if not line.startswith("  and")]
    assert rows and all("modelled" in line for line in rows)
    assert any(line.endswith("winner") for line in rows) and any(line.endswith("default") for line in rows)
    assert "better than default (modelled" in standing_text(result.choice, "modelled")
