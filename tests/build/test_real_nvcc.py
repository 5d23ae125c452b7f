"""What the stand-in compiler cannot show: the real one's words, files and paths."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernelwright.build.errors import CompileError
from kernelwright.build.kernels import build_kernels
from kernelwright.build.settings import BuildSettings, read_settings
from kernelwright.build.toolchain import find_toolchain
from kernelwright.gen.render import include_dir, render

CUDA_WHEELS = "cuda-toolkit[nvcc,nvvm,crt,cudart,cccl]>=13.0,<14"


@pytest.mark.nvcc
def test_a_kernel_compiles_without_spills_to_the_same_bytes_anywhere(variant, tmp_path, monkeypatch):
    results = []
    for name in ("a", "another/place"):
        monkeypatch.setenv("KERNELWRIGHT_CACHE", str(tmp_path / name / "cache"))
        [kernel] = build_kernels([variant], tmp_path / name / "out", progress=io.StringIO())
        assert kernel.gate_failures == []
        assert kernel.report["entries"] == [variant.name]
        assert not kernel.report["cached"]
        results.append(kernel)
    assert results[0].ptx == results[1].ptx
    assert results[0].cubin == results[1].cubin
    assert str(tmp_path).encode() not in results[0].ptx + results[0].cubin


@pytest.mark.nvcc
def test_line_information_names_the_emitted_source_relative_to_the_output_folder(variant, out, tmp_path):
    [kernel] = build_kernels([variant], out, lineinfo=True, progress=io.StringIO())
    assert f'"src/{variant.name}.cu"'.encode() in kernel.ptx
    assert str(tmp_path).encode() not in kernel.ptx + kernel.cubin


def with_statement(source: str, statement: str) -> str:
    """Put a statement at the top of the kernel's body."""
    body = source.index("{", source.index("__global__")) + 1
    return f"{source[:body]}\n    {statement}\n{source[body:]}"


@pytest.mark.nvcc
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("int x = no_such_name;", 'identifier "no_such_name" is undefined\n'),
        ('asm volatile("no.such.instruction;");', "| no.such.instruction;"),  # for ptxas to find, in the PTX
    ],
)
def test_the_first_error_of_the_real_compiler_is_shown(variant, out, monkeypatch, statement, said):
    text = with_statement(render(variant), statement)
    monkeypatch.setattr("kernelwright.build.kernels.render", lambda variant: text)
    progress = io.StringIO()
    with pytest.raises(CompileError, match=variant.name):
        build_kernels([variant], out, progress=progress)
    assert said in progress.getvalue() and "log: " in progress.getvalue()


@pytest.mark.nvcc
def test_a_header_that_the_key_misses_stops_the_build(variant, out, monkeypatch, tmp_path):
    text = '#define HIDDEN "hidden.cuh"\n#include HIDDEN\n' + render(variant)
    monkeypatch.setattr("kernelwright.build.kernels.render", lambda variant: text)
    shutil.copytree(include_dir(), tmp_path / "include")
    shutil.copytree(include_dir(), out / "src" / "include")
    for folder in (tmp_path / "include", out / "src" / "include"):  # there, as from another variant's build
        (folder / "hidden.cuh").write_text("#pragma once\n")
    monkeypatch.setattr("kernelwright.build.kernels.include_dir", lambda: tmp_path / "include")
    progress = io.StringIO()
    with pytest.raises(CompileError):
        build_kernels([variant], out, progress=progress)
    assert "hidden.cuh, which the kernel's key does not cover" in progress.getvalue()


@pytest.mark.slow
def test_the_wheels_alone_are_a_compiler(variant, tmp_path, monkeypatch):
    """Installs the `cuda` extra's wheels (105 MB), hides every other toolkit, and builds a kernel."""
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(site), CUDA_WHEELS]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot fetch the wheels: {done.stderr.strip().splitlines()[-1]}")
    monkeypatch.syspath_prepend(str(site))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    folders = os.environ["PATH"].split(os.pathsep)
    monkeypatch.setenv("PATH", os.pathsep.join(one for one in folders if not (Path(one) / "nvcc").exists()))
    toolchain = find_toolchain(read_settings())
    assert toolchain.origin == "wheel" and toolchain.nvcc.is_relative_to(site)
    settings = BuildSettings(cache_dir=tmp_path / "cache")
    [kernel] = build_kernels([variant], tmp_path / "out", settings=settings, progress=io.StringIO())
    assert kernel.cubin.startswith(b"\x7fELF") and kernel.gate_failures == []
