"""Reports: what a GPU measured is shown with its label, what the emulator said never as a speed, checks are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import report
from device_steps.report_charts import charts_of, draw
from device_steps.report_load import ReportError, load_run
from device_steps.report_text import figure, report_text

DIGESTS = ["ab" * 32, "cd" * 32]
SHAPE = {"batch": 4, "num_heads_q": 32, "num_heads_kv": 32, "head_dim": 64, "is_causal": True, "dtype": "bf16"}
COMMIT = "0123456789abcdef"


def write(folder: Path, step: str, *records: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, **record}) for record in records]
    (folder / f"{step}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def run_of(
    folder: Path, *, quick: bool = False, commit: str = COMMIT, label: str = "measured", identity: str = "aa"
) -> Path:
    """Results as a GPU gives them, two kernels of which one is wrong."""
    begun = {
        "key": "run 1",
        "id": identity,
        "begun": "2026-11-20T10:00:00+00:00",
        "commit": commit,
        "device": "NVIDIA H200",
    }
    write(
        folder,
        "environment",
        {**begun, "driver": "cuda", "quick": quick, "seed": 0},
        {"key": "matmul", "label": label, "tflops": 700.0},
        {"key": "matmul", "task": {"unit": "matmul", "wall_s": 4.0, "estimate_s": 8.0, "records": 1}},
    )
    checked = {"label": label, "kind": "problems", "problems": 12, "worst_margin": 0.4, "computes": "bf16 hd64 full"}
    good, bad = ({"variant": name, "key": f"{name}/problems", **checked} for name in ("good", "bad"))
    repeat = {"key": "good/repeat", "variant": "good", "kind": "repeat", "runs": 50, "ptx_sha256": DIGESTS[0]}
    write(
        folder,
        "correctness",
        {**good, "ptx_sha256": DIGESTS[0]},
        {**bad, "ptx_sha256": DIGESTS[1], "fault": "wrong: row 3\nof 4", "kind_of_fault": "wrong"},
        repeat,
    )
    rates = [("ours", 512, 400.0), ("ours", 1024, 450.0), ("sdpa flash", 512, 380.0), ("sdpa flash", 1024, 460.0)]
    write(
        folder,
        "speed",
        *(
            {
                "key": f"s{seqlen}/{name}",
                "label": label,
                "direction": "fwd",
                "implementation": name,
                "shape": {**SHAPE, "seqlen": seqlen},
                "time_us": 100.0,
                "tflops": rate,
                **({"best_peer": "sdpa flash", "ratio_to_best_peer": 1.05} if name == "ours" else {}),
            }
            for name, seqlen, rate in rates
        ),
        {
            "key": "memory/s512/ours",
            "label": label,
            "implementation": "ours",
            "peak_bytes": 1 << 24,
            "shape": {**SHAPE, "seqlen": 512},
        },
    )
    return folder


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Makes a report of folders; returns its status, what it printed and where its results are."""

    def go(*folders: Path) -> tuple[int, str, Path]:
        places = {name: tmp_path / name for name in ("results", "verified", "costs", "golden")}
        words = [word for name, path in places.items() for word in (f"--{name}", str(path))]
        status = report.main([*map(str, folders), *words])
        said = capsys.readouterr()
        return status, said.out + said.err, tmp_path

    return go


def test_a_report_is_named_by_device_date_and_commit_and_holds_the_records(make, tmp_path):
    status, _, places = make(run_of(tmp_path / "run"))
    assert status == 0
    (text,) = (places / "results" / "nvidia_h200" / "2026-11-20-0123456").glob("README.md")
    assert {path.name for path in text.parent.glob("*.jsonl")} == {
        "environment.jsonl",
        "correctness.jsonl",
        "speed.jsonl",
    }


def test_two_runs_of_a_day_stand_beside_each_other(make, tmp_path):
    runs = [run_of(tmp_path / "one", identity="aa"), run_of(tmp_path / "two", identity="bb")]
    _, _, places = make(*runs, runs[1])
    names = sorted(path.name for path in (places / "results" / "nvidia_h200").iterdir())
    assert names == ["2026-11-20-0123456", "2026-11-20-0123456-bb"]


