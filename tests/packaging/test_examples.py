"""What the README and examples/ show runs as it stands, on the emulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernelwright.build.settings import read_settings
from kernelwright.build.toolchain import find_toolchain

pytestmark = pytest.mark.nvcc

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a Python script or module; its standard output, or a failure with both."""
    pytest.importorskip("torch")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KERNELWRIGHT_")}
    if cache := os.environ.get("KERNELWRIGHT_CACHE"):
        environ["KERNELWRIGHT_CACHE"] = cache
    environ["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the README's first command was given, for the one problem the examples need."""
    folder = tmp_path_factory.mktemp("examples")
    options = ["--arch", "sm80", "--head-dim", "64", "--dtype", "bf16"]
    run("-m", "kernelwright.gen", "build", *options, cwd=folder)
    return folder


def test_the_ten_lines_of_the_readme_run(folder):
    (python,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    script = folder / "readme.py"
    script.write_text(python)
    assert "flash_fwd_sm80_bf16_hd64_causal1" in run(script, cwd=folder)


def test_the_foreign_kernel_of_the_emulators_document_is_found_out(tmp_path):
    text = (ROOT / "docs" / "emulator.md").read_text()
    (cuda,) = re.findall(r"^```cuda\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (python,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"`nvcc (-ptx .*?)`", text)
    (tmp_path / "reverse.cu").write_text(cuda)
    (tmp_path / "example.py").write_text(python)
    nvcc = find_toolchain(read_settings()).nvcc
    subprocess.run([nvcc, *command.split()], cwd=tmp_path, check=True)
    said = run("example.py", cwd=tmp_path).splitlines()
    line = cuda.splitlines().index("    if (i < n) x[i] = tile[n - 1 - i];") + 1
    assert re.match(rf"uninitialised_read \S*reverse.cu {line} ", said[0])
    assert any(one.startswith("race ") for one in said)
    assert said[-1] == "256 bytes loaded"


def test_the_gpt_passes_its_gate_on_a_real_text(folder):
    small = ["--tokens", "96", "--layers", "1", "--heads", "1"]
    said = run(ROOT / "examples" / "gpt.py", ROOT / "LICENSE", "--module", "flash_sm80", *small, cwd=folder)
    assert "ok    " in said
    assert "flash_fwd_sm80_bf16_hd64_causal1" in said
