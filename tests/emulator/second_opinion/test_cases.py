"""Every case: the emulator's answer against the second opinion, on both instruction sets, on more inputs, on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from second_opinion.ask import complaint
from second_opinion.cases import BY_NAME, CASES, DISAGREES, NOT_YET, is_refused, known_disagreement
from second_opinion.harness import Case, disagreement, kernel_text, run

FOLDER = Path(__file__).resolve().parents[1]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
def test_the_emulator_agrees(case: Case):
    assert complaint(case) == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_emulator_agrees_on_more_inputs(seed):
    asked = [case for case in CASES if not known_disagreement(case)]  # how often one shows differs from seed to seed
    assert [one for case in asked if (one := complaint(case, seed=seed))] == []


def test_the_emulator_agrees_without_avx2():
    environment = os.environ | {"KERNELWRIGHT_EMULATOR_BASELINE": "1"}
    asked = subprocess.run(
        [sys.executable, "-m", "second_opinion.ask", "3"],
        cwd=FOLDER, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.stderr == ""
    assert asked.stdout.split("\n") == ["", f"{len(CASES)} cases asked", ""]


def test_names_are_unique_and_what_is_struck_out_exists():
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []
    patterns = [*NOT_YET, *DISAGREES]
    assert [one for one in patterns if not any(fnmatchcase(name, one) for name in BY_NAME)] == []
    assert [case.name for case in CASES if is_refused(case) and known_disagreement(case)] == []


@pytest.mark.parametrize(
    "name",
    [
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
        "shfl.sync.idx.b32",
        "fma.rn.f32",
        "ex2.approx.ftz.f32",
        "add.f16x2",
        "atom.shared.add.u64",
    ],
)
def test_a_wrong_bit_is_noticed(name):
    case = BY_NAME[name]
    given = case.given()
    got = run(case, given)
    assert disagreement(case, given, got) == ""
    got[6, 3, 0] ^= np.uint32(0x4000)  # of mma, the warp is of whole numbers
    assert "first in warp 6, lane 3, value 0" in disagreement(case, given, got)


@pytest.mark.nvcc
@pytest.mark.parametrize("sm", sorted({case.sm for case in CASES}))
def test_ptxas_takes_every_case(sm, tmp_path):
    """What the emulator refuses must not be refused for a slip of ours."""
    cases = [case for case in CASES if case.sm == sm]
    before = "\n".join(dict.fromkeys(case.before for case in cases))
    kernels = [kernel_text(case, case.given(1).shape[2], f"k{n}") for n, case in enumerate(cases)]
    source = tmp_path / "cases.ptx"
    source.write_text(f".version 9.0\n.target sm_{sm}\n.address_size 64\n{before}\n{''.join(kernels)}")
    ptxas = ["ptxas", "-O0", f"-arch=sm_{sm}", str(source), "-o", str(tmp_path / "cases.cubin")]
    done = subprocess.run(ptxas, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
