"""What stops a run before it begins is said in a line that tells what to do."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from device_steps import prepare, probe
from device_steps.build import build_module, runnable_sm
from device_steps.isolation import Isolation
from device_steps.prepare import SetupError
from device_steps.steps import STEPS
from run_device import device
from steps_context import make_context


def test_an_unknown_step_lists_the_known_ones(tmp_path):
    done = device(tmp_path / "out", "--only", "correctnes")
    assert done.returncode == 2
    assert "correctnes: no such step" in done.stderr
    assert all(entry.name in done.stderr for entry in STEPS)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    done = device(tmp_path / "file" / "out")
    assert done.returncode == 1 and "cannot be written" in done.stderr


def test_resume_needs_results(tmp_path):
    done = device(tmp_path / "out", "--resume")
    assert done.returncode == 1 and "there are no results in" in done.stderr


def test_results_are_not_written_into_others_without_resume(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "correctness.jsonl").write_text('{"step": "correctness", "key": "k"}\n')
    done = device(out)
    assert done.returncode == 1 and "--resume" in done.stderr


@pytest.mark.parametrize(("words", "reason"), [(["--minutes", "0"], "--minutes"), (["--task-seconds", "-1"], "--task")])
def test_times_must_be_positive(tmp_path, words, reason):
    done = device(tmp_path / "out", *words)
    assert done.returncode == 2 and reason in done.stderr


def test_a_run_of_another_kind_is_not_resumed(tmp_path, monkeypatch):
    import device as command

    out = tmp_path / "out"
    out.mkdir()
    begun = {"step": "environment", "key": "run 1", "begun": "x", "driver": "emulator", "device": "emulator"}
    (out / "environment.jsonl").write_text(json.dumps({**begun, "quick": False, "seed": 0}) + "\n")
    monkeypatch.setattr(command, "probe", lambda driver, isolation: {"device": "emulator", "sm": 80})
    monkeypatch.setattr(command.signal, "signal", lambda *handler: None)
    said: list[str] = []
    monkeypatch.setattr(command, "print", lambda *words, **options: said.append(str(words[0])), raising=False)
    assert command.main(["--driver", "emulator", "--quick", "--resume", "--out", str(out)]) == 1
    assert "are of quick False, this run is of True" in said[-1]


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(SetupError, match=r"torch>=2\.10.*pip install"):
        prepare.check_packages()


def test_a_torch_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert "2.9.1+cu128 is too old; at least 2.10" in probe.facts(driver="emulator")["problem"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="gpu: there is one")
def test_without_a_gpu_the_emulator_is_offered():
    assert "--driver emulator" in probe.facts(driver="cuda")["problem"]


def test_without_nvcc_the_message_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(SetupError, match="No usable CUDA compiler") as caught:
        build_module(make_context(tmp_path, "environment", module_dir=tmp_path / "kw_none"), 80, [])
    assert "CUDA_HOME" in str(caught.value)


@pytest.mark.parametrize(("sm", "built"), [(80, 80), (86, 86), (89, 89), (90, 80), (120, 80)])
def test_newer_gpus_get_the_ptx_of_sm80(sm, built):
    assert runnable_sm({"device": "NVIDIA Something", "sm": sm}) == built


class TestIsolation:
    """A call that dies, hangs or raises is a result, and the next call is sound."""

    def test_faults_are_told_apart(self):
        isolation = Isolation()
        try:
            assert isolation.call("os:getpid_", {}, 60, fresh=True)["fault"] == "error"
            crash = isolation.call("isolated_calls:crash", {}, 60, fresh=False)
            assert crash["fault"] == "crash" and "SIGSEGV" in crash["detail"]
            assert isolation.call("isolated_calls:hang", {}, 0.3, fresh=False)["fault"] == "timeout"
            first = isolation.call("isolated_calls:answer", {"value": 3}, 60, fresh=False)
            again = isolation.call("isolated_calls:answer", {"value": 4}, 60, fresh=False)
            fresh = isolation.call("isolated_calls:answer", {"value": 5}, 60, fresh=True)
            assert [one["value"] for one in (first, again, fresh)] == [3, 4, 5]
            assert first["process"] == again["process"] != fresh["process"]
        finally:
            isolation.close()
