"""The whole run on the emulator: order, faults contained, kill and resume, nothing of the emulator's called a speed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from broken_module import break_module
from device_steps.modules import kernels_of, load_module
from run_device import command, device, finished, records

from kernelwright.gen.cli import main

pytestmark = pytest.mark.nvcc
SPEED = re.compile(r"\d\s*(us|ms|TFLOP/s|GB/s)\b")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run of every step, and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "results"
    done = device(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout, done.stderr


def test_every_step_runs_in_its_order(whole):
    from device_steps.steps import STEPS, find_step

    out, _, progress = whole
    names = [entry.name for entry in STEPS if find_step(entry.name)]
    begun = [line.split(": ")[1] for line in progress.splitlines() if re.match(r"device: \w+: .* \(about", line)]
    assert list(dict.fromkeys(begun)) == names
    assert all(finished(out, name) for name in names)
    assert len(list(out.iterdir())) <= 8


def test_the_table_is_short_and_compares_estimated_with_actual_minutes(whole):
    _, printed, _ = whole
    assert len(printed.splitlines()) <= 60
    assert re.search(r"in all +estimated \d+\.\d\d min, took \d+\.\d\d", printed)


def test_nothing_of_the_emulator_is_called_a_speed(whole):
    out, printed, _ = whole
    assert SPEED.search(printed) is None, printed
    assert "copy on the device: not measured" in printed
    for path in out.glob("*.jsonl"):
        for one in records(out, path.stem):
            assert one.get("label") != "measured", one
            assert not isinstance(one.get("time_us"), float) and not isinstance(one.get("tflops"), float), one


def test_records_say_whose_they_are_and_where_figures_come_from(whole):
    out, _, _ = whole
    for path in out.glob("*.jsonl"):
        for one in records(out, path.stem):
            assert one["step"] == path.stem and one["key"]
            assert one.get("label", "counted") in ("counted", "static", "modelled")


def test_kernels_of_the_backward_pass_are_checked_timed_tuned_and_compared(whole):
    out, _, _ = whole
    checked = [one for one in records(out, "correctness") if one.get("kind") == "problems"]
    operations = {str(one["variant"]).partition("_sm80")[0] for one in checked}
    assert operations == {"flash_fwd", "flash_bwd", "flash_bwd_dq", "flash_bwd_delta", "flash_bwd_convert"}
    assert all(one["problems"] > 0 and one["failed"] == 0 for one in checked)
    ours = [one for one in records(out, "speed") if one.get("direction") == "bwd" and one["implementation"] == "ours"]
    assert len(ours) == 1 and ours[0]["worst_difference"] < 1 and ours[0]["variant"].startswith("flash_bwd_sm80")
    compared = [one["variant"] for one in records(out, "fidelity") if "outputs" in one]
    assert [name.partition("_sm80")[0] for name in compared] == ["flash_fwd", "flash_bwd"]
    assert any(str(one.get("winner", "")).startswith("flash_bwd_sm80") for one in records(out, "tune"))


def test_a_resumed_run_does_nothing_twice_and_reports_the_same(whole):
    out, printed, _ = whole
    before = {path.name: path.read_text() for path in out.glob("*.jsonl")}
    again = device(out, "--resume")
    assert again.returncode == 0, again.stderr
    for path in out.glob("*.jsonl"):
        text = path.read_text()
        assert text.startswith(before[path.name])
        if path.stem != "environment":
            assert text == before[path.name]
    assert again.stdout.split("\n\n")[0] == printed.split("\n\n")[0]


def test_a_report_is_made_of_it(whole, tmp_path):
    import report

    out, _, _ = whole
    places = ["--results", str(tmp_path), "--verified", str(tmp_path / "v.json"), "--costs", str(tmp_path / "c.json")]
    assert report.main([str(out), *places]) == 0
    (text,) = [path.read_text() for path in tmp_path.rglob("README.md")]
    assert SPEED.search(text) is None, text
    assert "not measured" in text and "## Correctness" in text and "## Minutes" in text
    assert json.loads((tmp_path / "c.json").read_text())["costs"]["emulator-quick"]["correctness/problems"] > 0
    assert not (tmp_path / "v.json").exists()  # a quick run


@pytest.fixture(scope="module")
def broken(tiny_module: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], str]:
    """A run over kernels of which three are broken: its folder, which they are, and what it printed."""
    folder = tmp_path_factory.mktemp("broken")
    variants = break_module(tiny_module, folder / "flash_broken")
    only = ["--only", "environment", "correctness"]
    done = device(folder / "out", "--module", str(folder / "flash_broken"), "--task-seconds", "6", *only)
    assert done.returncode == 1, done.stderr
    return folder / "out", variants, done.stdout


def test_kernels_that_hang_fault_or_compute_something_else_are_told(broken):
    out, variants, printed = broken
    found = {one["key"]: one for one in records(out, "correctness") if "variant" in one}
    assert found[f"{variants['hang']}/problems"]["kind_of_fault"] == "timeout"
    assert "note" in found[f"{variants['hang']}/repeat"]  # a kernel that hung is not tried again
    assert "LaunchError" in found[f"{variants['fault']}/problems"]["fault"]
    assert found[f"{variants['wrong']}/problems"]["kind_of_fault"] == "wrong"
    assert "error" in found[f"{variants['wrong']}/problems"]["wrong"][0]
    assert "FAULTS" in printed and "no answer within 6 s" in printed


def test_broken_kernels_leave_the_rest_unharmed(broken, tiny_module):
    out, _, _ = broken
    sound = kernels_of(tiny_module)[0].name
    found = {one["key"]: one for one in records(out, "correctness") if "variant" in one}
    assert found[f"{sound}/problems"]["failed"] == 0 and found[f"{sound}/repeat"]["runs"] > 1
    assert not any("fault" in found[f"{sound}/{kind}"] for kind in ("problems", "repeat"))
    assert len(finished(out, "correctness")) == 8


def test_another_kernel_of_the_same_name_is_not_mixed_in(broken, tiny_module):
    out, _, _ = broken
    done = device(out, "--only", "correctness", "--module", str(tiny_module), "--resume")
    assert done.returncode == 1 and "are of other kernels" in done.stderr


def test_a_killed_run_loses_nothing_and_is_resumed(tiny_module, tmp_path):
    out, words = tmp_path / "out", ["--module", str(tiny_module), "--only", "correctness", "environment"]
    process = subprocess.Popen(command(out, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = out / "correctness.jsonl"
    begun = time.monotonic()
    while not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() - begun < 120
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1]
    with path.open("ab") as stream:
        stream.write(b'{"step": "correctness", "key": "cut')
    done = device(out, "--resume", *words)
    assert done.returncode == 0, done.stderr
    assert "correctness.jsonl: the last line was cut off" in done.stderr
    assert path.read_bytes().startswith(kept)
    answered = [one["key"] for one in records(out, "correctness") if "variant" in one]
    assert len(answered) == len(set(answered)) == 8


def test_a_run_stops_at_its_time_and_says_what_was_left_out(tiny_module, tmp_path):
    begun = time.monotonic()
    done = device(tmp_path / "out", "--module", str(tiny_module), "--only", "correctness", minutes=0.02)
    assert time.monotonic() - begun < 60
    assert "left out for want of time" in done.stdout


def test_a_verified_kernel_shows_in_support(tiny_module, tmp_path, monkeypatch, capsys):
    """From records of a GPU to what the next build's `support()` says."""
    from device_steps.checked import update_verified

    from kernelwright.build import table_folder
    from kernelwright.build.verified import read_verified

    table = json.loads((tiny_module / "kernels" / "table.json").read_text())
    name, entry = next(iter(table["kernels"].items()))
    record = {"key": "x", "ptx_sha256": entry["files"]["ptx"]["sha256"], "problems": 18}
    assert update_verified([record], "NVIDIA H200", "2026-11-20", tmp_path / "verified.json") == (1, 0)
    monkeypatch.setattr(table_folder, "read_verified", lambda: read_verified(tmp_path / "verified.json"))
    options = ["--head-dim", "64", "128", "--dtype", "bf16", "--out", str(tmp_path), "--name", "flash_verified"]
    assert main(["build", "--arch", "sm80", *options]) == 0
    capsys.readouterr()
    load_module(tmp_path / "flash_verified").support()
    lines = capsys.readouterr().out.splitlines()
    assert ["NVIDIA H200" in line for line in lines if f"  {name}  " in line] == [True]
