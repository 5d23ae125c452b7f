"""compute-sanitizer read right wherever it works or not; differences counted in units in the last place."""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from device_steps import correctness, environment, fidelity, one_kernel, probe, sanitizer
from device_steps.correctness import describe
from device_steps.fidelity import differences
from device_steps.modules import Kernel, kernels_of
from device_steps.sanitizer import TOOLS, find_tool, plan, sanitize
from steps_context import make_context, run_step

from kernelwright.gen.cli import main
from kernelwright.runtime import cuda_timer

CLEAN = 'echo "========= COMPUTE-SANITIZER"; echo "========= ERROR SUMMARY: 0 errors"'
FOUND = (
    'echo "========= COMPUTE-SANITIZER"; echo "========= Invalid __global__ read of size 16 bytes"; '
    'echo "========= ERROR SUMMARY: 2 errors"; exit 86'
)
RACES = 'echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"; exit 86'
UNABLE = 'echo "========= Error: the driver of this device is not supported"; exit 1'
DIED = f"{CLEAN}; echo 'torch: no GPU'; exit 3"


def tool_that(folder: Path, does: str, options: str = "--kernel-regex") -> str:
    """Write a stand-in for compute-sanitizer; it keeps its arguments in a file beside it."""
    path = folder / "compute-sanitizer"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --help ]; then echo "  {options} arg"; exit 0; fi\n'
        f'echo "$@" > {folder}/asked\n{does}\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (CLEAN, {"errors": 0}),
        (FOUND, {"errors": 2, "fault": "memcheck: 2 errors; Invalid __global__ read of size 16 bytes"}),
        (RACES, {"errors": 1}),
        (UNABLE, {"note": "memcheck does not work here: Error: the driver of this device is not supported"}),
        (DIED, {"note": "memcheck found nothing, but what it watched ended with exit status 3: torch: no GPU"}),
    ],
)
def test_what_a_tool_says_is_a_count_a_fault_or_a_note(tmp_path, does, expected):
    found = sanitize(tool_that(tmp_path, does), "memcheck", [sys.executable, "-c", ""], "flash_fwd", 20)
    assert {name: found.get(name) for name in expected} == expected


def test_only_our_kernels_are_watched_but_for_writes(tmp_path):
    tool = tool_that(tmp_path, CLEAN)
    sanitize(tool, "racecheck", ["true"], "flash_fwd", 20)
    assert "--tool racecheck" in (text := (tmp_path / "asked").read_text()) and "kns=flash_fwd" in text
    sanitize(tool, "initcheck", ["true"], "flash_fwd", 20)
    assert "kns=" not in (tmp_path / "asked").read_text()
    sanitize(tool_that(tmp_path, CLEAN, options="--other"), "memcheck", ["true"], "flash_fwd", 20)
    assert "kns=" not in (tmp_path / "asked").read_text()


def test_a_tool_that_hangs_is_killed_with_what_it_started(tmp_path):
    begun = time.monotonic()
    found = sanitize(tool_that(tmp_path, "sleep 60 & wait"), "memcheck", ["true"], "flash_fwd", 0.5)
    assert found["fault"] == "timeout" and time.monotonic() - begun < 20


@pytest.mark.nvcc
def test_a_launch_under_the_tool_computes(tiny_module, tmp_path):
    """The command that the tools watch, run by a tool that only runs it."""
    context = make_context(tmp_path, "sanitizer", module_dir=tiny_module)
    task = plan(context)[0]
    asked = {"module_dir": str(tiny_module), "device": "cpu", "variant": task.kwargs["variant"], "seed": 0}
    code = f"import importlib; importlib.import_module({task.kwargs['module']!r}).launch(**{asked!r})"
    tool = tool_that(tmp_path, f'while [ "$1" != {sys.executable} ]; do shift; done; "$@" && {CLEAN}')
    assert sanitize(tool, "memcheck", [sys.executable, "-c", code], "flash_fwd", 60) == {"errors": 0}


