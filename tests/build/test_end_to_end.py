"""From the command line to an imported module, nothing replaced by a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kernelwright
from kernelwright.build.errors import ToolchainError
from kernelwright.build.launcher import compile_launcher, python_include
from kernelwright.build.settings import read_settings

PACKAGE_ROOT = str(Path(kernelwright.__file__).parent.parent)
SMALL = ("--arch", "sm80", "--head-dim", "64", "--dtype", "bf16")


def gen(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "kernelwright.gen", *arguments]
    environment = os.environ | {"PYTHONPATH": PACKAGE_ROOT}
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(code: str, path: Path) -> str:
    """Run code with nothing of ours on the path but `path`."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.nvcc
def test_a_built_module_is_imported_without_kernelwright(tmp_path):
    pytest.importorskip("torch")
    gen("build", *SMALL, "--no-emulator", cwd=tmp_path)
    code = "import json, flash_sm80; print(json.dumps([flash_sm80.support(json=True), flash_sm80.build_info()]))"
    support, info = json.loads(python(f"sys.modules['kernelwright'] = None\n{code}", tmp_path / "out"))
    assert info["archs"] == ["sm80"] and "flash_fwd_sm80_bf16_hd64" in json.dumps(support)


@pytest.mark.nvcc
@pytest.mark.slow
def test_a_built_module_computes_on_the_emulator_and_is_verified(tmp_path):
    pytest.importorskip("torch")
    gen("build", *SMALL, cwd=tmp_path)
    code = (
        "import torch, flash_sm80\n"
        "q, k, v = torch.randn(3, 1, 65, 2, 64, dtype=torch.bfloat16)\n"
        "out = flash_sm80.flash_attn_func(q, k, v, causal=True)\n"
        "exact = [x.double().transpose(1, 2) for x in (q, k, v)]\n"
        "ref = torch.nn.functional.scaled_dot_product_attention(*exact, is_causal=True)\n"
        "print((out - ref.transpose(1, 2)).abs().max().item())"
    )
    assert float(python(code, tmp_path / "out")) < 0.05
    gen("verify", "--problems", "2", cwd=tmp_path)
    table = json.loads((tmp_path / "out/flash_sm80/kernels/table.json").read_text())
    assert all(kernel["verified"][0]["by"] == "emulator" for kernel in table["kernels"].values())
    assert json.loads(gen("build", *SMALL, "--json", cwd=tmp_path))["changed"] is False


def test_the_launcher_is_compiled_once(tmp_path):
    first = compile_launcher(tmp_path)
    stamp = first.stat().st_mtime_ns
    assert compile_launcher(tmp_path) == first and first.stat().st_mtime_ns == stamp


def test_missing_python_headers_are_named_with_the_package_that_has_them(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ToolchainError, match=r"Python\.h is missing.*python3-dev"):
        python_include()


def test_a_missing_host_compiler_is_a_toolchain_error(monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(ToolchainError, match="/nowhere/cc"):
        compile_launcher(read_settings().cache_dir)
