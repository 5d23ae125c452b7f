"""The real compiler, the emulator and a freshly built module: a tiny space to a row that the next import explains."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from kernelwright.build import kernels
from kernelwright.build.launcher import emulator_library
from kernelwright.gen.cli import main as gen
from kernelwright.gen.devices import reference_device
from kernelwright.gen.spec import Variant
from kernelwright.tuner import measure
from kernelwright.tuner.cli import main as tuner
from kernelwright.tuner.compile import NinjaCompiler
from kernelwright.tuner.scratch import make_scratch
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.verify import ModuleVerifier

SPACE = """
schema: 1
kernel: flash_fwd
arch: sm80
problem: {dtype: bf16, head_dim: 64, is_causal: true}
schedule: {block_m: [64, 128], block_n: 64, num_warps: 4, num_stages: 2, q_in_regs: [false, true]}
constraints: [smem_fits, registers_fit]
shapes: {batch: 1, num_heads_q: 4, num_heads_kv: 4, seqlen: [1024]}
"""

EXPLAIN = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
import flash_sm80
q = torch.zeros(1, 64, 2, 64, dtype=torch.bfloat16)
found = flash_sm80.explain(q, q, q, causal=True).to_dict()
full = flash_sm80.explain(q, q, q, causal=False).to_dict()
flash_sm80.flash_attn_func(q, q, q, causal=True)
print(json.dumps([{k: str(one[k]) for k in ("variant", "label", "table")} for one in (found, full)]))
"""


@pytest.mark.nvcc
def test_tuning_publishes_a_modelled_row_that_the_next_import_explains(tmp_path, capsys):
    out = str(tmp_path)
    assert gen(["build", "--arch", "sm80", "--head-dim", "64", "--dtype", "bf16", "--out", out]) == 0
    space = tmp_path / "tiny.yaml"
    space.write_text(SPACE)
    capsys.readouterr()
    assert tuner(["run", str(space), "--backend", "modelled", "--arch", "sm80", "--out", out, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["trials"], answer["failures"], answer["label"]) == (4, {}, "modelled")
    assert answer["module"] == str(tmp_path / "flash_sm80")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXPLAIN, out], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    found, full = json.loads(done.stdout)
    assert found == {"variant": answer["winner"], "label": "modelled", "table": "tuned"}
    assert full["label"] == "hand" and full["table"] == "kernels"

    table = json.loads((tmp_path / "flash_sm80" / "tuned" / _current(tmp_path) / "table.json").read_text())
    assert table["kernels"][answer["winner"]]["verified"][0]["by"] == "emulator"
    assert {row["label"] for row in table["rows"]} == {"modelled"} and "time_us" not in json.dumps(table)

    assert tuner(["run", str(space), "--backend", "modelled", "--arch", "sm80", "--out", out]) == 1
    assert "--resume" in capsys.readouterr().err


def _current(folder):
    return (folder / "flash_sm80" / "tuned" / "current").read_text().strip()


class OneTick:
    """A timer that calls and always says the same."""

    def sample_us(self, call):
        call()
        return 150.0


