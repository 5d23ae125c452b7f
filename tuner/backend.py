"""The real compiler, verifier and scorer behind the seam of `work.py`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from kernelwright.build.launcher import emulator_library
from kernelwright.gen.spec import Variant
from kernelwright.tuner.compile import NinjaCompiler
from kernelwright.tuner.isolation import Limits
from kernelwright.tuner.model import MODEL_VERSION
from kernelwright.tuner.results import Label
from kernelwright.tuner.score import ModelScorer
from kernelwright.tuner.scratch import ScratchModule, make_scratch
from kernelwright.tuner.target import Target
from kernelwright.tuner.tune import Request
from kernelwright.tuner.verify import ModuleVerifier
from kernelwright.tuner.work import Scorer, Timer, Work, is_fault
from kernelwright.tuner.workers import WorkerProcesses

LIMITS = Limits(start_s=120.0, job_s=300.0)
"""Of judging a kernel, which takes seconds; what takes minutes hangs."""

_GPU_STAGE_S = 60.0  # of the check, or of all launches on one shape, which take a second or two


def scorer_version(label: Label) -> str:
    """Return the version of what makes the figures."""
    if label == "modelled":
        return f"model {MODEL_VERSION}"
    from kernelwright.tuner.measure import MEASURE_VERSION

    return f"CUDA events or graphs {MEASURE_VERSION}"


def make_work(request: Request, target: Target, compiler: NinjaCompiler, first: Variant) -> Work:
    """Return the work for a target: kernels are verified where they are scored, in the emulator or on the GPU.

    Raises:
        BuildError: if the module that launches them cannot be built.
    """
    on_gpu = target.label == "measured"
    scratch = make_scratch(
        compiler.out, first, target.device, emulator=None if on_gpu else emulator_library(), jobs=compiler.jobs
    )
    num_workers = 1 if on_gpu else request.jobs  # one process a GPU: nobody disturbs a measurement
    workers = WorkerProcesses(
        num_workers,
        limits=replace(LIMITS, stage_s=_GPU_STAGE_S) if on_gpu else LIMITS,
        device=target.gpu.name if target.gpu else "the emulator",
        probe=_gpu_answers if on_gpu else None,
        spoils=is_fault if on_gpu else lambda _: False,
    )
    scorer, timer = _scorer(request, target, scratch)
    return Work(
        compiler=replace(compiler, jobs=1, by_thread=True),
        verifier=ModuleVerifier(scratch=scratch, on_gpu=on_gpu),
        scorer=scorer,
        timer=timer,
        compiling=ThreadPoolExecutor(request.jobs, thread_name_prefix="compile"),
        compilers=request.jobs,
        judging=workers,
        judges=num_workers,
        timeout_s=2 * (LIMITS.start_s + LIMITS.job_s),
        restart=workers.restart,
    )


def _gpu_answers() -> None:
    from kernelwright.tuner.measure import require_gpu_answers

    require_gpu_answers()


def _scorer(request: Request, target: Target, scratch: ScratchModule) -> tuple[Scorer, Timer | None]:
    if target.label == "modelled":
        return ModelScorer(device=target.device, shapes=request.space.shapes), None
    from kernelwright.tuner.measure import GpuScorer

    scorer = GpuScorer(scratch=scratch, shapes=request.space.shapes)
    return scorer, scorer
