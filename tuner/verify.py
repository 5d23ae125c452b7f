"""The verifier: the module's own check, on the emulator or on the GPU, for one kernel."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from kernelwright.tuner.scratch import ScratchModule
from kernelwright.tuner.work import Compiled, Verdict

_PROBLEMS = 6
"""Of the check's list, which starts with the short, odd and empty ones that find most faults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleVerifier:
    """Compares a kernel with the float64 reference on small problems, through the module that launches it."""

    scratch: ScratchModule
    on_gpu: bool
    num_problems: int = _PROBLEMS

    def verify(self, compiled: Compiled) -> Verdict:
        with self.scratch.holding(compiled) as module:
            check = importlib.import_module(f"{module.__name__}._runtime.check")
            result = check.check_module(
                module._module,
                num_problems=self.num_problems,
                device="cuda" if self.on_gpu else "cpu",
                seed=0,
                variants=[compiled.variant.name],
            )
        if not result.passed:
            return Verdict(status="wrong", detail=str(result))
        return Verdict(status="ok", record={})