def test_measured_figures_stand_beside_their_label_and_faults_come_first(tmp_path):
    text = report_text(load_run(run_of(tmp_path / "run"), print), [])
    assert "| s512 | 400.0 | 380.0 | 1.05 (sdpa flash) |" in text
    assert "TFLOP/s (measured)" in text and "0.400 (measured)" in text
    assert text.index("## Faults") < text.index("## Speed")
    assert "- **correctness** bad/problems: wrong: row 3 of 4" in text
    assert "| environment | 1 | 0.1 | 0.1 |" in text


def test_a_speed_that_no_gpu_measured_is_not_shown(tmp_path):
    run = load_run(run_of(tmp_path / "run", label="counted"), print)
    text = report_text(run, [])
    assert "400.0" not in text and "700.0" not in text and "not measured" in text
    assert {chart.name for chart in charts_of(run)} == {"errors"}
    assert figure(3.0, "modelled") == figure(None, "measured") == "not measured"


def test_right_kernels_are_noted_as_verified_and_wrong_ones_lose_their_note(make, tmp_path):
    earlier = {"by": "NVIDIA H200", "date": "2026-01-01", "problems": 3}
    others = {"by": "NVIDIA A100", "date": "2026-01-01", "problems": 3}
    kernels = {DIGESTS[1]: [earlier, others]}
    (tmp_path / "verified").write_text(json.dumps({"schema": 1, "kernels": kernels}))
    _, said, _ = make(run_of(tmp_path / "run"))
    noted = json.loads((tmp_path / "verified").read_text())["kernels"]
    assert noted == {
        DIGESTS[0]: [{"by": "NVIDIA H200", "date": "2026-11-20", "problems": 12}],
        DIGESTS[1]: [others],
    }
    assert "1 kernels, 1 not" in said


@pytest.mark.parametrize("options", [{"quick": True}, {"commit": f"{COMMIT} and changes"}])
def test_quick_runs_and_changed_checkouts_verify_nothing(make, tmp_path, options):
    _, said, _ = make(run_of(tmp_path / "run", **options))
    assert not (tmp_path / "verified").exists() and "no kernel is noted as verified" in said


def test_costs_and_recorded_instructions_are_kept(make, tmp_path):
    run = run_of(tmp_path / "run")
    (run / "nvidia_h200.npz").write_bytes(b"vectors")
    make(run)
    assert json.loads((tmp_path / "costs").read_text())["costs"]["cuda"] == {"environment/matmul": 4.0}
    assert (tmp_path / "golden" / "nvidia_h200.npz").read_bytes() == b"vectors"


def test_a_torn_line_is_left_out_with_a_warning_and_the_folder_is_not_changed(make, tmp_path):
    run = run_of(tmp_path / "run")
    with (run / "speed.jsonl").open("a") as stream:
        stream.write('{"step": "speed", "ke')
    before = (run / "speed.jsonl").read_bytes()
    status, said, _ = make(run)
    assert status == 0 and "speed.jsonl, line 6: no record" in said
    assert (run / "speed.jsonl").read_bytes() == before


def test_a_folder_without_results_is_refused_and_the_others_are_reported(make, tmp_path):
    status, said, _ = make(tmp_path / "nothing", run_of(tmp_path / "run"))
    assert status == 1 and "nothing: no results" in said and "README.md" in said
    with pytest.raises(ReportError):
        load_run(tmp_path / "nothing", print)


def test_without_matplotlib_there_is_markdown_and_a_word_about_it(make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, said, places = make(run_of(tmp_path / "run"))
    assert status == 0 and "matplotlib is not installed" in said
    assert not list((places / "results").rglob("*.png"))


def test_what_a_gpu_measured_is_drawn(tmp_path):
    charts = {chart.name: chart for chart in charts_of(load_run(run_of(tmp_path / "run"), print))}
    assert set(charts) == {"speed_hd64_causal", "memory", "errors"}
    assert charts["speed_hd64_causal"].series["ours"] == [("512", 400.0), ("1024", 450.0)]
    assert "measured" in charts["speed_hd64_causal"].y_label and "measured" in charts["errors"].y_label


def test_plots_are_png_files_and_the_same_for_the_same_records(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib: not installed (the extra plots)")
    charts = charts_of(load_run(run_of(tmp_path / "run"), print))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert len(draw(charts, tmp_path / name)) == 3
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
