"""Finding a compiler: in which order, what is refused, and what is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernelwright.build.errors import ToolchainError
from kernelwright.build.settings import BuildSettings, read_settings
from kernelwright.build.toolchain import find_ninja, find_toolchain
from kernelwright.gen.errors import BuildError


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    """Neither CUDA_HOME, nor nvcc on PATH, nor wheels."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr("kernelwright.build.toolchain._file_of_wheel", lambda distribution, name: None)
    return empty


def test_cuda_home_comes_first(toolkit):
    found = find_toolchain(read_settings())
    assert (found.origin, found.nvcc) == ("CUDA_HOME", toolkit / "bin" / "nvcc")
    assert (found.version, found.release) == ("13.0.88", (13, 0))


def test_cuda_path_is_taken_where_there_is_no_cuda_home(toolkit, monkeypatch):
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("CUDA_PATH", str(toolkit))
    assert find_toolchain(read_settings()).origin == "CUDA_HOME"


def test_path_comes_before_wheels(toolkit, no_compiler, monkeypatch):
    monkeypatch.setenv("PATH", f"{toolkit}/bin:/usr/bin:/bin")
    assert find_toolchain(read_settings()).origin == "PATH"


def test_wheels_are_found_through_their_metadata(toolkit, monkeypatch, no_compiler, tmp_path):
    monkeypatch.undo()
    site = tmp_path / "site"
    info = site / "nvidia_cuda_nvcc-13.0.88.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cuda-nvcc\nVersion: 13.0.88\n")
    (info / "RECORD").write_text("nvidia/cu13/bin/nvcc,,\nnvidia/cu13/bin/ptxas,,\nnvidia/cu13/bin/crt/x,,\n")
    (site / "nvidia").mkdir()
    (site / "nvidia" / "cu13").symlink_to(toolkit)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    found = find_toolchain(BuildSettings(cache_dir=tmp_path / "cache"))
    assert (found.origin, found.nvcc) == ("wheel", site / "nvidia/cu13/bin/nvcc")


def test_no_compiler_says_what_was_searched_and_what_mends_it(no_compiler):
    with pytest.raises(ToolchainError) as caught:
        find_toolchain(read_settings())
    for part in ("PATH: no nvcc", "nvidia-cuda-nvcc is not installed", "pip install 'kernelwright[cuda]'"):
        assert part in str(caught.value)


def test_a_cuda_home_without_nvcc_is_an_error_and_not_a_reason_to_take_another(toolkit, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{toolkit}/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "moved"))
    with pytest.raises(ToolchainError, match=r"CUDA_HOME: .*moved/bin/nvcc does not exist"):
        find_toolchain(read_settings())


@pytest.mark.parametrize("tool", ["nvcc", "ptxas"])
def test_a_toolkit_whose_parts_do_not_fit_is_detected(toolkit, monkeypatch, tool):
    monkeypatch.setenv("FAKE_BROKEN", tool)
    with pytest.raises(ToolchainError, match=r"Unsupported \.version"):
        find_toolchain(read_settings())


def test_an_nvcc_that_does_not_run_is_detected(toolkit):
    (toolkit / "bin" / "nvcc").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(ToolchainError, match="does not run"):
        find_toolchain(read_settings())


def test_a_toolkit_that_is_too_old_is_refused(toolkit, monkeypatch):
    monkeypatch.setenv("FAKE_VERSION", "11.8.89")
    with pytest.raises(ToolchainError, match=r"11\.8; at least 12\.0"):
        find_toolchain(read_settings())


def test_the_identity_holds_versions_and_no_paths(toolkit, tmp_path):
    identity = find_toolchain(read_settings()).identity
    assert str(tmp_path) not in identity
    assert "13.0.88" in identity and "ptxas V13.0.88" in identity


def test_a_toolkit_is_probed_once_until_it_changes(toolkit, monkeypatch):
    find_toolchain(read_settings())
    monkeypatch.setattr("kernelwright.build.toolchain._probe", lambda nvcc, ptxas: "probed again")
    assert find_toolchain(read_settings()).identity != "probed again"
    monkeypatch.setenv("FAKE_VERSION", "13.0.99")
    assert find_toolchain(read_settings()).identity == "probed again"


def test_a_missing_host_compiler_is_named(toolkit):
    nvcc = toolkit / "bin" / "nvcc"
    refusal = 'case "$*" in *--version*) ;; *) echo "sh: 1: gcc: not found"; exit 1;; esac\nexec'
    nvcc.write_text(nvcc.read_text().replace("exec", refusal))
    with pytest.raises(ToolchainError, match=r"apt-get install g\+\+"):
        find_toolchain(read_settings())


@pytest.mark.parametrize(
    ("does", "said"), [("exit 1", "does not work"), ("echo 1.8.2", "1.8.2; at least 1.10"), ("echo", "at least")]
)
def test_a_ninja_that_does_not_run_or_is_too_old_is_no_ninja(no_compiler, monkeypatch, does, said):
    (no_compiler / "ninja").write_text(f"#!/bin/sh\n{does}\n")
    (no_compiler / "ninja").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(no_compiler / "python"))
    with pytest.raises(ToolchainError, match="pip install ninja") as caught:
        find_ninja()
    assert said in str(caught.value)


def test_the_ninja_that_is_found_runs():
    assert subprocess.run([find_ninja(), "--version"], check=True, capture_output=True).stdout


@pytest.mark.parametrize("text", ["9" * 5000, "0", "-2", "many", "1.5"])
def test_a_senseless_max_jobs_is_an_error(text):
    with pytest.raises(BuildError, match="MAX_JOBS"):
        read_settings({"MAX_JOBS": text})


def test_settings_have_defaults():
    settings = read_settings({})
    assert settings.cache_dir == Path.home() / ".cache" / "kernelwright"
    assert settings.max_jobs is None and settings.cuda_home is None