def test_without_the_tool_each_task_says_so(tmp_path, monkeypatch):
    (tmp_path / "kernels").mkdir()
    monkeypatch.setattr(sanitizer, "find_tool", lambda: None)
    kernel = SimpleNamespace(operation="flash_fwd", name="k")
    monkeypatch.setattr(sanitizer, "kernels_of", lambda folder: [kernel])
    found = run_step(sanitizer, make_context(tmp_path, "sanitizer", driver="cuda"))
    assert [one["tool"] for one in found] == list(TOOLS)
    assert all("no compute-sanitizer" in one["note"] for one in found)


def test_the_tool_is_found_beside_nvcc(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_tool() is None
    assert tool_that(tmp_path / "bin", CLEAN) == find_tool()


def output(values: list[float], dtype: str) -> dict[str, str]:
    if dtype == "bfloat16":
        data = (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    else:
        data = np.array(values, dtype).tobytes()
    return {"dtype": dtype, "data": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("dtype", "first", "second", "ulps"),
    [
        ("bfloat16", 1.0, 1.0078125, 1),
        ("float16", 1.0, 1.001953125, 2),
        ("float32", 1.0, 1.00000012, 1),
        ("float16", 0.0, -0.0, 0),
        ("float16", 6e-8, -6e-8, 2),  # the two smallest numbers, with zero between
        ("float32", float("-inf"), float("-inf"), 0),
        ("float32", float("nan"), float("nan"), 0),
        ("float32", float("nan"), 1.0, 1 << 32),
    ],
)
def test_neighbouring_numbers_are_one_unit_apart(dtype, first, second, ulps):
    found = differences(output([first, 2.0], dtype), output([second, 2.0], dtype))
    assert found["max_ulp"] == ulps and found["values"] == 2
    assert sum(found["ulps"].values()) == 2 and found["ulps"]["equal"] >= 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"fault": "timeout", "detail": "no answer"}, "timeout"),
        ({"failed": 1, "problems": 3, "wrong": ["seqlen 3: row 1"]}, "wrong"),
        ({"runs": 50, "differing": {"out": 0, "lse": 2}}, "unrepeatable"),
        ({"runs": 50, "differing": {"out": 0, "lse": 0}}, None),
        ({"failed": 0, "problems": 3}, None),
    ],
)
def test_what_is_wrong_with_a_kernel_has_a_kind_and_words(answer, kind):
    found = describe(answer)
    assert found.get("kind_of_fault") == kind and bool(found.get("fault")) == (kind is not None)


class CallTimer:
    """Stands in for CUDA events: a call takes 1000 us."""

    def __init__(self, l2_mib: int) -> None:
        assert l2_mib == 40

    def sample_us(self, call) -> float:
        call()
        return 1000.0


def test_ceilings_count_what_is_moved_and_multiplied(monkeypatch):
    monkeypatch.setattr(cuda_timer, "CudaTimer", CallTimer)
    copied = probe.copy_rate(l2_mib=40, device="cpu", copy_bytes=1 << 20)
    assert copied["bytes"] == 2 << 20 and copied["gb_per_s"] == pytest.approx(2.1, abs=0.01)
    assert probe.matmul_rate(l2_mib=40, device="cpu", size=100)["tflops"] == pytest.approx(2e-3, abs=1e-1)


def test_ceilings_of_a_gpu_are_measured_and_of_the_emulator_not(tmp_path):
    rates = {"copy_rate": {"gb_per_s": 3900.0, "time_us": 1.0}, "matmul_rate": {"tflops": 690.0, "time_us": 1.0}}
    facts = {"device": "NVIDIA H200", "sm": 90, "l2_mib": 50, "torch": "2.13.0"}

    def answer(target, asked):
        name = target.partition(":")[2]
        assert name == "facts" or asked == {"l2_mib": 50}
        return facts if name == "facts" else rates[name]

    found = run_step(environment, make_context(tmp_path / "gpu", "environment", driver="cuda", answer=answer))
    assert [one.get("label") for one in found] == [None, "measured", "measured"]
    assert environment.table(found)[2:] == [
        "copy on the device: 3900.0 GB/s (measured)",
        "bf16 matmul, random data: 690.0 TFLOP/s (measured)",
    ]
    found = run_step(environment, make_context(tmp_path / "cpu", "environment", answer=answer))
    assert [found[1]["gb_per_s"], found[2]["tflops"]] == ["not measured", "not measured"]


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (f"echo '{', '.join(str(index) for index in range(13))}'", {"clocks.sm": "3"}),
        ("echo 'Field \"pstate\" is not valid'; exit 2", {"problem": 'Field "pstate" is not valid'}),
    ],
)
def test_what_nvidia_smi_says_is_kept(tmp_path, monkeypatch, does, expected):
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = environment._nvidia_smi()
    assert {name: found[name] for name in expected} == expected


