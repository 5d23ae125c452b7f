"""`check_module` and `gen verify` on backward kernels: right ones pass, each way of being wrong is found."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import ModuleType

import pytest

from kernelwright.gen.cli import main
from kernelwright.gen.commands.emulated import Kernel
from kernelwright.gen.commands.stress import Shipped, check_mutants, check_seeds, telling_cases
from kernelwright.gen.spec import Variant

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore:CPU tensors run")]
PROFILE = """
schema: 1
problems:
  - {dtype: bf16, head_dim: 64, is_causal: true, backward: true}
  - {dtype: fp16, head_dim: 40, head_dim_v: 24, is_local: true, is_varlen: true, has_bias: true, backward: true}
"""
OPERATIONS = ("flash_bwd", "flash_bwd_dq", "flash_bwd_delta", "flash_bwd_convert")


@pytest.fixture(scope="module")
def trained(work, imported) -> ModuleType:
    profile = work / "trained.yaml"
    profile.write_text(PROFILE)
    assert main(["build", "--arch", "sm80", "--profile", str(profile), "--out", str(work), "--name", "kw_trained"]) == 0
    return imported("kw_trained")


def checker(module: ModuleType):
    return __import__(f"{module.__name__}._runtime.check", fromlist=["check_module"])


def names_of(module: ModuleType, operation: str) -> list[str]:
    [table] = module._module.engine.tables()
    return sorted(name for name, one in table.kernels.items() if one.operation == operation)


def test_every_kernel_of_a_training_module_passes_and_repeats_its_verdicts(trained):
    first, again = (checker(trained).check_module(trained, 4, device="cpu", seed=3) for _ in range(2))
    assert first.passed and first == again
    assert {one.variant.partition("_sm80")[0] for one in first.variants} == {"flash_fwd", *OPERATIONS}
    margins = {
        one.variant: max(max(result.verdict.row_margin, result.verdict.tensor_margin) for result in one.results)
        for one in first.variants
    }
    assert all(0 < margins[name] <= 1 for name in margins if "convert" not in name)


def without(pattern: str):
    return lambda text: re.sub(pattern, "", text)


def instead(pattern: str, other: str):
    return lambda text: re.sub(pattern, other, text)


WRONG = {
    "nothing is added to dQ": ("flash_bwd", without(r"(?m)^.*\b(atom|red)\.global\.add\.f32.*$"), "dq: "),
    "dK and dV are not written": ("flash_bwd", without(r"(?m)^.*st\.global\.v4\.\w+.*$"), "largest error inf"),
    "P is no exponential": (
        "flash_bwd",
        instead(r"ex2\.approx\.ftz\.f32 (%\w+), (%\w+)", r"add.f32 \1, \2, \2"),
        "dk: ",
    ),
    "dQ is not written": ("flash_bwd_dq", without(r"(?m)^.*st\.global\.v4\.\w+.*$"), "dq: largest error inf"),
    "delta is not written": ("flash_bwd_delta", without(r"(?m)^.*st\.global\.f32.*$"), "delta: "),
    "dQ is cut off, not rounded": ("flash_bwd_convert", instead(r"cvt\.rn\.", "cvt.rz."), "dq: "),
}


@pytest.mark.parametrize("way", WRONG)
def test_a_wrong_kernel_fails_with_the_gradient_that_is_wrong(trained, build, table_of, way):
    operation, change, said = WRONG[way]
    name = names_of(trained, operation)[0]
    [kernel] = build([Variant.parse(name)])
    text = kernel.ptx.decode()
    assert change(text) != text
    trained.load_table(table_of(f"wrong_{operation}", [replace(kernel, ptx=change(text).encode())]))
    try:
        result = checker(trained).check_module(trained, 3, device="cpu", variants=[name])
    finally:
        trained.load_table(None)
    assert not result.passed
    assert any(said in one.fault for one in result.variants[0].results), str(result)


def test_a_write_beside_a_gradient_is_found(trained, build, table_of):
    name = names_of(trained, "flash_bwd_delta")[0]
    [kernel] = build([Variant.parse(name)])
    shifted = re.sub(r"(st\.global\.f32\s+\[%rd\d+)\]", r"\1+4]", kernel.ptx.decode())
    assert shifted != kernel.ptx.decode()
    trained.load_table(table_of("beside", [replace(kernel, ptx=shifted.encode())]))
    try:
        result = checker(trained).check_module(trained, 2, device="cpu", variants=[name])
    finally:
        trained.load_table(None)
    assert not result.passed


def test_verify_runs_random_orders_and_mutants_of_backward_kernels(trained, work, capsys):
    names = [names_of(trained, operation)[0] for operation in ("flash_bwd_dq", "flash_bwd_delta")]
    arguments = ["verify", str(work / "kw_trained"), "--variant", *names, "--problems", "2", "--random"]
    assert main([*arguments, "--seeds", "1", "--mutate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["variant"] for one in found["mutants"]] == names == [one["variant"] for one in found["seeds"]]
    verdicts = {one["verdict"] for one in found["mutants"][0]["mutants"]}
    assert verdicts == {"caught", "redundant"} and found["mutants"][1]["mutants"] == []


def test_a_sum_that_depends_on_the_order_of_warps_is_judged_and_the_rest_compared(trained, build):
    [kernel] = build([Variant.parse(names_of(trained, "flash_bwd")[0])])
    shipped = Shipped(
        name=kernel.variant.name, ptx=kernel.ptx.decode(), kernel=Kernel.of(kernel.variant), variant=kernel.variant
    )
    cases = telling_cases("kernelwright.runtime", kernel.variant, 0)[:1]
    assert check_seeds(shipped, cases, 3).passed
    lost = replace(shipped, ptx=without(r"(?m)^.*\b(atom|red)\.global\.add\.f32.*$")(shipped.ptx))
    found = check_seeds(lost, cases, 1)
    assert not found.passed and "dq: " in found.faults[0]
    assert "does not pass" in check_mutants(lost, cases, num_seeds=1).fault
