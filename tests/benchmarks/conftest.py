"""Makes benchmarks/ importable, as it is for `python benchmarks/device.py`, and the helpers of this folder."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for folder in (Path(__file__).resolve().parents[2] / "benchmarks", Path(__file__).resolve().parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(autouse=True)
def _emulated_device_stays() -> Iterator[None]:
    """A call that elsewhere has a process of its own chooses the emulated GPU for that process."""
    before = os.environ.get("KERNELWRIGHT_EMULATE")
    yield
    os.environ.pop("KERNELWRIGHT_EMULATE", None)
    if before is not None:
        os.environ["KERNELWRIGHT_EMULATE"] = before


@pytest.fixture(scope="session")
def tiny_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dispatch module with four kernels for sm80: bf16, head_dim 64 and 128."""
    from kernelwright.gen.cli import main

    out = tmp_path_factory.mktemp("steps")
    options = ["--head-dim", "64", "128", "--dtype", "bf16", "--out", str(out), "--name", "flash_steps"]
    assert main(["build", "--arch", "sm80", *options]) == 0
    return out / "flash_steps"
