"""The verifier: the module's own check, on the emulator or on the GPU, for one kernel."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from datetime import date

from kernelwright.tuner.scratch import ScratchModule
from kernelwright.tuner.work import Compiled, Verdict

_PROBLEMS = 6
"""Of the check's list, which starts with those that find most faults; a build's own check runs more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleVerifier:
    """Compares a kernel with the float64 reference on small problems, through the module that launches it."""

    scratch: ScratchModule
    on_gpu: bool
    num_problems: int = _PROBLEMS

    def verify(self, compiled: Compiled) -> Verdict:
        with self.scratch.holding(compiled) as module, warnings.catch_warnings():
            warnings.simplefilter("ignore", module.EmulationWarning)  # that it is an emulator is what we want
            check = importlib.import_module(f"{module.__name__}._runtime.check")
            result = check.check_module(
                module,
                self.num_problems,
                device="cuda" if self.on_gpu else "cpu",
                seed=0,
                variants=[compiled.variant.name],
            )
        (one,) = result.variants
        if one.skipped:
            return Verdict(status="launch", detail=one.skipped)
        fault = next((problem for problem in one.results if problem.fault), None)
        if fault is not None:
            ran = fault.verdict is not None
            return Verdict(status="wrong" if ran else "launch", detail=f"{fault.problem}: {fault.fault}")
        record = {"by": result.by, "date": date.today().isoformat(), "problems": len(one.results)}
        return Verdict(status="ok", record=record)
