"""What the README and examples/ show runs as it stands, on the emulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_gpt_passes_its_gate_on_a_real_text(folder):
    small = ["--tokens", "96", "--layers", "1", "--heads", "1"]
    said = run(ROOT / "examples" / "gpt.py", ROOT / "LICENSE", "--module", "flash_sm80", *small, cwd=folder)
    assert "ok    " in said
    assert "flash_fwd_sm80_bf16_hd64_causal1" in said
