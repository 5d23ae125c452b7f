"""Kernels of features in a device run: built, sampled by the sanitizer, called by the speed step."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from device_steps import feature_kernels, sanitizer, speed
from device_steps.feature_worker import torch_call
from device_steps.modules import Kernel, kernels_of
from steps_context import make_context, run_step

from kernelwright.gen.devices import reference_device
from kernelwright.gen.spec import FEATURES, OPERATION, OPERATIONS, ForwardProblem


@pytest.fixture(scope="module")
def module_dir(tmp_path_factory) -> Path:
    """A module with the kernel of a quick run."""
    from kernelwright.build.kernels import build_kernels
    from kernelwright.build.launcher import compile_launcher, emulator_library
    from kernelwright.build.module import ModuleContent, assemble_module
    from kernelwright.build.settings import read_settings
    from kernelwright.gen.table import hand_row

    work = tmp_path_factory.mktemp("features")
    kernels = build_kernels(feature_kernels.variants(80, True), work / "build")
    content = ModuleContent(
        name="flash_feature_rows",
        kernels=kernels,
        rows=[hand_row(one.variant, {}) for one in kernels],
        launcher=compile_launcher(read_settings().cache_dir),
        emulator=emulator_library(),
        info={"archs": ["sm80"], "profile": "test", "command": "test", "toolkit": "13", "compiler": "nvcc"},
    )
    assemble_module(work / "flash_feature_rows", content)
    return work / "flash_feature_rows"


@pytest.mark.parametrize("sm", [80, 86, 89])
def test_every_feature_and_choice_of_the_schedule_has_a_legal_kernel(sm):
    found = feature_kernels.variants(sm, False)
    flags = {name for one in found for name, flag in FEATURES.items() if getattr(one.problem, flag)}
    assert flags == set(FEATURES)
    assert {one.problem.head_dim for one in found} >= {128, 256, 512}
    assert {one.operation for one in found} == set(OPERATIONS)
    forward = [one.schedule for one in found if one.operation == OPERATION]
    assert any(one.pack_gqa for one in forward) and any(one.persistent_blocks for one in forward)
    assert any(one.problem.head_dim_v != one.problem.head_dim for one in found)
    assert max(one.smem_bytes for one in found) <= reference_device(sm).max_smem_bytes


@pytest.mark.nvcc
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_speed_step_calls_the_rows_that_the_module_has(module_dir, tmp_path):
    context = make_context(tmp_path, "speed", module_dir=module_dir)
    tasks = [task for task in speed.plan(context) if task.unit == "features"]
    assert [task.key for task in tasks] == ["features/tiny_window"]
    records = run_step(speed, context, tasks)
    assert [one["key"] for one in records] == ["features/tiny_window/ours", "features/tiny_window/sdpa default"]
    for one in records:
        assert "fault" not in one and one["label"] == "counted" and one["time_us"] is None and one["mma_flops"] > 0
    assert any("features: 1 called" in line for line in speed.table(records))


@pytest.mark.nvcc
def test_the_sanitizer_sees_each_feature_once(module_dir, tmp_path, monkeypatch):
    (held,) = kernels_of(module_dir)
    assert held.features == ("is_local",)

    def kernel(name: str, *features: str, **schedule: object) -> Kernel:
        values = {field: getattr(held, field) for field in held.__dataclass_fields__}
        return Kernel(**{**values, "name": name, "features": features, "schedule": schedule})

    kernels = [kernel("plain"), kernel("other"), kernel("varlen", "is_varlen"), kernel("again", "is_varlen"),
               kernel("packed", "is_varlen", pack_gqa=True), kernel("biased", "has_bias", "is_varlen")]  # fmt: skip
    monkeypatch.setattr(sanitizer, "kernels_of", lambda _: kernels)
    tasks = sanitizer.plan(make_context(tmp_path, "sanitizer", module_dir=module_dir))
    chosen = [task.kwargs["variant"] for task in tasks if task.kwargs["tool"] == "memcheck"]
    assert chosen == ["plain", "varlen", "packed", "biased"]
    assert tasks[0].key == "flash_fwd/memcheck" and tasks[4].key == "varlen/memcheck"


def test_torch_is_asked_only_for_what_it_computes():
    of = {row.name: row for row in feature_kernels.ROWS}
    for name, has_peer in (("sparse_half", False), ("varlen_causal", False), ("softcap_causal", False)):
        problem = ForwardProblem(**{"dtype": "bf16", "head_dim": 128, **of[name].problem})
        assert (torch_call(problem, of[name].shape, "cpu") is not None) == has_peer
    tiny = feature_kernels.TINY
    call = torch_call(ForwardProblem(**{"dtype": "bf16", **tiny.problem}), tiny.shape, "cpu")
    assert call is not None and tuple(call().shape) == (1, 2, 96, 64)
    assert importlib.import_module("device_steps.correctness").variants is feature_kernels.variants