BACKWARD_SPACE = """
schema: 1
kernel: flash_bwd
arch: sm80
problem: {dtype: bf16, head_dim: 64, is_causal: true}
schedule:
  {block_m: [32, 64], block_n: 64, num_warps: 4, num_stages: 1, warps_scores: 2, warps_kv: 2, warps_q: 2}
constraints: [smem_fits, registers_fit]
shapes: {batch: 1, num_heads_q: 4, num_heads_kv: 4, seqlen: [1024]}
"""
GRADIENTS = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
import flash_sm80
q, k, v = (torch.randn(1, 70, 2, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
with flash_sm80.force_variant(sys.argv[2]):
    flash_sm80.flash_attn_func(q, k, v, causal=True).sum().backward()
print(all(bool(one.grad.abs().sum() > 0) for one in (q, k, v)))
"""


@pytest.mark.nvcc
def test_a_backward_space_is_tuned_published_compared_merged_and_reported(tmp_path, capsys):
    out = str(tmp_path)
    profile = tmp_path / "causal.yaml"
    profile.write_text("schema: 1\nproblems: [{dtype: bf16, head_dim: 64, is_causal: true, backward: true}]\n")
    assert gen(["build", "--arch", "sm80", "--profile", str(profile), "--name", "flash_sm80", "--out", out]) == 0
    spaces = {name: tmp_path / f"{name}.yaml" for name in ("forward", "backward")}
    spaces["forward"].write_text(SPACE)
    spaces["backward"].write_text(BACKWARD_SPACE)
    capsys.readouterr()
    winners = {}
    for name in ("forward", "backward"):
        run = ["run", str(spaces[name]), "--backend", "modelled", "--arch", "sm80", "--out", out, "--trials", "2"]
        assert tuner([*run, "--strategy", "random", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["trials"], answer["failures"], answer["label"]) == (2, {}, "modelled")
        winners[name] = answer["winner"]
    assert winners["backward"].startswith("flash_bwd_sm80")

    table = json.loads((tmp_path / "flash_sm80" / "tuned" / _current(tmp_path) / "table.json").read_text())
    assert {row["kernel"] for row in table["rows"]} == set(winners.values())
    assert table["kernels"][winners["backward"]]["verified"][0]["by"] == "emulator"
    command = [sys.executable, "-W", "ignore", "-c", GRADIENTS, out, winners["backward"]]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "True", done.stderr

    tables = [str(tmp_path / "alone" / name) for name in ("forward", "backward")]
    for name, folder in zip(("forward", "backward"), tables, strict=True):
        assert tuner(["export", str(spaces[name]), "--arch", "sm80", "--out", out, "-o", folder]) == 0
    assert tuner(["merge", *tables, "-o", str(tmp_path / "both")]) == 0
    assert tuner(["diff", str(tmp_path / "both"), tables[0], "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said[said.index("{") :])["kernels_removed"] == [winners["backward"]]
    page = tmp_path / "report.html"
    assert tuner(["report", str(spaces["backward"]), "--arch", "sm80", "--out", out, "-o", str(page)]) == 0
    assert winners["backward"] in page.read_text() and "warps_kv" in page.read_text()


@pytest.mark.nvcc
@pytest.mark.parametrize(
    "name",
    [
        "flash_fwd_sm80_bf16_hd64_causal1_m64_n64_w4_s2_qreg0",
        "flash_bwd_sm80_bf16_hd64_causal1_m32_n64_w4_s1_a2_2_2",
        "flash_bwd_dq_sm80_bf16_hd64_causal0_local_varlen_alibi_m64_n64_w4_s1",
    ],
)
def test_real_kernels_are_verified_and_measured_through_the_launcher(tmp_path, monkeypatch, name):
    variant = Variant.parse(name)
    device = reference_device(80)
    scratch = make_scratch(tmp_path, variant, device, emulator=emulator_library(), jobs=1)
    (good,) = NinjaCompiler(out=tmp_path, jobs=1).compile([variant])
    verifier = ModuleVerifier(scratch=scratch, on_gpu=False, num_problems=3)
    assert verifier.verify(good).record["by"] == "emulator"

    log2e = b"0f3FB8AA3B"  # the factor from natural to binary exponents, as the PTX spells it
    assert log2e in good.kernel.ptx
    spoilt = replace(good, kernel=replace(good.kernel, ptx=good.kernel.ptx.replace(log2e, b"0f3F000000")))
    assert verifier.verify(spoilt).status == "wrong"
    broken = replace(good, kernel=replace(good.kernel, ptx=b"not PTX"))
    assert verifier.verify(broken).status == "launch"

    # The measuring path on the emulator, with a clock of our own.
    monkeypatch.setattr(measure, "CudaTimer", OneTick)
    make_inputs = measure.make_inputs
    monkeypatch.setattr(measure, "make_inputs", lambda problem, shape, _: make_inputs(problem, shape, "cpu"))
    state = {"sm_mhz": 1410, "throttle": ["software power cap"]}
    monkeypatch.setattr(measure, "read_state", lambda pci_bus_id: state)
    shape = Shape(batch=1, num_heads_q=2, num_heads_kv=1, seqlen_q=65, seqlen_k=65)
    scorer = measure.GpuScorer(scratch=scratch, shapes=(shape,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scored = scorer.score(good)
    assert scored.figures == {shape.name: 150.0} and scorer.label == "measured"
    assert scored.samples == {shape.name: [150.0] * 5} and scored.methods == {shape.name: "events"}
    assert scored.states == {shape.name: state} and scorer.time(good, shape.name, 2, "graph").state == state
    behind = scorer.score_against(good, {shape.name: 60.0})
    assert behind.samples == {shape.name: [150.0] * 2} and "more than 2 times the best" in behind.dropped[shape.name]
    assert scorer.time(good, shape.name, 4, "events").samples == [150.0] * 4


@pytest.mark.nvcc
def test_a_variant_that_does_not_compile_leaves_the_others_alone(tmp_path, monkeypatch):
    names = [
        "flash_fwd_sm80_bf16_hd64_causal1_m64_n64_w4_s2_qreg0",
        "flash_fwd_sm80_bf16_hd64_causal1_m64_n32_w4_s2_qreg0",
    ]
    good, bad = (Variant.parse(name) for name in names)
    render = kernels.render
    monkeypatch.setattr(kernels, "render", lambda one: render(one) + ("\nint x = ;" if one == bad else ""))
    found = NinjaCompiler(out=tmp_path, jobs=1).compile([good, bad])
    assert [one.kernel is not None for one in found] == [True, False]
    assert "error" in found[1].fault and "int x = ;" in found[1].fault


@pytest.mark.gpu
@pytest.mark.nvcc
def test_on_a_gpu_figures_are_measured_and_the_row_is_for_that_gpu(tmp_path, capsys):
    space = tmp_path / "tiny.yaml"
    space.write_text(SPACE)
    assert (
        tuner(["run", str(space), "--arch", "native", "--backend", "measured", "--out", str(tmp_path), "--json"]) == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["label"] == "measured" and all(row["time_us"] > 0 for row in answer["ranking"])
    (row,) = json.loads((Path(answer["table"]) / "table.json").read_text())["rows"]
    assert row["label"] == "measured" and row["device"] and row["evidence"]["driver"].startswith("CUDA ")
