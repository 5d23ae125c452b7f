"""Check every kernel of a module against the float64 reference, on the emulator or on a GPU.

Forward kernels by calls, each of the backward pass by itself (`backward_check.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType

import torch

from .attention import FLAGS
from .backward_check import check_backward, place_of
from .devices import DeviceKey
from .errors import KernelError, NoKernelError, UnsupportedInputError
from .gate import Verdict, judge
from .inputs import check
from .module import DispatchModule
from .problems import TORCH_DTYPES, Problem, describe_coverage, guarded, make_inputs, problems_for
from .reference import Attended
from .routes import FORWARD
from .support import device_key
from .table import KernelRecord

__all__ = ["CheckResult", "ProblemResult", "VariantResult", "Verdict", "check_module", "check_problem", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemResult:
    """One problem on one kernel. `fault` "" means passed; `verdict` is None when nothing could be compared."""

    problem: Problem
    verdict: Verdict | None
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """All problems on one kernel; `skipped` says why it cannot run on the device."""

    variant: str
    results: tuple[ProblemResult, ...]
    skipped: str = ""

    @property
    def passed(self) -> bool:
        return not any(result.fault for result in self.results)

    def __str__(self) -> str:
        if self.skipped:
            return f"skipped {self.variant}: {self.skipped}"
        faults = [f"\n    {result.problem}: {result.fault}" for result in self.results if result.fault]
        verdicts = [result.verdict for result in self.results if result.verdict]
        worst = max((max(one.row_margin, one.tensor_margin) for one in verdicts), default=float("nan"))
        head = f"{'passed ' if self.passed else 'FAILED '} {self.variant}"
        return f"{head}: {len(self.results)} problems, worst error {worst:.2f} of what is allowed{''.join(faults)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The check of a module. `by` is what computed: "emulator", or the GPU's name."""

    module: str
    by: str
    seed: int
    variants: tuple[VariantResult, ...]

    @property
    def passed(self) -> bool:
        """Whether something was checked and nothing failed."""
        checked = [one for one in self.variants if not one.skipped]
        return bool(checked) and all(one.passed for one in checked)

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        checked = [one for one in self.variants if not one.skipped]
        failed = sum(not one.passed for one in checked)
        lines = [str(one) for one in self.variants]
        lines.append(describe_coverage([result.problem for one in self.variants for result in one.results]))
        lines.append(f"{self.module} on {self.by}: {len(checked)} kernels checked, {failed} failed")
        return "\n".join(lines)


def check_module(
    module: ModuleType | DispatchModule,
    problems: int = 12,
    *,
    device: object = None,
    seed: int = 0,
    variants: Sequence[str] | None = None,
    only_random: bool = False,
    progress: Callable[[str], None] | None = None,
) -> CheckResult:
    """Run each kernel on its own problems and compare, with the checker that the module ships.

    Args:
        module: an imported dispatch module.
        problems: how many per kernel.
        device: as torch takes it; None is the GPU if there is one, else the CPU (the emulator).
        seed: of the inputs; equal seeds give equal inputs on every device.
        variants: names of kernels; None is all.
        only_random: leave out the fixed problems that each kernel otherwise gets first.
        progress: called with a line per kernel.

    Raises:
        NoKernelError: if a named variant is not in the module.
        DriverError: if the device cannot be used.
        UnsupportedInputError: if `problems` is less than 1, or the device is neither a GPU nor the CPU.
    """
    if problems < 1:
        raise UnsupportedInputError(f"problems must be at least 1, got {problems}: nothing would be checked.")
    dispatch = module._module if isinstance(module, ModuleType) else module
    if not isinstance(dispatch, DispatchModule):  # of another copy of this run time, whose classes are its own
        shipped = importlib.import_module(".check", type(dispatch).__module__.rpartition(".")[0])
        result: CheckResult = shipped.check_module(
            dispatch, problems, device=device, seed=seed, variants=variants, progress=progress
        )
        return result
    engine = dispatch.engine
    key = device_key(device)
    opened = engine.device(key)
    records = {name: one for table in reversed(engine.tables()) for name, one in table.kernels.items()}
    names = sorted(records) if variants is None else list(variants)
    results = []
    for index, name in enumerate(names):
        if name not in records:
            raise NoKernelError(f"{engine.package} holds no variant {name}; it holds: {', '.join(sorted(records))}")
        with dispatch.force_variant(name), dispatch.attention.without_warning():
            record = records[name]
            chosen = problems_for(
                whole_problem(record), record.schedule, problems, seed + index, only_random=only_random
            )
            reason = next(
                (one.why_illegal for one in engine.route(key, record.operation).choices if one.why_illegal), ""
            )
            found = () if reason else check_problems(dispatch, record, chosen, seed, key)
        results.append(VariantResult(variant=name, results=found, skipped=reason))
        if progress:
            progress(str(results[-1]))
    by = "emulator" if opened.is_emulated else opened.facts.title
    return CheckResult(module=engine.package, by=by, seed=seed, variants=tuple(results))


def whole_problem(record: KernelRecord) -> dict[str, object]:
    """Return what a kernel computes with every field of a problem; what its operation does not depend on is plain."""
    known = dict(record.problem)
    head_dim = known.get("head_dim", known.get("head_dim_v"))
    return {**dict.fromkeys(FLAGS, False), "head_dim": head_dim, "head_dim_v": head_dim, **known}


def check_problems(
    dispatch: DispatchModule, record: KernelRecord, chosen: Sequence[Problem], seed: int, key: DeviceKey
) -> tuple[ProblemResult, ...]:
    """Check problems on a kernel that answers calls, as under `force_variant`; the first gets `seed`."""
    block_n = int(str(record.schedule.get("block_n", 64)))
    found = []
    for index, problem in enumerate(chosen):
        place = {"block_n": block_n, "seed": seed + index}
        if record.operation == FORWARD:
            found.append(check_problem(dispatch, problem, device=place_of(key), **place))
        else:
            verdict, fault = check_backward(dispatch.engine, key, record, problem, **place)
            found.append(ProblemResult(problem=problem, verdict=verdict, fault=fault))
    return tuple(found)


def check_problem(
    dispatch: DispatchModule, problem: Problem, *, block_n: int, seed: int, device: torch.device
) -> ProblemResult:
    """Compute one problem with whatever the module chooses, and compare; see `gate` for what passes."""
    visibility = dispatch.engine.binding.visibility
    inputs = make_inputs(problem, block_n, seed, device, visibility)
    with torch.no_grad():
        request = check(inputs.q, inputs.k, inputs.v, inputs.options)
    out = guarded(request.out_shape, TORCH_DTYPES[problem.dtype], device, problem.layout)
    lse = guarded(request.lse_shape, torch.float32, device)
    written = out.tensor if inputs.options.sequences is None else out.tensor.squeeze(0)
    try:
        with torch.no_grad():
            dispatch.attention.attend(inputs.q, inputs.k, inputs.v, inputs.options, True, written, lse.tensor)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except (KernelError, RuntimeError) as error:
        return ProblemResult(problem=problem, verdict=None, fault=f"{type(error).__name__}: {error}")
    mask = inputs.options.block_mask
    attended = Attended(request.q, request.k, request.v, request.softmax_scale, request.lowered, visibility, mask)
    verdict = judge(out.tensor, lse.tensor, attended)
    faults = [verdict.fault] if verdict.fault else []
    if not out.is_intact():
        faults.append("memory beside out was written")
    if not lse.is_intact():
        faults.append("memory beside lse was written")
    return ProblemResult(problem=problem, verdict=verdict, fault="; ".join(faults))
