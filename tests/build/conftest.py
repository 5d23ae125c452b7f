"""A toolkit that takes no time, a cache and an output folder of their own for every test."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kernelwright.build.kernels import BuiltKernel, build_kernels
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

FAKE = Path(__file__).with_name("fake_nvcc.py")


def make_toolkit(root: Path) -> Path:
    """Write a `CUDA_HOME` whose nvcc and ptxas are the stand-ins; return it."""
    (root / "bin").mkdir(parents=True)
    for tool in ("nvcc", "ptxas"):
        script = root / "bin" / tool
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} {tool} "$@"\n')
        script.chmod(0o755)
    return root


def make_variant(head_dim: int = 64, *, is_causal: bool = False, sm: int = 80) -> Variant:
    return Variant(
        sm=sm,
        problem=ForwardProblem(dtype="bf16", head_dim=head_dim, is_causal=is_causal),
        schedule=ForwardSchedule(block_m=64, block_n=64, num_warps=4, num_stages=1, q_in_regs=False),
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel cache of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("KERNELWRIGHT_CACHE", str(folder))
    monkeypatch.delenv("MAX_JOBS", raising=False)
    return folder


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in toolkit in `CUDA_HOME`."""
    root = make_toolkit(tmp_path / "toolkit")
    monkeypatch.setenv("CUDA_HOME", str(root))
    return root


@pytest.fixture
def compile_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Returns the sources that were compiled so far, in order."""
    path = tmp_path / "compiled.log"
    monkeypatch.setenv("FAKE_LOG", str(path))
    return lambda: path.read_text().split() if path.exists() else []


@pytest.fixture
def variant() -> Variant:
    return make_variant()


@pytest.fixture
def variants() -> list[Variant]:
    """Six small variants."""
    return [make_variant(head_dim, is_causal=causal) for head_dim in (32, 64, 128) for causal in (False, True)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def build(toolkit: Path, out: Path) -> Callable[..., list[BuiltKernel]]:
    """Builds variants in `out` with the stand-in toolkit; progress is in `build.progress`."""

    def run(variants: Sequence[Variant], folder: Path = out, **options: object) -> list[BuiltKernel]:
        return build_kernels(variants, folder, progress=options.pop("progress", io.StringIO()), **options)

    return run