@pytest.mark.nvcc
def test_large_shapes_are_checked_too(tiny_module, monkeypatch):
    shapes = ({"seqlen_q": 70, "seqlen_k": 200, "group": 2, "kind": "needle"}, {"seqlen_q": 3, "seqlen_k": 65})
    monkeypatch.setattr(one_kernel, "LARGE", shapes)
    (first, *_) = kernels_of(tiny_module)
    asked = {"module_dir": str(tiny_module), "device": "cpu", "variant": first.name, "seed": 0}
    found = one_kernel.check(**asked, problems=0, large=True)
    assert (found["problems"], found["failed"]) == (2, 0) and found["worst_margin"] <= 1


@pytest.mark.nvcc
def test_kernels_of_another_architecture_run_on_a_gpu_of_theirs(tmp_path, monkeypatch):
    monkeypatch.delenv("KERNELWRIGHT_EMULATE", raising=False)
    options = ["--head-dim", "16", "--dtype", "bf16", "--out", str(tmp_path), "--name", "flash_ada"]
    assert main(["build", "--arch", "sm89", *options]) == 0
    (first, *_) = kernels_of(tmp_path / "flash_ada")
    asked = {"module_dir": str(tmp_path / "flash_ada"), "device": "cpu", "variant": first.name, "seed": 0}
    assert set(one_kernel.launch(**asked)) == {"out", "lse"}
    assert one_kernel.check(**asked, problems=1, large=False)["failed"] == 0


def test_on_a_gpu_large_shapes_come_last_and_the_gpu_answers_the_emulator(tmp_path, monkeypatch):
    kernel = Kernel(
        name="k",
        operation="flash_fwd",
        sm=80,
        dtype="bf16",
        head_dim=64,
        is_causal=False,
        schedule={},
        ptx_sha256="ab" * 32,
    )
    for step in (correctness, fidelity):
        monkeypatch.setattr(step, "kernels_of", lambda folder: [kernel])
    (tmp_path / "_emulator.so").touch()
    one = output([1.0], "float32")

    def answer(target, asked):
        if target.endswith("record_and_replay"):
            assert asked["library"] == "libcuda.so.1" and asked["folder"] == str(tmp_path / "out")
            return {"device": "x", "outcomes": [{"name": "mma", "status": "differ", "detail": "3 of 4"}]}
        return {"out": one} if target.endswith("launch") else {"problems": 6, "failed": 0, "worst_margin": 0.5}

    context = make_context(
        tmp_path / "out", "correctness", module_dir=tmp_path, driver="cuda", quick=False, answer=answer
    )
    assert [task.key for task in correctness.plan(context)] == ["k/problems", "k/repeat", "k/large"]
    assert all(found["label"] == "measured" for found in run_step(correctness, context))
    found = run_step(fidelity, context)
    assert found[0]["fault"] == "mma: 3 of 4" and found[0]["key"] == "instructions/mma"
    assert found[-1]["between"] == ["emulator", "GPU"] and found[-1]["outputs"]["out"]["max_ulp"] == 0


def test_the_table_names_instructions_that_are_not_what_we_expected():
    records = [
        {"name": "wgmma", "status": "not compared", "model": "differs"},
        {"name": "mma", "status": "agree", "model": "agrees"},
        {"statuses": {"agree": 1, "not compared": 1}},
    ]
    assert fidelity.table(records) == [
        "instructions: 1 agree, 1 not compared",
        "not what our reading of the PTX ISA expects: wgmma",
    ]
