"""The source archive and the wheel made from it hold all of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("gen", "build", "runtime", "emulator", "tuner", "templates", "configs")


def hatchling(folder: Path, kind: str, out: Path) -> Path:
    """Run the build backend itself: no index, no environment of its own."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    return made


def tracked() -> set[str]:
    """Every file of git's in the shipped folders, as it lies in the checkout."""
    done = subprocess.run(["git", "ls-files", "--", *SHIPPED], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return hatchling(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.2 has no filters yet
    shutil.unpack_archive(sdist, folder, **safely)
    (top,) = folder.iterdir()
    return top


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory) -> Path:
    return hatchling(unpacked, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_sdist_holds_every_tracked_file_of_the_shipped_folders(unpacked):
    assert sorted(name for name in tracked() if not (unpacked / name).is_file()) == []
    assert any((unpacked / "build").iterdir())


def test_the_sdist_holds_what_a_checkout_needs_to_set_itself_up_and_test_itself(unpacked):
    for name in ("Makefile", "scripts/bootstrap.py", "tests/conftest.py", "README.md", "LICENSE", "docs"):
        assert (unpacked / name).exists(), name


def test_nothing_generated_is_packed(unpacked):
    scratch = {".venv", "out", "__pycache__", ".git"}
    assert [path for path in unpacked.rglob("*") if path.name in scratch] == []


def test_a_wheel_made_from_the_sdist_holds_every_shipped_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert sorted(name for name in tracked() if f"kernelwright/{name}" not in packed) == []
    assert {"kernelwright/__init__.py", "kernelwright/py.typed"} <= packed
    assert {name.partition("/")[0] for name in packed} == {"kernelwright", "kernelwright-0.1.0.dist-info"}


def test_a_wheel_made_from_the_sdist_imports_with_all_its_sub_packages(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    packages = [name for name in SHIPPED if name not in ("templates", "configs")]
    code = f"""
import importlib, kernelwright
for name in {packages}:
    importlib.import_module("kernelwright." + name)
for name in ("templates", "configs", "runtime", "emulator"):
    folder = kernelwright.resource_dir(name)
    assert folder.is_dir() and folder.is_relative_to({str(tmp_path)!r}), folder
from kernelwright.gen import spec
assert spec.__file__.startswith({str(tmp_path)!r}), spec.__file__
"""
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_checkout_without_its_links_still_imports(unpacked):
    """A zip download on a system without symbolic links: `src/kernelwright` holds `__init__.py` alone."""
    assert not (unpacked / "src" / "kernelwright" / "gen").exists()
    code = "import kernelwright.gen.spec as s, kernelwright; kernelwright.resource_dir('configs'); print(s.__file__)"
    environ = os.environ | {"PYTHONPATH": str(unpacked / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(unpacked / "gen" / "spec.py")
