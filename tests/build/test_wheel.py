"""The wheel of a module: what is in it, and that pip installs and removes it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kernelwright.build.wheel import build_wheel, install_wheel
from kernelwright.gen.errors import BuildError

NAME = "flash_wheel_probe"


@pytest.fixture
def module_dir(tmp_path: Path) -> Path:
    folder = tmp_path / NAME
    (folder / "kernels").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / "__init__.py").write_text("answer = 42\n")
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    (folder / "kernels" / "a.cubin").write_bytes(b"\x7fELF")
    return folder


def test_a_wheel_has_the_right_tag_metadata_and_record(module_dir, tmp_path):
    wheel = build_wheel(module_dir, tmp_path / "dist", "0.1.0")
    assert wheel.name.startswith(f"{NAME}-0.1.0-cp311-abi3-linux_")
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}  # readable once unpacked
    assert {name for name in content if name.startswith(f"{NAME}/")} == {
        f"{NAME}/__init__.py",
        f"{NAME}/kernels/a.cubin",
    }
    assert b"Requires-Dist: torch" in content[f"{NAME}-0.1.0.dist-info/METADATA"]
    record = f"{NAME}-0.1.0.dist-info/RECORD"
    rows = list(csv.reader(io.StringIO(content[record].decode())))
    assert {name for name, _, _ in rows} == set(content)
    for name, digest, size in rows:
        if name != record:
            expected = base64.urlsafe_b64encode(hashlib.sha256(content[name]).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={expected}", str(len(content[name])))


def test_the_same_module_gives_the_same_wheel(module_dir, tmp_path):
    first = build_wheel(module_dir, tmp_path / "a", "0.1.0").read_bytes()
    assert build_wheel(module_dir, tmp_path / "b", "0.1.0").read_bytes() == first


def test_pip_installs_and_removes_it(module_dir, tmp_path, monkeypatch):
    wheel = build_wheel(module_dir, tmp_path / "dist", "0.1.0")
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    pip = Path(
        subprocess.run(
            [sys.executable, "-c", "import pip; print(pip.__path__[0])"], check=True, text=True, capture_output=True
        ).stdout.strip()
    )
    [site] = environment.glob("lib/python*/site-packages")
    (site / "pip").symlink_to(pip)
    monkeypatch.setattr(sys, "executable", str(python))
    install_wheel(wheel)
    install_wheel(wheel)  # over itself
    ask = [python, "-c", f"import {NAME}; print({NAME}.answer)"]
    assert subprocess.run(ask, check=True, capture_output=True, text=True, cwd="/").stdout == "42\n"
    subprocess.run([python, "-m", "pip", "uninstall", "-y", "-q", NAME], check=True, cwd="/", capture_output=True)
    assert subprocess.run(ask, check=False, capture_output=True, cwd="/").returncode
    assert not (site / NAME).exists()


def test_without_pip_the_wheel_is_named(module_dir, tmp_path, monkeypatch):
    wheel = build_wheel(module_dir, tmp_path / "dist", "0.1.0")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip"; exit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(BuildError, match=r"has no pip.*\.whl"):
        install_wheel(wheel)
