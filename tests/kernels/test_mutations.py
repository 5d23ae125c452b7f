"""Breaking our own kernels: waits, commits and barriers taken out of the PTX one at a time must be noticed.

Copies land as late as allowed, so every wait shows; what barriers order is followed by vector clocks.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kernelwright.emulator.launch import EmulatorError, load
from kernelwright.emulator.mutate import sync_mutants
from kernelwright.gen.cli import main
from kernelwright.gen.commands import emulated
from kernelwright.gen.commands.emulated import Kernel
from kernelwright.gen.commands.stress import (
    MutantResult,
    MutantsResult,
    Shipped,
    check_mutants,
    check_seeds,
    telling_cases,
)
from kernelwright.gen.redundant_syncs import redundant_syncs
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

pytestmark = pytest.mark.nvcc
RUNTIME = "kernelwright.runtime"
NUM_RING_CASES = 3  # of a kernel with one stage: 1, 2 and 3 tiles


def variant(
    num_stages: int,
    *,
    q_in_regs: bool,
    num_warps: int = 4,
    is_causal: bool = False,
    head_dim: int = 64,
    block_n: int = 32,
) -> Variant:
    return Variant(
        sm=80,
        problem=ForwardProblem(dtype="bf16", head_dim=head_dim, is_causal=is_causal),
        schedule=ForwardSchedule(
            block_m=64, block_n=block_n, num_warps=num_warps, num_stages=num_stages, q_in_regs=q_in_regs
        ),
    )


KERNELS = [
    variant(1, q_in_regs=False),
    variant(2, q_in_regs=False),
    variant(3, q_in_regs=True),
    variant(4, q_in_regs=False, is_causal=True),
    variant(1, q_in_regs=True, num_warps=1, is_causal=True),
    variant(1, q_in_regs=True, head_dim=80, block_n=64),  # O fits K's bytes, and each warp copies over its own Q
    variant(
        4, q_in_regs=True, block_n=96
    ),  # O fits the first slot of K, which is the last to be read in some rings only
]


@pytest.fixture(scope="module", params=KERNELS, ids=lambda one: one.name.partition("_w")[2])
def shipped(request, build) -> Shipped:
    built = build([request.param])[0]
    return Shipped(
        name=request.param.name, ptx=built.ptx.decode(), kernel=Kernel.of(request.param), variant=request.param
    )


@pytest.fixture(scope="module")
def mutants(shipped) -> MutantsResult:
    return check_mutants(shipped, telling_cases(RUNTIME, shipped.variant, 0))


def of(mutants: MutantsResult, name: str, change: str = "deleted") -> list[MutantResult]:
    found = [one for one in mutants.mutants if one.change == change and name in one.instruction]
    assert found or name == "bar.warp.sync", str(mutants)
    return found


def test_the_unbroken_kernel_gives_the_same_bits_under_every_order_of_warps(shipped):
    result = check_seeds(shipped, telling_cases(RUNTIME, shipped.variant, 0), 4)
    assert result.passed, str(result)
    assert result.launches == 4 * 4


@pytest.mark.parametrize("change", ["deleted", "weakened"])
def test_every_wait_taken_out_or_for_one_group_fewer_is_noticed(mutants, change):
    assert [str(one) for one in of(mutants, "cp.async.wait_group", change) if one.verdict != "caught"] == []


def test_every_block_barrier_taken_out_is_noticed_where_there_are_several_warps(shipped, mutants):
    unnoticed = [one for one in of(mutants, "bar.sync") if one.verdict != "caught"]
    if shipped.variant not in (KERNELS[4], KERNELS[5]):
        assert unnoticed == []
    # What orders a warp's ldmatrix before its own later accesses is listed as redundant, and nothing else.
    assert [one.verdict for one in unnoticed] == ["redundant"] * len(unnoticed), str(mutants)


def test_of_commits_and_warp_barriers_those_that_are_listed_pass_and_no_others(shipped, mutants):
    found = [one for name in ("commit_group", "bar.warp.sync") for one in of(mutants, name)]
    passing = [one for one in found if one.verdict != "caught"]
    # The __syncwarp() before O is staged over Q, which Q in registers has not.
    assert [one.verdict for one in passing] == [] if shipped.variant.schedule.q_in_regs else ["redundant"]


def test_whatever_is_listed_passes(shipped, mutants):
    """Else the list says more than is so."""
    passing = [one.how for one in mutants.mutants if one.verdict == "redundant"]
    assert sorted(passing) == sorted(one.reason for one in redundant_syncs(shipped.variant))


def test_verdicts_rest_on_clocks_and_not_on_how_results_come_out(shipped, mutants):
    """Many mutants compute the right bits when they are merely run; they are caught all the same."""
    case = telling_cases(RUNTIME, shipped.variant, 0)[0]
    inputs = (shipped.kernel, case.inputs, case.scalars)
    expected = emulated.launch(load(shipped.ptx), *inputs).bits
    lucky = []
    for mutant, result in zip(sync_mutants(shipped.ptx), mutants.mutants, strict=True):
        with suppress(EmulatorError):  # a deadlock, say
            if emulated.launch(load(mutant.ptx), *inputs, checks="none").bits == expected:
                lucky.append(result)
    assert len([one for one in lucky if one.verdict == "caught"]) >= 3, str(lucky)


def test_a_barrier_that_is_not_there_from_the_start_fails_the_kernel_itself(shipped):
    broken = replace(shipped, ptx=re.sub(r"\bbar\.sync\s+0;", "", shipped.ptx))
    cases = telling_cases(RUNTIME, shipped.variant, 0)
    assert "seed 0" in str(check_seeds(broken, cases, 1)) and not check_seeds(broken, cases, 1).passed
    result = check_mutants(broken, cases)
    assert not result.passed and "the unbroken kernel does not pass" in str(result)


def test_a_wait_that_nobody_needs_is_missed_unless_it_is_listed(shipped):
    """Each wait twice: either of the two is needless."""
    doubled = replace(shipped, ptx=re.sub(r"(cp\.async\.wait_group\s+\d+;)", r"\1 \1", shipped.ptx))
    result = check_mutants(doubled, telling_cases(RUNTIME, shipped.variant, 0))
    assert not result.passed
    assert {one.verdict for one in result.mutants if "wait_group" in one.instruction} == {"missed"}


def test_the_command_reports_seeds_and_every_mutant(every_head_dim, capsys):
    folder = Path(every_head_dim.__file__).parent
    name = next(one.stem for one in sorted((folder / "kernels").glob("*_qreg0.ptx")))
    options = ["--problems", "2", "--seeds", "2", "--mutate", "--json", "--variant", name]
    assert main(["verify", str(folder), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["seeds"] == [{"variant": name, "launches": NUM_RING_CASES * 2 + 4, "faults": [], "passed": True}]
    assert {one["verdict"] for one in report["mutants"][0]["mutants"]} == {"caught", "redundant"}
    assert main(["verify", str(folder), *options[:5], "--variant", name]) == 0
    text = capsys.readouterr().out
    assert f"{name}: {NUM_RING_CASES * 2 + 4} launches in random orders of warps" in text
    assert re.search(r"redundant PTX line \d+ `bar.warp.sync -1` deleted: it orders a warp's last ldmatrix", text)
