"""Running other projects' kernels: checkouts are told apart, and what a kernel does wrong is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import foreign_kernels
import numpy as np
import pytest
from foreign_kernels import CheckoutError, Row, as_table, find_checkouts, run_all
from foreign_recipes import CUTLASS, OTHERS, RECIPES, Recipe, Repository

from kernelwright.build.settings import read_settings
from kernelwright.build.toolchain import find_toolchain

SCALE = """
extern "C" __global__ void scale(float* x, float factor) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
#ifndef KW_RACE
    __syncthreads();
#endif
    x[threadIdx.x] = tile[threadIdx.x ^ 1] * factor;
}
"""


def checkout(folder: Path, repository: Repository, text: str = "") -> Path:
    path = folder / repository.known_by
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def test_each_project_is_known_by_its_file(tmp_path):
    paths = [checkout(tmp_path / str(n), one) for n, one in enumerate(OTHERS)]
    cutlass = checkout(tmp_path / "cutlass", CUTLASS)
    assert find_checkouts(cutlass, paths) == {CUTLASS: cutlass, **dict(zip(OTHERS, paths, strict=True))}


@pytest.mark.parametrize(
    ("cutlass", "other", "said"),
    [
        ("empty", None, "is no checkout of NVIDIA/cutlass: it has no include/cutlass"),
        (None, "missing", "there is no such folder"),
        (None, "empty", "is a checkout of none of these projects:\n  Dao-AILab/flash-attention, known by csrc/"),
    ],
)
def test_a_wrong_path_says_what_is_missing(tmp_path, cutlass, other, said):
    (tmp_path / "empty").mkdir()
    others = [tmp_path / other] if other else []
    with pytest.raises(CheckoutError, match=said.replace("(", r"\(")):
        find_checkouts(tmp_path / cutlass if cutlass else None, others)


@pytest.mark.parametrize(("options", "said"), [([], "at least one checkout"), (["--other", "no"], "no such folder")])
def test_the_command_without_a_usable_checkout_is_misused(options, said):
    script = Path(foreign_kernels.__file__)
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


def test_every_recipe_has_its_wrapper_and_a_name_of_its_own():
    assert len({one.name for one in RECIPES}) == len(RECIPES)
    assert {one.wrapper for one in RECIPES} == {path.name for path in foreign_kernels.WRAPPERS.glob("*.cu")}
    assert {one.repository for one in RECIPES} == {CUTLASS, *OTHERS}


@pytest.mark.nvcc
@pytest.mark.parametrize(
    ("defines", "factor", "verdict"),
    [
        ({}, 2.0, "right"),
        ({"KW_RACE": 1}, 2.0, "finding"),
        ({}, 3.0, "wrong"),
        ({"extern": "+"}, 2.0, "does not compile"),
    ],
)
def test_a_kernel_is_right_wrong_or_has_findings(tmp_path, monkeypatch, defines, factor, verdict):
    project = Repository(name="a/project", known_by="scale.cu")
    monkeypatch.setattr(foreign_kernels, "WRAPPERS", checkout(tmp_path, project, SCALE))

    def run(launch) -> float:
        x = np.arange(64, dtype=np.float32)
        expected = x.reshape(32, 2)[:, ::-1].ravel() * factor
        launch((1,), [x, np.float32(2)], block=(64,))
        return float(np.abs(x - expected).max())

    recipe = Recipe(
        name="scale",
        repository=project,
        wrapper="scale.cu",
        kernel="scale",
        exercises="a barrier",
        run=run,
        tolerance=0.0,
        defines=defines,
    )
    monkeypatch.setattr(foreign_kernels, "RECIPES", (recipe,))
    (row,) = run_all({project: tmp_path}, find_toolchain(read_settings()).nvcc)
    assert row.verdict.partition(":")[0] == verdict, row
    assert (row.commit, bool(row.findings)) == ("unknown", verdict == "finding")
    if verdict == "finding":
        assert any("at scale.cu:8" in one for one in row.findings)


def test_the_table_tells_what_could_not_run():
    row = Row(
        kernel="one", source="a/b", commit="0123456789abcdef", exercises="x", verdict="refused: no such instruction"
    )
    text = as_table([row])
    assert "| one | a/b 0123456789 | - | x | - | refused |" in text
    assert "**one**: refused: no such instruction" in text
