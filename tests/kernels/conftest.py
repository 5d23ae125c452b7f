"""Real kernels for every test here: compiled once a session, kept in the kernel cache, run in the emulator."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kernelwright.build.kernels import BuiltKernel, build_kernels
from kernelwright.build.table_folder import write_table_folder
from kernelwright.gen.cli import main
from kernelwright.gen.spec import Variant
from kernelwright.gen.table import hand_row

ODD, EVEN = list(range(8, 257, 16)), list(range(16, 257, 16))  # in chunks of 8 elements
PROFILE = f"""
schema: 1
problems:
  - {{dtype: bf16, head_dim: {ODD}, is_causal: true}}
  - {{dtype: fp16, head_dim: {ODD}, is_causal: false}}
  - {{dtype: fp16, head_dim: {EVEN}, is_causal: true}}
  - {{dtype: bf16, head_dim: {EVEN}, is_causal: false}}
"""


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def every_head_dim(work: Path) -> ModuleType:
    """A module with two kernels for each multiple of 8 up to 256."""
    profile = work / "every_head_dim.yaml"
    profile.write_text(PROFILE)
    name = "flash_every_head_dim"
    assert main(["build", "--arch", "sm80", "--profile", str(profile), "--out", str(work), "--name", name]) == 0
    return import_from(work, name)


@pytest.fixture(scope="session")
def imported(work: Path) -> Callable[[str], ModuleType]:
    """Imports a module that was built in `work`."""
    return lambda name: import_from(work, name)


@pytest.fixture(scope="session")
def build(work: Path) -> Callable[[Sequence[Variant]], list[BuiltKernel]]:
    """Compiles variants."""
    return lambda variants: build_kernels(variants, work / "variants")


@pytest.fixture(scope="session")
def table_of(work: Path) -> Callable[[str, Sequence[BuiltKernel]], Path]:
    """Writes compiled kernels as a table folder, for load_table."""

    def write(name: str, kernels: Sequence[BuiltKernel]) -> Path:
        rows = [hand_row(kernel.variant, {}) for kernel in kernels]
        write_table_folder(work / name, rows, kernels, name=name)
        return work / name

    return write


def import_from(folder: Path, name: str) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(name)
    finally:
        sys.path.pop(0)
    return module


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random tensors in every order of tests."""
    torch.manual_seed(0)
