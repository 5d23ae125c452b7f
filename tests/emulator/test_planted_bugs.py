"""Kernels with one line wrong are found, by the line; the same kernels without the mistake never are.

On the checked-in PTX everywhere, and where there is nvcc on what it makes of the sources now.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
from planted_bugs import FOLDER, PLANTED, Planted, first_finding, table

from kernelwright import emulator as emu

NUM_ORDERS = 200
NUM_BUG_ORDERS = 80  # the rarest finding of a mark takes 50
every_planted_bug = pytest.mark.parametrize("planted", PLANTED, ids=lambda one: one.name)


@pytest.fixture(scope="module", params=["checked-in", pytest.param("compiled", marks=pytest.mark.nvcc)])
def modules(request, tmp_path_factory) -> dict[tuple[str, bool], emu.Module]:
    """Module of each kernel by name and whether it is the wrong one."""
    if request.param == "checked-in":
        return {(one.name, bug): emu.load(one.ptx(bug=bug)) for one in PLANTED for bug in (False, True)}
    folder = tmp_path_factory.mktemp("planted")
    compiled = {bug: emu.load(_compiled(folder, bug=bug)) for bug in (False, True)}
    return {(one.name, bug): compiled[bug] for one in PLANTED for bug in (False, True)}


def _compiled(folder: Path, *, bug: bool) -> Path:
    """All kernels in one text, which nvcc makes faster than each alone."""
    source, out = folder / "all.cu", folder / f"all_{int(bug)}.ptx"
    source.write_text("".join(f'namespace {one.name} {{\n#include "{one.source}"\n}}\n' for one in PLANTED))
    flags = ["-DBUG"] if bug else []
    subprocess.run(["nvcc", "-ptx", "-arch=sm_80", "-O3", "-lineinfo", *flags, str(source), "-o", str(out)], check=True)
    return out


def test_every_source_is_launched_and_its_ptx_is_of_this_source():
    assert sorted(path.stem for path in FOLDER.glob("*.cu")) == sorted(one.name for one in PLANTED)
    sums = dict(reversed(line.split()) for line in (FOLDER / "ptx" / "SHA256SUMS").read_text().splitlines())
    sources = sorted([*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")])
    assert {name.removeprefix("./"): digest for name, digest in sums.items()} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources
    }, "run tests/emulator/bugs/make_ptx.sh"


@every_planted_bug
def test_one_line_is_marked_as_planted_and_holds_both_versions(planted):
    lines = [line for line in planted.source.read_text().splitlines() if "// planted" in line]
    assert len(lines) == 1 and planted.source.read_text().count("PLANT(") == 1
    assert "PLANT(" in lines[0]
    assert planted.marks()


@every_planted_bug
def test_the_correct_kernel_is_right_and_clean_under_every_order_of_warps(modules, planted):
    module = modules[planted.name, False]
    for make in (*planted.problems, *planted.few_problems):
        for seed in range(NUM_ORDERS + 1):
            problem = make()
            assert planted.launch(module, problem, seed=seed).findings == []
            assert np.array_equal(problem.out, problem.expected), f"seed {seed}"


@every_planted_bug
def test_the_wrong_kernel_is_found_at_a_marked_line_under_every_order_of_warps(modules, planted):
    marks = planted.marks()
    unseen = {(mark.line, kind) for mark in marks for kind in mark.kinds}
    expected = frozenset(unseen)
    for make in planted.problems:
        for seed in range(NUM_BUG_ORDERS + 1):
            found = first_finding(planted, modules[planted.name, True], make(), seed=seed)
            assert found is not None, f"seed {seed}"
            assert (found.cuda_line, found.kind) in expected, f"seed {seed}: {found}"
            assert Path(found.cuda_file).name == planted.source.name
            assert next(mark for mark in marks if mark.line == found.cuda_line).words in found.text
            unseen.discard((found.cuda_line, found.kind))
    assert not unseen, "never found: a mark that says too much"


def test_the_document_says_what_a_run_without_checks_makes_of_each(repository):
    assert table() in (repository / "docs" / "emulator.md").read_text()


def test_a_ring_of_few_tiles_hides_the_early_reuse():
    """Why the shapes of every check of a ring go beyond its stages."""
    planted: Planted = next(one for one in PLANTED if one.name == "ring_reuse_early")
    module = emu.load(planted.ptx(bug=True))
    few = [first_finding(planted, module, make()) for make in planted.few_problems]
    assert few and few == [None] * len(few)
