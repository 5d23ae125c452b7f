"""What kernels execute has a second opinion."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import pytest
import torch
from emulator_kernels import PTX, Flash

from direct_launch import launch
from kernelwright import emulator as emu
from kernelwright.build.kernels import build_kernels
from kernelwright.gen.ladder import default_schedule
from kernelwright.gen.spec import ForwardProblem, Variant
from second_opinion.cases import CASES

COVERED = {opcode for case in CASES for opcode in case.opcodes}
# Neither moves data nor computes: control, barriers and what predicates do; tests beside this folder are about them.
OTHERS = ("bar.*", "barrier.*", "bra", "bra.*", "ret", "exit", "*.pred", "membar.*", "fence.*", "trap", "nanosleep.*")


def uncovered(executed: Iterable[str]) -> list[str]:
    return sorted(
        one for one in executed if one not in COVERED and not any(fnmatchcase(one, pattern) for pattern in OTHERS)
    )


def test_all_that_the_flash_kernel_executes_is_covered():
    executed = Flash(1, 1, 1, 128, 128).launch(emu.load(PTX / "flash_fwd.ptx")).fidelity
    assert uncovered(executed) == []


@pytest.mark.nvcc
def test_all_that_default_kernels_execute_is_covered(tmp_path):
    problems = [
        ForwardProblem(dtype=dtype, head_dim=head_dim, is_causal=is_causal)
        for dtype, head_dim, is_causal in (
            ("fp16", 64, True),
            ("bf16", 40, False),
            ("fp16", 8, False),
            ("bf16", 128, True),
        )
    ]
    built = build_kernels([Variant(sm=80, problem=one, schedule=default_schedule(one)) for one in problems], tmp_path)
    executed: set[str] = set()
    for kernel in built:
        problem = kernel.variant.problem
        dtype = torch.float16 if problem.dtype == "fp16" else torch.bfloat16
        q, k, v = (torch.randn(1, 100, 2, problem.head_dim).to(dtype) for _ in range(3))
        executed |= set(launch(kernel.ptx.decode(), kernel.variant, q, k, v)[2].fidelity)
    assert {one.partition(".")[0] for one in executed} >= {"mma", "ldmatrix", "cp", "shfl", "ld", "st", "cvt"}
    assert uncovered(executed) == []
