"""Breaking our own kernels: waits and barriers taken out of the PTX one at a time must be noticed.

Copies land as late as allowed, so every wait shows; what barriers order is followed by vector clocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch

from direct_launch import launch
from kernelwright.emulator.launch import EmulatorError
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

pytestmark = pytest.mark.nvcc

WAIT = re.compile(r"cp\.async\.wait_group\s+(\d+);")
BARRIER = re.compile(r"^\s*(?:bar|barrier)\.(?:cta\.|warp\.)?sync.*;", re.MULTILINE)


def variant(num_stages: int, *, q_in_regs: bool) -> Variant:
    return Variant(
        sm=80,
        problem=ForwardProblem(dtype="bf16", head_dim=64, is_causal=False),
        schedule=ForwardSchedule(block_m=64, block_n=32, num_warps=4, num_stages=num_stages, q_in_regs=q_in_regs),
    )


KERNELS = [variant(1, q_in_regs=False), variant(2, q_in_regs=False), variant(3, q_in_regs=True)]


def mutants(ptx: str, pattern: re.Pattern[str]) -> list[str]:
    """The PTX without one of the instructions that match, for each."""
    return [ptx[: match.start()] + ptx[match.end() :] for match in pattern.finditer(ptx)]


@dataclass(frozen=True, kw_only=True)
class Original:
    """A kernel as it ships, and what it computes."""

    variant: Variant
    ptx: str
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    out: torch.Tensor

    def notices(self, ptx: str) -> bool:
        """Whether a launch of other PTX stops with a finding, or gives another result, under some order of warps."""
        for seed in range(4):
            try:
                out, _, _ = launch(ptx, self.variant, *self.inputs, seed=seed, max_instructions=10_000_000)
            except EmulatorError:
                return True
            if not torch.equal(out, self.out):
                return True
        return False


@pytest.fixture(params=KERNELS, ids=lambda one: f"stages{one.schedule.num_stages}")
def original(request, build) -> Original:
    ptx = build([request.param])[0].ptx.decode()
    torch.manual_seed(0)
    # More tiles than any ring, and a partial one.
    q, k, v = (torch.randn(1, 7 * 32 + 5, 1, 64).to(torch.bfloat16) for _ in range(3))
    out, _, _ = launch(ptx, request.param, q, k, v)
    return Original(variant=request.param, ptx=ptx, inputs=(q, k, v), out=out)


def test_the_unbroken_kernel_is_clean(original):
    assert not original.notices(original.ptx)


def test_every_wait_taken_out_is_noticed(original):
    broken = mutants(original.ptx, WAIT)
    assert broken
    assert [index for index, ptx in enumerate(broken) if not original.notices(ptx)] == []


def test_every_wait_for_one_group_fewer_is_noticed(original):
    for match in WAIT.finditer(original.ptx):
        weaker = f"cp.async.wait_group {int(match[1]) + 1};"
        ptx = original.ptx[: match.start()] + weaker + original.ptx[match.end() :]
        assert original.notices(ptx), match[0]


def test_every_barrier_taken_out_is_noticed(original):
    broken = mutants(original.ptx, BARRIER)
    survivors = [index for index, ptx in enumerate(broken) if not original.notices(ptx)]
    # One is redundant by the clocks, and the template says why it stays: the __syncwarp() between a warp's last
    # ldmatrix of its Q rows and its stores of O over them. ldmatrix is one instruction of the whole warp.
    redundant = 0 if original.variant.schedule.q_in_regs else 1
    assert len(survivors) == redundant, survivors
    assert all("bar.warp.sync" in BARRIER.findall(original.ptx)[index] for index in survivors)
